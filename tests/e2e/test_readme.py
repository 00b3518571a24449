"""The code of README and of the page on FixNorm by hand does what it says, and README is short."""

import importlib
import re
from pathlib import Path

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.utils import get_installed_path

from mmfixnorm.core import NormFixer, WeightNormalized
from mmfixnorm.core.membership import flagged
from mmfixnorm.launch import load_config


@pytest.fixture
def blocks(pytestconfig):
    """The fenced blocks of Python, in order."""
    pages = [(pytestconfig.rootpath / name).read_text() for name in ('README.md', 'docs/by_hand.md')]
    return [block for page in pages for block in re.findall(r'```python\n(.*?)```', page, re.DOTALL)]


def test_the_readme_is_short(pytestconfig):
    lines = (pytestconfig.rootpath / 'README.md').read_text().splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 100] == []


def test_every_head_is_in_the_table_of_heads(pytestconfig):
    page = (pytestconfig.rootpath / 'docs/by_hand.md').read_text()
    (table,) = re.findall(r'^## Available heads\n(.*?)^## ', page, re.DOTALL | re.MULTILINE)
    for name in ('cls', 'det', 'seg'):
        exported = importlib.import_module(f'mmfixnorm.{name}').__all__
        heads = [head for head in exported if head.startswith('FixNorm') and head.endswith(('Head', 'Mixin'))]
        assert heads
        assert [head for head in heads if f'`{head}`' not in table] == []


@pytest.mark.parametrize('name', ['your_config', 'your_classifier'])
def test_three_keys_turn_a_stock_config_into_fixnorm(blocks, tmp_path, name):
    (after,) = [block for block in blocks if f"'./{name}.py'" in block]
    (tmp_path / 'child.py').write_text(
        after.replace(f'./{name}.py', 'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py')
    )
    cfg = load_config(tmp_path / 'child.py')
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    assert len(flagged(wrapper.optimizer)) == 53  # 52 convolutions and the classifier
    assert {group['weight_decay'] for group in wrapper.optimizer.param_groups} == {0.0}
    assert wrapper.optimizer.param_groups[0]['lr'] == 0.8
    assert model.head.alpha == 1.0


STOCK = {
    'retinanet': ('mmdet', 'retinanet/retinanet_r50_fpn_1x_coco.py'),
    'pspnet': ('mmseg', 'pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', STOCK)
def test_a_stock_detector_and_a_stock_segmentor_become_fixnorm(blocks, tmp_path, capsys, name):
    toolbox, stock = STOCK[name]
    (after,) = [block for block in blocks if f'./your_{name}.py' in block]
    path = Path(get_installed_path(toolbox)) / '.mim/configs' / stock
    (tmp_path / 'child.py').write_text(after.replace(f'./your_{name}.py', str(path)))
    cfg = load_config(tmp_path / 'child.py')
    init_default_scope(cfg.default_scope)
    cfg.model.pop('pretrained', None)
    cfg.model.backbone.pop('init_cfg', None)
    model = MODELS.build(cfg.model)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    heads = [model.bbox_head] if name == 'retinanet' else [model.decode_head, model.auxiliary_head]
    assert all(head.alpha == (0.5 if name == 'retinanet' else 1.0) for head in heads)
    in_set = {id(p) for p in flagged(wrapper.optimizer)}
    for conv in model.modules():
        if isinstance(conv, torch.nn.Conv2d) and conv.weight.requires_grad:
            assert id(conv.weight) in in_set
            assert isinstance(conv, WeightNormalized) or conv.bias is None  # a norm layer follows
    assert 'stored statistics' not in capsys.readouterr().out


def test_loop_of_plain_pytorch_keeps_the_norm(blocks):
    code, by_angle = [block for block in blocks if 'fix_norm(' in block]
    model = torch.nn.Sequential()
    model.add_module('flatten', torch.nn.Flatten())
    model.add_module('fc', torch.nn.Linear(512, 10))
    scope = {'torch': torch, 'model': model}
    exec(code, scope)
    (fixer,) = [value for value in scope.values() if isinstance(value, NormFixer)]
    model(torch.randn(4, 512)).square().mean().backward()
    scope['optimizer'].step()
    assert model.fc.weight.norm().item() == pytest.approx(fixer.target, rel=1e-5)

    exec(by_angle, scope)
    before = model.fc.weight.detach().clone()
    model(torch.randn(4, 512)).square().mean().backward()
    scope['optimizer'].step()
    cosine = torch.nn.functional.cosine_similarity(before.flatten().double(), model.fc.weight.flatten().double(), dim=0)
    assert torch.acos(cosine).item() == pytest.approx(0.02, rel=1e-3)
    assert [group['lr'] for group in scope['optimizer'].param_groups] == [0.02, 0.4]
