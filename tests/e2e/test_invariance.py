"""Scale invariance of a whole mmpretrain model, and what follows from it for training."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from mmfixnorm.core.membership import flagged
from mmfixnorm.core.norms import global_norm, scale_

EPS = 1e-30  # BatchNorm's own 1e-5 does not scale with the variance; see the test of its effect


@pytest.fixture
def classifier(digits_config):
    def build(eps=EPS):
        cfg = digits_config('fixnorm')
        torch.manual_seed(0)
        model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
        model.init_weights()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d) and eps is not None:
                module.eps = eps
        return model.double().train(), cfg

    return build


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(16, 3, 8, 8, generator=generator, dtype=torch.float64) * 4 - 2
    return images, [DataSample().set_gt_label(i % 10) for i in range(16)]


@pytest.mark.parametrize('eps, tolerance', [(EPS, 1e-10), (None, 1e-3)], ids=['without_eps', 'eps_of_1e-5'])
def test_seven_times_the_set_changes_no_logit_in_training_mode(classifier, eps, tolerance):
    model, cfg = classifier(eps)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    before = model(batch(0)[0], mode='tensor')
    scale_(flagged(optimizer), torch.tensor(7.0))
    after = model(batch(0)[0], mode='tensor')
    assert (after - before).abs().max() < tolerance * before.abs().max()


def test_scaled_weights_with_scaled_lr_follow_the_same_path(classifier):
    """From W with lr and from cW with lr * c^2 for the set: the same losses over 30 steps, to 1e-7."""
    losses = []
    for c in (1.0, 5.0):
        model, cfg = classifier()
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        start = global_norm(flagged(wrapper.optimizer)).item()
        scale_(flagged(wrapper.optimizer), torch.tensor(c, dtype=torch.float64))
        wrapper.optimizer.param_groups[0]['lr'] *= c**2
        losses.append([])
        for i in range(30):
            loss = model(*batch(i % 2), mode='loss')['loss']
            wrapper.update_params(loss)
            losses[-1].append(loss.item())
        assert wrapper.norm_fixer.target == pytest.approx(c * start, rel=1e-9)
    assert losses[0] == pytest.approx(losses[1], rel=1e-7)
    assert abs(losses[0][-1] - losses[0][0]) > 0.1  # there was a path
