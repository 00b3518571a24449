"""The rows of Tables 3 and 4 at full size: one step of the Runner on a real image, and a pretrained backbone."""

import math
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import nn

from mmfixnorm.core import FixNormConv2d, WNConv2d
from mmfixnorm.core.membership import flagged

CONFIGS = Path(__file__).parents[2] / 'configs'
PATHS = sorted(path for folder in ('coco', 'cityscapes') for path in (CONFIGS / folder).glob('*.py'))
IMAGES = {'coco': 'coco128/', 'cityscapes': 'cityscapes8/'}
CONTEXT = 'decode_head.object_context.'
#: Parameters without an effect at the start: a constant in front of a BN, and all behind a projection that is zero.
WITHOUT_EFFECT = {'wd': (CONTEXT,), 'fixnorm': (f'{CONTEXT}value_project.bias', f'{CONTEXT}out_project.bias')}

pytestmark = pytest.mark.slow


def one_step(cfg: Config, data_root: Path, work_dir: Path) -> Config:
    """The config, cut to one iteration on one image of ``data_root`` without a checkpoint, in place."""
    cfg.work_dir = str(work_dir)
    # Without a download. A pretrained backbone has no block that starts at zero either.
    cfg.model.backbone.update(init_cfg=None, zero_init_residual=False)
    cfg.train_cfg.max_iters = 1
    cfg.default_hooks.checkpoint = None
    cfg.train_dataloader.update(batch_size=1, num_workers=0, persistent_workers=False)
    cfg.train_dataloader.dataset.data_root = f'{data_root}/'
    for mode in ('val', 'test'):
        cfg.update({f'{mode}_cfg': None, f'{mode}_dataloader': None, f'{mode}_evaluator': None})
    return cfg


@pytest.mark.parametrize('path', PATHS, ids=lambda path: path.stem)
def test_one_training_step_on_a_real_image(path, load, real_data, tmp_path, train_one_step, joint_norm):
    data = path.parent.name
    runner = Runner.from_cfg(one_step(load(path), real_data / IMAGES[data], tmp_path))
    start = train_one_step(runner)

    after = dict(runner.model.named_parameters())
    assert math.isfinite(runner.message_hub.get_scalar('train/loss').current())
    trained = {name for name, p in after.items() if p.requires_grad}
    assert {name for name, grad in start.gradients.items() if grad is not None} == trained
    effective = {n for n in trained if not n.startswith(WITHOUT_EFFECT['wd' if '_wd_' in path.stem else 'fixnorm'])}
    assert {name for name, grad in start.gradients.items() if grad is not None and grad.any()} >= effective
    moved = {name for name in after if not torch.equal(after[name], start.weights[name])}
    assert trained >= moved >= {name for name in effective if not name.endswith('.g')}  # a step of `g` may round away
    assert all(torch.isfinite(p).all() for p in after.values())

    for name, layer in runner.model.named_modules():
        if isinstance(layer, (WNConv2d, FixNormConv2d)):
            weight, g = start.weights[f'{name}.weight'], start.weights.get(f'{name}.g', layer.g)
            assert g.item() == pytest.approx(joint_norm([weight]), rel=1e-6), name
            assert g.item() < layer.scale_bound, name  # the bound is not in the way at the start

    if '_wd_' not in path.stem:
        assert runner.optim_wrapper.norm_fixer.target == pytest.approx(start.norm, rel=1e-6)
        assert joint_norm(flagged(runner.optim_wrapper.optimizer)) == pytest.approx(start.norm, rel=1e-6)


def pretrained(backbone: nn.Module, file: Path) -> dict[str, torch.Tensor]:
    """Write a checkpoint with weights of other sizes than the backbone's own."""
    state = {k: v * 3 if k.endswith('weight') and v.ndim == 4 else v for k, v in backbone.state_dict().items()}
    torch.save({'state_dict': state}, file)
    return state


@pytest.mark.parametrize(
    'path',
    [p for p in PATHS if 'cosine' in p.stem and re.search('_fixnorm(-wn-frozen-bn)?_', p.stem)],
    ids=lambda path: path.stem,
)
def test_the_norm_to_keep_is_that_of_the_pretrained_backbone(path, load, tmp_path, joint_norm):
    cfg = load(path)
    cfg.model.backbone.init_cfg = None
    state = pretrained(MODELS.build(cfg.model.backbone), tmp_path / 'backbone.pth')
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'backbone.pth'))
    model = MODELS.build(cfg.model)
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)  # before the weights are there, as in a Runner

    model.init_weights()
    optim_wrapper.initialize_count_status(model, 0, 1)
    for param in model.parameters():
        param.grad = torch.full_like(param, 1e-3) if param.requires_grad else None
    names = {id(p): name for name, p in model.named_parameters()}
    in_set = {names[id(p)]: p.detach().clone() for p in flagged(optim_wrapper.optimizer)}
    optim_wrapper.step()

    from_file = {name: state[name.removeprefix('backbone.')] for name in in_set if name.startswith('backbone.')}
    heads = [weight for name, weight in in_set.items() if name not in from_file]
    assert optim_wrapper.norm_fixer.target == pytest.approx(joint_norm([*from_file.values(), *heads]), rel=1e-6)
    assert joint_norm([*from_file.values()]) > joint_norm(heads)
    assert joint_norm(flagged(optim_wrapper.optimizer)) == pytest.approx(optim_wrapper.norm_fixer.target, rel=1e-6)
