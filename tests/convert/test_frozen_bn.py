"""Detectors with BN on stored statistics: converted they compute the same, are scale-invariant, and fold back."""

import runpy
from pathlib import Path

import pytest
import torch

from mmfixnorm.convert import convert
from mmfixnorm.convert.audit import norm_fixing_set
from mmfixnorm.launch import build_model, load_config

ROOT = Path(__file__).parents[2]
FROZEN_STAGE = 'model = dict(backbone=dict(norm_eval=True, frozen_stages=1{}))\n'
# An R18 has 20 convolutions; the stem and the four of the first stage are frozen.
TRAINED = [f'layer{stage}.{block}.conv{i}' for stage in (2, 3, 4) for block in (0, 1) for i in (1, 2)] + [
    f'layer{stage}.0.downsample.0' for stage in (2, 3, 4)
]


@pytest.fixture(scope='module')
def script():
    return runpy.run_path(str(ROOT / 'benchmarks/frozen_bn.py'))


def small_detector(folder: Path, backbone: str = '') -> str:
    base = ROOT / 'configs/bccd/retinanet_r18-thin-fpn_wd_1xb4-600i_bccd.py'
    (folder / 'plain.py').write_text(f'_base_ = [{str(base)!r}]\n{FROZEN_STAGE.format(backbone)}')
    return str(folder / 'plain.py')


def check(found: dict) -> None:
    assert found['loaded'] < 1e-5
    assert found['loaded_training'] < 1e-5
    assert found['failing'] == 0
    assert found['left_out'] == 0
    assert found['drift'] < 1e-6
    assert (found['held_drift'], found['bn_drift']) == (0, 0)
    assert found['moved'] > 1e-2  # so that the fold is of other weights than those loaded
    assert found['folded'] < 1e-5


def test_a_small_detector_computes_the_same_is_invariant_trains_and_folds(script, tmp_path) -> None:
    found = script['measure'](small_detector(tmp_path), 64)
    assert found['held'] == len(TRAINED)
    assert (
        found['in_set'] == len(TRAINED) + 3 + 2 * 2 + 2 + 3
    )  # FPN, both subnets, their outputs; three of the FPN more
    check(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    'name', ['mmdet/retinanet/retinanet_r50_fpn_1x_coco', 'mmdet/faster_rcnn/faster-rcnn_r50_fpn_1x_coco']
)
def test_a_stock_detector_computes_the_same_is_invariant_trains_and_folds(script, name) -> None:
    found = script['measure'](str(script['config_file'](name)), 64)
    assert found['held'] == 3 * (4 + 6 + 3) + 3  # bottlenecks of three, and a shortcut for each stage
    check(found)


def test_the_layers_are_those_that_train_in_front_of_a_bn_that_stays(tmp_path) -> None:
    done = convert(small_detector(tmp_path), str(tmp_path / 'new.py'), size=64)
    new = load_config(tmp_path / 'new.py')
    assert sorted(done.scale_held) == sorted(f'backbone.{name}' for name in TRAINED)
    assert new.model.backbone.norm_eval
    assert 'norm_cfg' not in new.model.backbone
    assert {f'{name}.weight' for name in done.scale_held} < set(done.in_set)
    assert not any(name.startswith(('backbone.conv1', 'backbone.layer1')) for name in done.in_set)
    assert '15 layers are in front of BN on stored statistics' in done.text.replace('\n# ', ' ')


def test_a_pretrained_backbone_fills_the_scales(tmp_path) -> None:
    plain = build_model(load_config(small_detector(tmp_path)))
    state = {key: value * 3 if value.ndim == 4 else value for key, value in plain.backbone.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / 'backbone.pth')
    pretrained = f", init_cfg=dict(type='Pretrained', checkpoint={str(tmp_path / 'backbone.pth')!r})"
    filename = small_detector(tmp_path, pretrained)
    convert(filename, str(tmp_path / 'new.py'), size=64)
    models = [build_model(load_config(file)) for file in (filename, tmp_path / 'new.py')]
    for model in models:
        model.init_weights()
        model.eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected, found = (model.backbone(x) for model in models)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    layer = models[1].backbone.layer2[0].conv1
    assert layer.g.item() == pytest.approx(state['layer2.0.conv1.weight'].double().norm().item(), rel=1e-6)


def test_a_norm_that_is_frozen_at_zero_until_a_checkpoint_is_loaded_hides_no_layer(tmp_path) -> None:
    frozen = ", norm_cfg=dict(type='BN', requires_grad=False), init_cfg=dict(type='Pretrained', checkpoint='none.pth')"
    done = convert(small_detector(tmp_path, frozen), str(tmp_path / 'new.py'), size=64)
    assert len(done.scale_held) == len(TRAINED)
    assert done.notes == ()


def test_a_backbone_by_hand_has_one_key_and_its_frozen_stages_stay_out_of_the_set(script, tmp_path) -> None:
    plain = build_model(load_config(small_detector(tmp_path)))
    by_hand = load_config(small_detector(tmp_path, ", conv_cfg=dict(type='WNConv2d', train_scale=False)"))
    by_hand.optim_wrapper.update(type='FixNormOptimWrapper', constructor='FixNormOptimWrapperConstructor')
    model = build_model(by_hand)
    script['give_statistics'](plain, script['images'](64))
    model.load_state_dict(plain.state_dict())
    expected = script['outputs'](plain, script['images'](64))
    assert script['distance'](script['outputs'](model, script['images'](64)), expected) < 1e-5
    in_set = norm_fixing_set(model, by_hand)
    assert [name for name in in_set if name.startswith('backbone.')] == sorted(
        (f'backbone.{name}.weight' for name in TRAINED), key=[*dict(model.named_parameters())].index
    )
