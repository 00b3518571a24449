"""The rows of Tables 3 and 4 at full size: every weight in the set, every scale with its bound, the rest and why.

The names are spelled out from the architectures, so that a layer that slips in or out is seen.
"""

import math
import warnings
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmfixnorm.core import FixNormConv2d, WNConv2d, norm_fixing_parameters
from mmfixnorm.core.layer_kinds import stored_statistics_layers
from mmfixnorm.core.membership import flagged

CONFIGS = Path(__file__).parents[2] / 'configs'
PATHS = sorted(path for folder in ('coco', 'cityscapes') for path in (CONFIGS / folder).glob('*.py'))
FROZEN_BN = 'retinanet_r50-fpn_fixnorm-frozen-bn_8xb2-cosine-90k_coco'
HELD = 'retinanet_r50-fpn_fixnorm-wn-frozen-bn_8xb2-cosine-90k_coco'


def bottlenecks(blocks: dict[int, int]) -> set[str]:
    """Convolutions of the stages of a ResNet: ``{stage: blocks}``."""
    convs = {f'backbone.layer{s}.{b}.conv{c}' for s, n in blocks.items() for b in range(n) for c in (1, 2, 3)}
    return convs | {f'backbone.layer{s}.0.downsample.0' for s in blocks}


R50_TRAINED = bottlenecks({2: 4, 3: 6, 4: 3})
R50_FROZEN = {'backbone.conv1'} | bottlenecks({1: 3})
WN = {
    'coco': {f'neck.lateral_convs.{i}.conv' for i in range(3)}
    | {f'neck.fpn_convs.{i}.conv' for i in range(5)}
    | {f'bbox_head.{subnet}_convs.{i}.conv' for subnet in ('cls', 'reg') for i in range(4)}
    | {'bbox_head.retina_reg'},
    'cityscapes': {f'decode_head.object_context.{name}_project' for name in ('value', 'out')},
}
SCORES = {
    'coco': {'bbox_head.retina_cls': 0.5 * math.sqrt(9 * 80)},
    'cityscapes': {f'{head}.conv_seg': 1.0 * math.sqrt(19) for head in ('decode_head', 'auxiliary_head')},
}
R101 = {f'backbone.stem.{i}' for i in (0, 3, 6)} | bottlenecks({1: 3, 2: 4, 3: 23, 4: 3})
HEADS_WITH_BN = {
    'decode_head.conv.conv',
    'decode_head.object_context.key_project.conv',
    'decode_head.bottleneck.conv',
    'auxiliary_head.convs.0.conv',
}
SCALE_INVARIANT = {
    'coco': R50_TRAINED | WN['coco'] | {*SCORES['coco']},
    'cityscapes': R101 | HEADS_WITH_BN | WN['cityscapes'] | {*SCORES['cityscapes']},
}
SIZE = {'coco': 60, 'cityscapes': 114, FROZEN_BN: 18}


class Census(NamedTuple):
    """What a config makes of its model, at full size and with random weights."""

    in_set: set[str]
    bounds: dict[str, float]
    left_out: dict[str, str]
    decay: dict[str, float]
    convs: set[str]
    stored_statistics: set[str]
    held: set[str]


def build(path: Path) -> tuple[Config, nn.Module]:
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None  # no download
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return cfg, MODELS.build(cfg.model)


def why_left_out(model: nn.Module, name: str) -> str:
    owner, param = model.get_submodule(name.rpartition('.')[0]), model.get_parameter(name)
    if not param.requires_grad:
        return 'frozen'
    if isinstance(owner, _BatchNorm):
        return 'norm layer'
    return {'g': 'scale', 'bias': 'bias'}.get(name.rpartition('.')[2], 'excluded')


@cache
def census(path: Path) -> Census:
    cfg, model = build(path)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    names = {id(p): name for name, p in model.named_parameters()}
    in_set = {names[id(p)] for p in flagged(optimizer)}
    return Census(
        in_set=in_set,
        bounds={n: m.scale_bound for n, m in model.named_modules() if isinstance(m, (WNConv2d, FixNormConv2d))},
        left_out={name: why_left_out(model, name) for name in names.values() if name not in in_set},
        decay={names[id(p)]: group['weight_decay'] for group in optimizer.param_groups for p in group['params']},
        convs={f'{n}.weight' for n, m in model.named_modules() if isinstance(m, nn.Conv2d)},
        stored_statistics=set(stored_statistics_layers(model)),
        held={n for n, m in model.named_modules() if isinstance(m, WNConv2d) and not m.train_scale},
    )


def named(paths):
    return pytest.mark.parametrize('path', paths, ids=lambda path: path.stem)


every_row = named(PATHS)
fixnorm_rows = named([path for path in PATHS if '_wd_' not in path.stem])
baselines = named([path for path in PATHS if '_wd_' in path.stem])


def weights(layers: set[str]) -> set[str]:
    return {f'{name}.weight' for name in layers}


@fixnorm_rows
def test_the_set_is_every_scale_invariant_convolution(path):
    expected = SCALE_INVARIANT[path.parent.name] - (R50_TRAINED if path.stem == FROZEN_BN else set())
    assert census(path).in_set == weights(expected)
    assert len(expected) == SIZE.get(path.stem, SIZE[path.parent.name])


@fixnorm_rows
def test_what_is_left_out_is_frozen_excluded_or_no_conv_weight(path):
    found = census(path)
    convs = {name: why for name, why in found.left_out.items() if name in found.convs}
    expected = dict.fromkeys(weights(R50_FROZEN), 'frozen') if path.parent.name == 'coco' else {}
    if path.stem == FROZEN_BN:
        expected |= dict.fromkeys(weights(R50_TRAINED), 'excluded')
    assert convs == expected
    others = [why for name, why in found.left_out.items() if name not in found.convs]
    counts = {why: others.count(why) for why in set(others)}
    if path.parent.name == 'coco':
        assert counts == {'frozen': 2 * 11, 'norm layer': 2 * 42, 'bias': 18, 'scale': 18}
    else:
        assert counts == {'norm layer': 2 * 110, 'bias': 4, 'scale': 4}


@fixnorm_rows
def test_every_weight_normalised_layer_has_its_bound(path):
    data = path.parent.name
    held = R50_TRAINED if path.stem == HELD else set()
    assert census(path).bounds == pytest.approx(dict.fromkeys(WN[data] | held, math.inf) | SCORES[data])
    assert census(path).held == held


@baselines
def test_the_baseline_is_weight_normalised_where_the_paper_says_and_has_no_set(path):
    layers = {'coco': WN['coco'] | {*SCORES['coco']}, 'cityscapes': set()}[path.parent.name]
    assert census(path).bounds == dict.fromkeys(layers, math.inf)
    assert census(path).in_set == set()


@every_row
def test_the_baseline_decays_all_fixnorm_nothing_and_with_frozen_bn_what_is_excluded(path):
    found = census(path)
    trained = {name for name, why in found.left_out.items() if why != 'frozen'} | found.in_set
    if '_wd_' in path.stem:
        expected = dict.fromkeys(trained, {'coco': 1e-4, 'cityscapes': 5e-4}[path.parent.name])
    else:
        excluded = weights(R50_TRAINED) if path.stem == FROZEN_BN else set()
        expected = dict.fromkeys(trained, 0.0) | dict.fromkeys(excluded, 1e-4)
    assert {name: decay for name, decay in found.decay.items() if name in trained} == expected


@fixnorm_rows
def test_no_weight_in_the_set_has_a_batch_norm_on_stored_statistics(path):
    assert not weights(census(path).stored_statistics) & census(path).in_set


@baselines
def test_stored_statistics_are_found_where_the_stock_backbone_has_them(path):
    expected = R50_FROZEN | R50_TRAINED if path.parent.name == 'coco' else set()
    assert census(path).stored_statistics == expected


def outputs(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """All outputs of all heads in training mode, as one vector."""
    torch.manual_seed(0)  # dropout
    features = model.extract_feat(images)
    heads = [model.bbox_head] if hasattr(model, 'bbox_head') else [model.decode_head, model.auxiliary_head]
    found = [head(features) for head in heads]
    flat = [t for out in found for level in (out if isinstance(out, tuple) else [[out]]) for t in level]
    return torch.cat([t.flatten() for t in flat])


@pytest.mark.slow
@named([p for p in PATHS if '_fixnorm' in p.stem and 'cosine' in p.stem])
@torch.no_grad()
def test_the_network_is_invariant_to_the_scales_of_the_set_and_not_to_that_of_a_conv_left_out(path, alive):
    cfg, model = build(path)
    alive(model)
    images = torch.randn(1, 3, 65, 65, dtype=torch.float64)
    options = cfg.optim_wrapper.get('paramwise_cfg', {})
    in_set = norm_fixing_parameters(model, exclude=options.get('exclude', ()))
    before = outputs(model, images)
    for weight in in_set.values():
        weight *= float(torch.empty(1).uniform_(0.5, 2.0))
    torch.testing.assert_close(outputs(model, images), before, rtol=1e-6, atol=1e-6 * before.abs().max().item())
    for name in sorted(census(path).convs - {*in_set})[-1:]:
        model.get_parameter(name).mul_(2.0)
        assert not torch.allclose(outputs(model, images), before, rtol=1e-3), name
