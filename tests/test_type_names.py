"""One name for a type, however the config writes it; the classes themselves are the oracle."""

import subprocess
import sys

import pytest
from mmengine.config.lazy import LazyObject
from mmengine.hooks import EMAHook
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, MODELS, OPTIM_WRAPPERS, WEIGHT_INITIALIZERS
from torch import nn

import mmfixnorm.engine  # noqa: F401  # registers
from mmfixnorm.engine import FixNormOptimWrapper, WeightNormLoggerHook
from mmfixnorm.type_names import type_name


class OwnHook(EMAHook):
    """A class of another package with the name of a stock one."""


OwnHook.__name__ = OwnHook.__qualname__ = 'EMAHook'
OwnHook.__module__ = 'project.hooks'


@pytest.mark.parametrize(
    'kind, name',
    [
        ('EMAHook', 'EMAHook'),
        ('mmengine.EMAHook', 'EMAHook'),
        ('mmengine.hooks.EMAHook', 'EMAHook'),
        (EMAHook, 'EMAHook'),
        (LazyObject('mmengine.hooks', 'EMAHook'), 'EMAHook'),
        ('project.hooks.EMAHook', 'project.hooks.EMAHook'),
        (OwnHook, 'project.hooks.EMAHook'),
        ('mmdet.RetinaHead', 'RetinaHead'),
        ('mmfixnorm.engine.FixNormOptimWrapper', 'FixNormOptimWrapper'),
    ],
)
def test_a_type_has_one_name_by_its_text(kind, name) -> None:
    assert type_name(kind) == name


@pytest.mark.parametrize(
    'kind, registry, name',
    [
        ('OptimWrapper', OPTIM_WRAPPERS, 'OptimWrapper'),
        ('mmengine.OptimWrapper', OPTIM_WRAPPERS, 'OptimWrapper'),
        (OptimWrapper, OPTIM_WRAPPERS, 'OptimWrapper'),
        (FixNormOptimWrapper, OPTIM_WRAPPERS, 'FixNormOptimWrapper'),
        # Aliases, which no text shows.
        ('WeightNormHook', HOOKS, 'WeightNormLoggerHook'),
        (WeightNormLoggerHook, HOOKS, 'WeightNormLoggerHook'),
        ('PretrainedInit', WEIGHT_INITIALIZERS, 'PretrainedInit'),
        ('mmengine.Pretrained', WEIGHT_INITIALIZERS, 'Pretrained'),
        (OwnHook, HOOKS, 'project.hooks.EMAHook'),
        # Of a package that is not installed.
        ('nowhere.EMAHook', HOOKS, 'nowhere.EMAHook'),
        ('NoSuchHook', HOOKS, 'NoSuchHook'),
    ],
)
def test_the_registry_knows_scopes_and_aliases(kind, registry, name) -> None:
    assert type_name(kind, registry) == name


def test_a_class_registered_over_a_stock_name_is_not_stock() -> None:
    stock = HOOKS.module_dict['EMAHook']
    HOOKS.register_module(name='EMAHook', module=OwnHook, force=True)
    try:
        assert type_name('EMAHook', HOOKS) == 'project.hooks.EMAHook'
    finally:
        HOOKS.register_module(name='EMAHook', module=stock, force=True)


def test_a_toolbox_has_its_names_in_its_scope() -> None:
    pytest.importorskip('mmpretrain')
    from mmpretrain.models import LinearClsHead

    for kind in ('LinearClsHead', 'mmpretrain.LinearClsHead', 'mmpretrain.models.LinearClsHead', LinearClsHead):
        assert type_name(kind, MODELS, 'mmpretrain') == 'LinearClsHead'
    assert type_name('EMAHook', HOOKS, 'mmpretrain') == 'EMAHook'  # mmpretrain has its own
    assert type_name(nn.BatchNorm2d, MODELS, 'mmpretrain') == type_name('BN2d', MODELS, 'mmpretrain') == 'BN'


def test_by_its_text_a_type_is_compared_without_torch() -> None:
    code = (
        'import sys; from mmfixnorm.type_names import type_name; from mmengine.config.lazy import LazyObject;'
        "print(type_name(LazyObject('torch.optim', 'SGD')), type_name('mmdet.FPN'), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ['SGD', 'FPN', 'False']
