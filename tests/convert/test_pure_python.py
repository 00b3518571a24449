"""Configs whose types are classes or scoped names: converted, audited and compared as those with plain names."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from mmfixnorm.config import load_config
from mmfixnorm.convert import audit_config, convert
from mmfixnorm.convert.audit import prepared_model
from mmfixnorm.convert.recipe import check_optim_wrapper, hooks_with_fixnorm, optim_wrapper_edit
from mmfixnorm.errors import ConfigError

pytest.importorskip('mmpretrain')

WD = Path(__file__).parents[2] / 'configs/digits/resnet8_wd_1xb64-20e_digits.py'

CLASSES = """
from mmengine.hooks import EMAHook
from mmengine.optim import OptimWrapper
from mmpretrain.evaluation import Accuracy
from mmpretrain.models import GlobalAveragePooling, ImageClassifier, LinearClsHead
from mmpretrain.models.backbones import ResNet_CIFAR
from mmpretrain.models.losses import CrossEntropyLoss
from torch.optim import SGD

default_scope = 'mmpretrain'
data_preprocessor = dict(num_classes=10, mean=[73.3] * 3, std=[90.2] * 3, to_rgb=True)
model = dict(
    type=ImageClassifier,
    backbone=dict(type=ResNet_CIFAR, depth=18, base_channels=4, stem_channels=4),
    neck=dict(type=GlobalAveragePooling),
    head=dict(type=LinearClsHead, num_classes=10, in_channels=32, loss=dict(type=CrossEntropyLoss)),
)
val_evaluator = dict(type=Accuracy, topk=(1,))
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.1, momentum=0.9, weight_decay=1e-4))
custom_hooks = [dict(type=EMAHook, momentum=0.1)]
"""
FIXNORM = """
from mmfixnorm.engine import FixNormOptimWrapper, FixNormOptimWrapperConstructor
optim_wrapper = dict(
    type=FixNormOptimWrapper, constructor=FixNormOptimWrapperConstructor, optimizer=dict(type=SGD, lr=0.1)
)
"""


@pytest.mark.parametrize('scope', ["'mmpretrain'", 'None'])
def test_a_config_of_classes_is_converted(tmp_path, scope) -> None:
    text = CLASSES.replace("default_scope = 'mmpretrain'", f'default_scope = {scope}')
    (tmp_path / 'plain.py').write_text(f"{text}\nnames = {{'class': 0, 'pass': 1}}\n")
    done = convert(str(tmp_path / 'plain.py'), str(tmp_path / 'new.py'), size=16)
    # 18 layers: a stem, 16 convolutions in blocks and the classifier; 3 more in shortcuts.
    assert (len(done.in_set), done.classifiers) == (21, ('head.fc',))
    new = load_config(tmp_path / 'new.py')
    assert (new.default_scope, new.names) == ('mmpretrain', {'class': 0, 'pass': 1})
    assert new.model.head.type == 'FixNormLinearClsHead'
    assert new.model.backbone.type == 'mmpretrain.models.backbones.ResNet_CIFAR'
    assert new.optim_wrapper.type == 'FixNormOptimWrapper'
    assert new.optim_wrapper.optimizer == dict(type='torch.optim.SGD', lr=0.1, momentum=0.9, weight_decay=0.0)
    assert [hook.type for hook in new.custom_hooks] == ['FixNormEMAHook', 'WeightNormLoggerHook', 'ClassCheckHook']
    assert (new.search.metric, new.search.alpha_key) == ('accuracy/top1', 'model.head.alpha')


def test_the_set_of_a_config_of_classes_is_audited(tmp_path) -> None:
    # The plain classifier is no member that passes: its weight is not scale-invariant.
    (tmp_path / 'fixnorm.py').write_text(CLASSES + FIXNORM)
    audit = audit_config(load_config(tmp_path / 'fixnorm.py'), size=16, explain=False)
    assert audit.norm_fixing_set is not None
    assert len(audit.norm_fixing_set) == 21
    assert audit.failing == ('head.fc.weight',)
    with pytest.raises(ConfigError, match='already FixNorm'):
        convert(str(tmp_path / 'fixnorm.py'), str(tmp_path / 'new.py'))


def test_a_child_has_a_scope_where_its_base_has_none(tmp_path) -> None:
    (tmp_path / 'plain.py').write_text(
        f"_base_ = [{str(WD)!r}]\ndefault_scope = None\nmodel = dict(type='mmpretrain.ImageClassifier')\n"
    )
    done = convert(str(tmp_path / 'plain.py'), str(tmp_path / 'new.py'), size=16)
    assert "default_scope = 'mmpretrain'" in done.text
    assert load_config(tmp_path / 'new.py').default_scope == 'mmpretrain'


@pytest.mark.parametrize('scope', ['', 'mmengine.'])
def test_scoped_names_are_converted_as_plain_ones(scope) -> None:
    wrapper = dict(
        type=f'{scope}AmpOptimWrapper',
        constructor=f'{scope}DefaultOptimWrapperConstructor',
        optimizer=dict(type=f'{scope}SGD', lr=0.1),
    )
    hooks = [dict(type=f'{scope}{name}') for name in ('EMAHook', 'WeightNormHook', 'ClassCheckHook')]
    cfg = Config(dict(default_scope='mmpretrain', optim_wrapper=wrapper, custom_hooks=hooks))
    check_optim_wrapper(cfg)
    edit, _ = optim_wrapper_edit(cfg, [], decay=False)
    assert edit['type'] == 'FixNormAmpOptimWrapper'
    assert edit['optimizer'] == dict(weight_decay=0.0)
    assert [hook['type'] for hook in hooks_with_fixnorm(cfg)] == ['FixNormEMAHook', *(h['type'] for h in hooks[1:])]


def test_a_hook_of_ones_own_is_not_taken_for_the_stock_one() -> None:
    hooks = [dict(type='project.hooks.EMAHook')]
    cfg = Config(dict(default_scope='mmpretrain', custom_hooks=hooks))
    assert hooks_with_fixnorm(cfg)[0]['type'] == 'project.hooks.EMAHook'


def test_layer_wise_rates_and_the_lr_of_a_checkpoint_reach_a_config_in_full(tmp_path) -> None:
    text = CLASSES.replace('depth=18', 'depth=34').replace(
        'optim_wrapper = dict(', 'optim_wrapper = dict(constructor=By, '
    )
    text = text.replace('weight_decay=1e-4)', 'weight_decay=1e-4), paramwise_cfg=dict(layer_decay_rate=0.5)')
    text = 'from mmpretrain.engine import LearningRateDecayOptimWrapperConstructor as By\n' + text
    (tmp_path / 'plain.py').write_text(text)
    state = prepared_model(load_config(tmp_path / 'plain.py')).state_dict()
    torch.save(dict(state_dict=state, meta={}), tmp_path / 'trained.pth')
    done = convert(str(tmp_path / 'plain.py'), str(tmp_path / 'new.py'), size=16, lr_from=str(tmp_path / 'trained.pth'))
    new = load_config(tmp_path / 'new.py')
    by = new.optim_wrapper.paramwise_cfg.lr_constructor
    assert by.type.endswith('LearningRateDecayOptimWrapperConstructor')
    assert by.layer_decay_rate == 0.5
    assert new.optim_wrapper.optimizer.lr == pytest.approx(0.1, rel=0.05)  # fresh weights, of another seed
    assert '# lr: 0.1 * (' in done.text
    lrs = {group['lr'] for group in build_optim_wrapper(prepared_model(new), dict(new.optim_wrapper)).param_groups}
    assert len(lrs) > 3
