"""Trains under ways of distribution and saves the whole weights of each: ``distributed_program.py OUT REGIME...``."""

import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from gloo import leave_group
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy
from toy import SGD, batches, data_of, net, start_of, wrap

from mmfixnorm.core import fix_norm, norm_fixing_parameters
from mmfixnorm.core.angles import StepMeter, joint_cosine
from mmfixnorm.core.membership import FLAG, WAITING, places
from mmfixnorm.core.sharding import local_part


def step_by_wrapper(model, chunk, wrapper):
    loss = model(**data_of(chunk), mode='loss')['loss']
    wrapper.update_params(loss)


def step_by_optimizer(model, chunk, optimizer):
    optimizer.zero_grad()
    model(**data_of(chunk), mode='loss')['loss'].backward()
    optimizer.step()


def sgd(params):
    return torch.optim.SGD(params, lr=0.5, momentum=0.9, nesterov=True)


def whole(model):
    return {name: p.full_tensor() if hasattr(p, 'full_tensor') else p.detach() for name, p in model.named_parameters()}


def angle_of(regime):
    """The arguments for steps of a given angle, and the learning rate."""
    return (dict(update='angle'), 0.05) if regime.startswith('angle') else ({}, 0.5)


def wrapper_of(model, regime):
    arguments, lr = angle_of(regime)
    return wrap(model, SGD | dict(lr=lr), **arguments)


def ddp(regime):
    from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm

    plain = net(seed=dist.get_rank())  # DDP hands out the weights of rank 0
    if regime == 'syncbn':
        plain = revert_sync_batchnorm(nn.SyncBatchNorm.convert_sync_batchnorm(plain)).double()
    model = MMDistributedDataParallel(plain)
    wrapper = wrapper_of(model, regime)
    return (
        lambda chunk: model.train_step(data_of(chunk), wrapper),
        lambda: start_of(plain),
        wrapper.norm_fixer,
        plain.backbone[0].weight,
        wrapper.optimizer,
    )


def fsdp(regime):
    strategy = dict(
        fsdp='FULL_SHARD', fsdp_grad_op='SHARD_GRAD_OP', fsdp_hybrid='HYBRID_SHARD', fsdp_no_shard='NO_SHARD'
    ).get(regime, 'FULL_SHARD')
    options = dict(
        sharding_strategy=ShardingStrategy[strategy],
        use_orig_params=regime != 'fsdp_flat',
        device_id=torch.device('cpu'),
    )
    if strategy == 'HYBRID_SHARD':
        options['device_mesh'] = dist.init_device_mesh('cpu', (1, 2), mesh_dim_names=('replicate', 'shard'))
    plain = net()
    plain.backbone = FullyShardedDataParallel(plain.backbone, **options)  # two units, and so two flat parameters
    model = FullyShardedDataParallel(plain, **options)
    wrapper = wrapper_of(model, regime)

    def weights():
        with FullyShardedDataParallel.summon_full_params(model):
            return {n.replace('_fsdp_wrapped_module.', ''): p.clone() for n, p in start_of(model).items()}

    return (
        lambda chunk: step_by_wrapper(model, chunk, wrapper),
        weights,
        wrapper.norm_fixer,
        plain.backbone[0].weight,
        wrapper.optimizer,
    )


def fsdp2(regime):
    from torch.distributed.fsdp import fully_shard

    shape, names = ((2, 1), ('replicate', 'shard')) if regime == 'fsdp2_replicated' else ((2,), ('shard',))
    mesh = dist.init_device_mesh('cpu', shape, mesh_dim_names=names)
    model = net()
    fully_shard(model.backbone, mesh=mesh)
    fully_shard(model, mesh=mesh)
    arguments, lr = angle_of(regime)
    in_set = norm_fixing_parameters(model).values()
    others = [p for p in model.parameters() if not any(p is weight for weight in in_set)]
    groups = [dict(params=[*in_set], lr=lr), dict(params=others, lr=20 * lr if arguments else lr)]
    optimizer = sgd(groups)
    norm_fixer = fix_norm(optimizer, model=model, **arguments)
    return (
        lambda chunk: step_by_optimizer(model, chunk, optimizer),
        lambda: whole(model),
        norm_fixer,
        model.backbone[0].weight,
        optimizer,
    )


def train(regime):
    builder = next(build for name, build in BUILDERS.items() if regime.removeprefix('angle_').startswith(name))
    rank, world = dist.get_rank(), dist.get_world_size()
    try:
        step, weights, norm_fixer, first, optimizer = builder(regime)
        meter, angles = StepMeter(), []
        history = [{name: tensor.clone() for name, tensor in weights().items()}]
        meter.install(optimizer, [norm_fixer])
        in_set = [*places(optimizer, FLAG, WAITING).values()]
        start = [local_part(tensor).clone() for tensor in in_set]
        for number, (x, y) in enumerate(batches()):
            if regime.endswith('thawed'):
                first.requires_grad_(number >= 3)
            meter.arm(in_set)
            step((x.chunk(world)[rank], y.chunk(world)[rank]))
            angles.append(meter.read()._asdict())
            history.append({name: tensor.clone() for name, tensor in weights().items()})
        cosine = joint_cosine(in_set, start).item()
        return dict(weights=history[-1], state=norm_fixer.state_dict(), history=history, angles=angles, cosine=cosine)
    except ValueError as err:
        return dict(error=str(err))


def main(out, *regimes):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', timeout=timedelta(seconds=120))
    for regime in regimes:
        torch.save(train(regime), f'{out}/{regime}_{dist.get_rank()}.pth')
        dist.barrier()
    leave_group()


BUILDERS = {'ddp': ddp, 'syncbn': ddp, 'fsdp2': fsdp2, 'fsdp': fsdp}

if __name__ == '__main__':
    main(*sys.argv[1:])
