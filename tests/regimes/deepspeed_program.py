"""Trains under DeepSpeed ZeRO, as distributed_program.py does otherwise: ``deepspeed_program.py OUT REGIME...``."""

import sys
import tempfile

import deepspeed
import torch.distributed as dist
from distributed_program import BUILDERS, main, sgd
from toy import data_of, net, start_of

from mmfixnorm.core import fix_norm, norm_fixing_parameters


def engine_of(stage, groups=2, lr=0.5, **arguments):
    model = net().float()  # ZeRO's own copy is in float32
    in_set = [*norm_fixing_parameters(model).values()]
    others = [p for p in model.parameters() if not any(p is weight for weight in in_set)]
    params = [dict(params=others), dict(params=in_set)] if groups == 2 else [dict(params=[*others, *in_set])]
    params[0]['lr'], params[-1]['lr'] = 20 * lr if arguments else lr, lr
    config = dict(
        train_micro_batch_size_per_gpu=4,
        zero_optimization=dict(stage=stage),
        zero_allow_untested_optimizer=True,
        gradient_clipping=0.0,  # 1.0 by default
    )
    engine, *_ = deepspeed.initialize(model=model, optimizer=sgd(params), config=config)
    return engine, fix_norm(engine.optimizer, model=engine.module, **arguments)


def step(engine, chunk):
    engine.backward(engine(**data_of((chunk[0].float(), chunk[1])), mode='loss')['loss'])
    engine.step()


def zero(regime):
    options = dict(groups=1 if 'mixed' in regime else 2)
    if regime.startswith('angle'):
        options = dict(lr=0.05, update='angle', per='layer' if 'layer' in regime else 'set')
    engine, norm_fixer = engine_of(stage=int(regime[-1]), **options)
    return lambda chunk: step(engine, chunk), lambda: start_of(engine.module), norm_fixer


def resumed(regime):
    """Goes on in a new engine after the third step."""
    engine, norm_fixer = engine_of(stage=1)
    steps = 0

    def step_and_resume(chunk):
        nonlocal engine, steps
        step(engine, chunk)
        steps += 1
        if steps == 3:
            folder = [tempfile.mkdtemp()]
            dist.broadcast_object_list(folder)
            engine.save_checkpoint(folder[0])
            engine, new_fixer = engine_of(stage=1)
            engine.load_checkpoint(folder[0])
            new_fixer.load_state_dict(norm_fixer.state_dict(), engine.optimizer.optimizer)

    return step_and_resume, lambda: start_of(engine.module), norm_fixer


if __name__ == '__main__':
    BUILDERS.update(zero=zero, resumed=resumed)
    main(*sys.argv[1:])
