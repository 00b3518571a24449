"""Muon by config: its step against a float64 reference, which parameters it takes, and norm fixing around it."""

import math

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import OPTIMIZERS

import mmfixnorm.peers  # noqa: F401
from mmfixnorm.core.membership import FLAG
from mmfixnorm.errors import ConfigError

pytest.importorskip('pytorch_optimizer')
MUON = dict(type='Muon', lr=0.05, momentum=0.9)
BY_ANGLE = dict(
    type='FixNormOptimWrapper',
    constructor='FixNormOptimWrapperConstructor',
    update='angle',
    other_lr=0.1,
    optimizer=MUON,
)


def orthogonalised(matrix):
    """Five Newton-Schulz iterations with the coefficients of Jordan et al., in float64."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / matrix.norm()
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def cosine(a, b):
    return float((a * b).sum() / (a.norm() * b.norm()))


def test_the_step_is_the_orthogonalised_momentum_and_adamw_for_the_rest(net):
    model = net()
    rest = [p for p in model.parameters() if p.ndim < 4]
    optimizer = OPTIMIZERS.build(MUON | dict(params=[{'params': model.convs(), FLAG: True}, {'params': rest}]))
    means, squares = {}, {}
    for t in range(1, 6):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        grads = torch.autograd.grad(model.loss(t), [*model.parameters()])
        for p, grad in zip(model.parameters(), grads):
            p.grad = grad.clone()
        optimizer.step()
        for (name, p), grad in zip(model.named_parameters(), grads):
            step = p.detach() - before[name]
            mean = means[name] = 0.9 * means.get(name, 0) + 0.1 * grad
            square = squares[name] = 0.95 * squares.get(name, 0) + 0.05 * grad**2
            if p.ndim < 4:  # with the learning rate, betas and eps that the library has for AdamW
                expected = mean / (1 - 0.9**t) / ((square / (1 - 0.95**t)).sqrt() + 1e-10)
                torch.testing.assert_close(step, -3e-4 * expected, rtol=1e-5, atol=1e-9)
                continue
            expected = orthogonalised((0.1 * grad + 0.9 * mean).flatten(1)).view_as(p)
            assert cosine(step, -expected) > 0.995, name  # the library iterates in bfloat16
            rows, columns = p.flatten(1).shape
            length = 0.05 * math.sqrt(max(1, rows / columns)) * expected.norm().item()
            assert step.norm().item() == pytest.approx(length, rel=0.03), name


def test_the_set_is_stepped_by_muon_and_all_else_by_adamw_with_its_own_learning_rate(float64_classifier):
    model = float64_classifier()
    names = {id(p): name for name, p in model.named_parameters()}
    wrapper = build_optim_wrapper(model, BY_ANGLE)
    assert type(wrapper.optimizer).__module__.startswith('pytorch_optimizer.')
    found = {
        names[id(p)]: (group['use_muon'], FLAG in group, pytest.approx(group['lr']))
        for group in wrapper.optimizer.param_groups
        for p in group['params']
    }
    assert found == {
        name: (True, True, 0.05) if p.ndim > 1 else (False, False, 0.005) for name, p in model.named_parameters()
    }


def test_an_excluded_weight_is_not_stepped_by_muon(net):
    model = net()
    wrapper = build_optim_wrapper(model, BY_ANGLE | dict(paramwise_cfg=dict(exclude=[r'^7\.'])))
    by_muon = [p for group in wrapper.optimizer.param_groups if group['use_muon'] for p in group['params']]
    assert [*map(id, by_muon)] == [*map(id, model.convs())]


@pytest.mark.parametrize('per', ['set', 'layer', 'filter'])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(cut_and_resumed, per):
    one, two = cut_and_resumed(wrapper=dict(BY_ANGLE, per=per))
    for name, value in one['state_dict'].items():
        assert torch.equal(value, two['state_dict'][name]), name


def test_without_flagged_groups_it_says_which_constructor_makes_them(net):
    with pytest.raises(
        ConfigError, match=r"type='Muon' needs groups .*optim_wrapper.constructor='FixNormOptimWrapperConstructor'"
    ):
        build_optim_wrapper(net(), dict(optimizer=MUON))


def test_an_option_that_does_not_exist_is_refused(net):
    with pytest.raises(ConfigError, match=r"Muon does not know \['beta'\]; it takes .*'momentum'"):
        build_optim_wrapper(net(), BY_ANGLE | dict(optimizer=dict(MUON, beta=0.9)))
