"""The README's code does what it says."""

import re

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmpretrain.registry import MODELS

from mmfixnorm.core.norm_fixing import flagged
from mmfixnorm.launch import load_config


@pytest.fixture
def blocks(pytestconfig):
    """The fenced blocks of Python, in order."""
    return re.findall(r'```python\n(.*?)```', (pytestconfig.rootpath / 'README.md').read_text(), re.DOTALL)


def test_three_keys_turn_a_stock_config_into_fixnorm(blocks, tmp_path):
    (after,) = [block for block in blocks if "'./your_config.py'" in block]
    (tmp_path / 'child.py').write_text(
        after.replace('./your_config.py', 'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py')
    )
    cfg = load_config(tmp_path / 'child.py')
    model = MODELS.build(cfg.model)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    assert len(flagged(wrapper.optimizer)) == 53  # 52 convolutions and the classifier
    assert {group['weight_decay'] for group in wrapper.optimizer.param_groups} == {0.0}
    assert wrapper.optimizer.param_groups[0]['lr'] == 0.8
    assert model.head.alpha == 1.0


def test_loop_of_plain_pytorch_keeps_the_norm(blocks):
    (code,) = [block for block in blocks if 'fix_norm(' in block]
    model = torch.nn.Sequential()
    model.add_module('flatten', torch.nn.Flatten())
    model.add_module('fc', torch.nn.Linear(512, 10))
    scope = {'torch': torch, 'model': model}
    exec(code, scope)
    model(torch.randn(4, 512)).square().mean().backward()
    scope['optimizer'].step()
    assert model.fc.weight.norm().item() == pytest.approx(scope['anchor'].target, rel=1e-5)
