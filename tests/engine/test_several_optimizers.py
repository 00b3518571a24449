"""Hooks of runs with several optimizers, as for adversarial training."""

import pytest
import torch
from mmengine.optim import OptimWrapperDict, build_optim_wrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from mmfixnorm.errors import ConfigError

SGD = dict(type='SGD', lr=0.5)
FIXED = dict(type='FixNormOptimWrapper', constructor='FixNormOptimWrapperConstructor', optimizer=SGD)
PLAIN = dict(type='OptimWrapper', optimizer=SGD)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module(force=True)
class TwoOptimizers:
    def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
        self.cfg = optim_wrapper_cfg

    def __call__(self, model):
        return OptimWrapperDict(**{k: build_optim_wrapper(model.get_submodule(k), cfg) for k, cfg in self.cfg.items()})


@pytest.fixture
def two_runner(toy_runner, toy_classifier):
    def build(backbone, hooks, work_dir='run'):
        model = toy_classifier()

        def train_step(data, optim_wrapper):
            loss = model(**model.data_preprocessor(data, True), mode='loss')['loss']
            loss.backward()
            for wrapper in optim_wrapper.values():
                wrapper.step()
                wrapper.zero_grad()
            return dict(loss=loss)

        model.train_step = train_step
        wrapper = dict(constructor='TwoOptimizers', backbone=backbone, head=FIXED)
        runner = toy_runner(work_dir, wrapper=wrapper, model=model, val=True, custom_hooks=hooks)
        runner.optim_wrapper.pop('optimizer', None)
        return runner

    return build


def norm(tensors):
    return torch.cat([t.detach().double().flatten() for t in tensors]).norm().item()


def convs(model):
    return [m.weight for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]


def test_each_set_is_averaged_to_its_own_target(two_runner):
    runner = two_runner(FIXED, [dict(type='FixNormEMAHook', momentum=0.5)])
    seen = []
    val = runner.model.val_step

    def val_step(data):
        seen.append([norm(convs(part)) for part in (runner.model.backbone, runner.model.head)])
        return val(data)

    runner.model.val_step = val_step
    runner.train()
    targets = [w.norm_fixer.target for w in runner.optim_wrapper.values()]
    assert seen
    assert all(row == pytest.approx(targets, rel=1e-6) for row in seen)
    state = torch.load(f'{runner.work_dir}/epoch_2.pth', weights_only=False)
    names = [n for n, p in runner.model.named_parameters() if any(p is w for w in convs(runner.model.backbone))]
    assert norm([state['state_dict'][n] for n in names]) == pytest.approx(targets[0], rel=1e-6)
    assert norm([state['fix_norm_ema']['averages'][n] for n in names]) < 0.999 * targets[0]


@pytest.mark.parametrize(
    'hook, message',
    [
        ('FixNormHook', "norm fixing is set up twice: .* optim_wrapper.type='OptimWrapperDict'"),
        ('WeightNormLoggerHook', 'this hook needs one optimizer, got OptimWrapperDict'),
    ],
)
def test_a_hook_for_one_optimizer_is_refused_by_name(two_runner, hook, message):
    runner = two_runner(PLAIN, [dict(type=hook)])
    with pytest.raises(ConfigError, match=message):
        runner.train()
