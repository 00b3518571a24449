"""tools/fixnorm_convert.py on stock configs of the three toolboxes, as their packages install them."""

import importlib
import importlib.util
import math
import runpy
from pathlib import Path

import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper

from mmfixnorm.config_audit import norm_fixing_set, prepared_model
from mmfixnorm.convert.stock import PARTS
from mmfixnorm.core.norm_fixing import flagged
from mmfixnorm.launch import load_config
from mmfixnorm.search.dotted import get_key
from mmfixnorm.search.settings import parse_settings

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / 'configs/digits'
# Side of the images: as small as the model takes, for time.
STOCK = {
    'mmpretrain/resnet/resnet18_8xb32_in1k': 64,
    'mmpretrain/mobilenet_v3/mobilenet-v3-small-050_8xb128_in1k': 64,
    'mmdet/retinanet/retinanet_r18_fpn_1x_coco': 64,
    'mmseg/fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024': 32,
    'mmseg/pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024': 32,
}


@pytest.fixture
def convert(in_tmp):
    main = runpy.run_path(str(ROOT / 'tools/fixnorm_convert.py'))['main']
    return lambda *argv: main([str(arg) for arg in argv])


def stock_config(name: str) -> Path:
    toolbox, _, path = name.partition('/')
    spec = importlib.util.find_spec(toolbox)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / '.mim/configs' / f'{path}.py'


def joint_norm(tensors) -> float:
    return math.sqrt(sum(t.detach().double().square().sum().item() for t in tensors))


def train_20_steps(cfg, size: int) -> list[float]:
    """Train on one generated batch and return the norm of the set before and after each step, summed in float64."""
    toolbox = importlib.import_module(f'{PARTS[cfg.default_scope]}.generated_batch')
    model = revert_sync_batchnorm(prepared_model(cfg)).train()
    cfg.optim_wrapper.optimizer.lr *= 0.1  # where a warm-up would be
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    optim_wrapper.initialize_count_status(model, 0, 20)
    in_set = [model.get_parameter(name) for name in norm_fixing_set(model, cfg)]
    before = [p.detach().clone() for p in in_set]
    norms = [joint_norm(in_set)]
    for step in range(20):
        batch = toolbox.generate_batch(model, images=toolbox.IMAGES, size=(size, size), dtype=torch.float32, seed=step)
        losses = model.train_step(batch, optim_wrapper)
        assert all(torch.isfinite(value).all() for value in losses.values()), (step, losses)
        norms.append(joint_norm(in_set))
    assert {id(p) for p in flagged(optim_wrapper.optimizer)} == {id(p) for p in in_set}  # every one had a gradient
    assert all((p != start).any() for p, start in zip(in_set, before))
    return norms


@pytest.mark.slow
@pytest.mark.parametrize('name', STOCK)
def test_a_stock_config_is_converted_passes_the_audit_and_trains_with_its_norm_held(convert, capsys, name) -> None:
    # The tool writes nothing that does not pass the audit.
    assert convert(stock_config(name), '-o', 'new.py', '--size', STOCK[name], '--alpha', 2) == 0, capsys.readouterr()
    assert 'all scale-invariant' in capsys.readouterr().out
    assert len(Path('new.py').read_text().splitlines()) < 30
    cfg = load_config('new.py')
    settings = parse_settings(cfg.search)
    assert all(get_key(cfg.to_dict(), key, named_by='') == 2.0 for key in settings.alpha_keys)
    norms = train_20_steps(cfg, STOCK[name])
    assert norms == pytest.approx([norms[0]] * 21, rel=1e-5)


def test_the_tool_says_what_it_did_and_names_the_key_of_a_mistake(convert, capsys) -> None:
    wd = DIGITS / 'resnet8_wd_1xb64-20e_digits.py'
    assert convert(wd, '-o', 'new.py', '--size', 16, '--lr-range', 0.1, 1.6) == 0
    out = capsys.readouterr().out
    assert out.startswith('new.py: 10 weights in the norm-fixing set, all scale-invariant; 0 layers weight-normalised,')
    assert load_config('new.py').search.lr_range == (0.1, 1.6)
    # A relative path is kept relative, so that both files can move together.
    Path('plain.py').write_text(f'_base_ = [{str(wd)!r}]')
    Path('sub').mkdir()
    assert convert('plain.py', '-o', 'sub/new.py', '--size', 16) == 0
    assert "_base_ = ['../plain.py']" in Path('sub/new.py').read_text()
    for argv, message in (
        ([wd, '-o', 'new.py'], 'new.py: it exists already'),
        (['no.py', '-o', 'other.py'], "no such config file: 'no.py'"),
        (['new.py', '-o', 'other.py'], 'it is FixNorm already'),
        ([wd, '-o', 'other.py', '--alpha', -1], '--alpha: must be > 0, got -1'),
    ):
        assert convert(*argv) == 2
        assert message in capsys.readouterr().err
    assert not Path('other.py').exists()
