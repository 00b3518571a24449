"""Plain configs of this project, converted: the ones with FixNorm were written by hand."""

from pathlib import Path

import pytest
from mmengine.config import Config

from mmfixnorm.convert import convert
from mmfixnorm.errors import ConfigError
from mmfixnorm.search.settings import parse_settings

CONFIGS = Path(__file__).parents[2] / 'configs'
WD = CONFIGS / 'digits/resnet8_wd_1xb64-20e_digits.py'


def test_a_classifier_becomes_the_config_that_was_written_by_hand(tmp_path) -> None:
    done = convert(str(WD), str(tmp_path / 'new.py'), alpha=1.0, size=16)
    new, by_hand = (
        Config.fromfile(p) for p in (tmp_path / 'new.py', WD.with_name(WD.name.replace('_wd_', '_fixnorm_')))
    )
    assert new.model == by_hand.model
    assert new.custom_imports == by_hand.custom_imports
    assert new.custom_hooks == by_hand.custom_hooks
    new.optim_wrapper.optimizer.lr = by_hand.optim_wrapper.optimizer.lr  # tuned there
    assert new.optim_wrapper == by_hand.optim_wrapper
    assert parse_settings(new.search).alpha_keys == parse_settings(by_hand.search).alpha_keys
    assert parse_settings(new.search).metric == parse_settings(by_hand.search).metric
    assert done.classifiers == ('head.fc',)
    assert len(done.in_set) == 10  # the stem, six in blocks, two shortcuts, the classifier
    assert (done.weight_normalized, done.left_out, done.notes) == ((), {}, ())


def refused(tmp_path, message, text='', base=WD, **kwargs) -> None:
    child = tmp_path / 'child.py'
    child.write_text(f'_base_ = [{str(base)!r}]\n{text}')
    with pytest.raises(ConfigError, match=message):
        convert(str(child), str(tmp_path / 'new.py'), **kwargs)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['child.py']


@pytest.mark.parametrize(
    'text, message',
    [
        ("default_scope = 'mmrotate'", "default_scope: must be one of .*, got 'mmrotate'"),
        ("custom_hooks = [dict(type='FixNormHook')]", "FixNorm already: it has 'FixNormHook'"),
        ("model = dict(type='FixNormModel')", "FixNorm already: it has 'FixNormModel'"),
        ("optim_wrapper = dict(constructor='FixNormOptimWrapperConstructor')", 'FixNorm already'),
        ("optim_wrapper = dict(type='ApexOptimWrapper')", 'has no form with norm fixing'),
    ],
)
def test_what_cannot_be_converted_is_refused_before_anything_is_built(tmp_path, text, message) -> None:
    refused(tmp_path, message, text)


def test_a_model_without_a_classifier_is_refused(tmp_path) -> None:
    text = "model = dict(head=dict(_delete_=True, type='ContrastiveHead', loss=dict(type='CrossEntropyLoss')))"
    refused(tmp_path, 'no classifier was found|cannot be audited', text, size=16)


def test_no_file_is_replaced_by_chance(tmp_path) -> None:
    (tmp_path / 'new.py').write_text('mine')
    with pytest.raises(ConfigError, match='exists already'):
        convert(str(WD), str(tmp_path / 'new.py'))
    assert (tmp_path / 'new.py').read_text() == 'mine'
    (tmp_path / 'wd.py').write_text(f'_base_ = [{str(WD)!r}]')
    with pytest.raises(ConfigError, match='would replace the config itself'):
        convert(str(tmp_path / 'wd.py'), str(tmp_path / 'wd.py'), overwrite=True)
    with pytest.raises(ConfigError, match='--alpha: must be > 0'):
        convert(str(WD), str(tmp_path / 'other.py'), alpha=0.0)


STACKED = """
model = dict(head=dict(_delete_=True, type='StackedLinearClsHead', num_classes=10, in_channels=32, mid_channels=[8],
             loss=dict(type='CrossEntropyLoss')))
"""


def child_of(tmp_path, text) -> str:
    (tmp_path / 'child.py').write_text(f'_base_ = [{str(WD)!r}]\n{text}')
    return str(tmp_path / 'child.py')


def test_layers_that_no_config_key_reaches_are_exchanged_while_the_model_is_built(tmp_path) -> None:
    done = convert(child_of(tmp_path, STACKED), str(tmp_path / 'new.py'), alpha=0.5, size=16)
    model = Config.fromfile(tmp_path / 'new.py').model
    assert model.type == 'FixNormModel'
    assert model.fixnorm.to_dict() == dict(
        plain_type='ImageClassifier',
        alpha=0.5,
        swap={'head.layers.1.fc': 'FixNormLinear', 'head.layers.0.fc': 'WNLinear'},
    )
    assert model.head.type == 'StackedLinearClsHead'
    assert Config.fromfile(tmp_path / 'new.py').search.alpha_key == 'model.fixnorm.alpha'
    assert (done.weight_normalized, done.classifiers) == (('head.layers.0.fc',), ('head.layers.1.fc',))
    assert len(done.in_set) == 11


def test_a_child_that_does_not_pass_the_audit_is_not_written(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr('mmfixnorm.convert.converter.cover', lambda names, others: [n for n in names if '1.fc' in n])
    with pytest.raises(ConfigError, match=r'does not pass the audit: 1 of 11 .* \(head.layers.0.fc.weight: '):
        convert(child_of(tmp_path, STACKED), str(tmp_path / 'new.py'), size=16)
    assert not (tmp_path / 'new.py').exists()


def test_bn_on_stored_statistics_is_trained_or_its_layers_are_left_out(tmp_path) -> None:
    stored = child_of(tmp_path, 'model = dict(backbone=dict(norm_eval=True))')
    done = convert(stored, str(tmp_path / 'new.py'), size=16)
    new = Config.fromfile(tmp_path / 'new.py')
    assert (new.model.backbone.norm_eval, new.model.backbone.norm_cfg.type) == (False, 'SyncBN')
    assert len(done.in_set) == 10
    assert '# BN on stored statistics' in done.text

    kept = convert(stored, str(tmp_path / 'kept.py'), keep_norm_eval=True, size=16)
    new = Config.fromfile(tmp_path / 'kept.py')
    assert new.model.backbone.norm_eval
    assert kept.in_set == ('head.fc.weight',)
    assert set(kept.left_out.values()) == {'BN on stored statistics'}
    assert len(kept.left_out) == 9
    assert new.optim_wrapper.paramwise_cfg.exclude == [r'^backbone\.']
    assert new.optim_wrapper.optimizer.weight_decay == 1e-4  # reaches those left out
