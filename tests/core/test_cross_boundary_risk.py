import pytest
import torch

from mmfixnorm.core import cross_boundary_risk


def naive(x, labels, w):
    total = 0.0
    for xi, k in zip(x.double(), labels.tolist()):
        risks = []
        for j in range(len(w)):
            if j != k:
                d = w[j].double() - w[k].double()
                risks.append((xi @ d / (xi.norm() * d.norm())).item())
        total += sum(risks) / len(risks)
    return total / len(x)


@pytest.mark.parametrize('num_classes', [2, 5, 40])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_matches_a_naive_double_loop(num_classes, dtype):
    torch.manual_seed(0)
    x, w = torch.randn(13, 6).to(dtype), torch.randn(num_classes, 6).to(dtype)
    labels = torch.randint(num_classes, (13,))
    assert cross_boundary_risk(x, labels, w).item() == pytest.approx(naive(x, labels, w), abs=1e-6)


def test_weights_far_from_the_origin_lose_no_precision():
    torch.manual_seed(0)
    x, labels = torch.randn(4, 6), torch.randint(5, (4,))
    w = torch.randn(5, 6) + 300
    assert cross_boundary_risk(x, labels, w).item() == pytest.approx(naive(x, labels, w), abs=1e-3)


def test_unreduced_risks_have_the_mean_as_mean():
    torch.manual_seed(0)
    x, w, labels = torch.randn(9, 3), torch.randn(4, 3), torch.randint(4, (9,))
    risks = cross_boundary_risk(x, labels, w, reduction='none')
    assert risks.shape == (9,)
    torch.testing.assert_close(risks.mean(), cross_boundary_risk(x, labels, w))
    assert risks.abs().max() <= 1


def test_feature_on_the_own_class_has_less_risk_than_on_another():
    w = torch.eye(3)
    own, other = (cross_boundary_risk(w[[i]], torch.tensor([0]), w) for i in (0, 1))
    assert own < 0 < other


@pytest.mark.parametrize('factor', [0.01, 7.0])
def test_scale_of_features_and_weights_does_not_matter(factor):
    torch.manual_seed(0)
    x, w, labels = torch.randn(9, 3), torch.randn(4, 3), torch.randint(4, (9,))
    risk = cross_boundary_risk(x, labels, w)
    torch.testing.assert_close(cross_boundary_risk(x * factor, labels, w), risk)
    torch.testing.assert_close(cross_boundary_risk(x, labels, w * factor), risk)


def test_vectors_without_direction_count_as_zero():
    w = torch.ones(3, 2)  # all classes equal
    assert cross_boundary_risk(torch.ones(2, 2), torch.tensor([0, 1]), w) == 0
    assert cross_boundary_risk(torch.zeros(1, 2), torch.tensor([0]), torch.randn(3, 2)) == 0


@pytest.mark.parametrize(
    'shapes, labels, kwargs, message',
    [
        (((2, 3), (4, 3)), [0, 4], {}, r'labels must lie in \[0, 3\], got 0 to 4'),
        (((2, 3), (4, 3)), [-1, 0], {}, 'got -1 to 0'),
        (((2, 3), (4, 5)), [0, 1], {}, r'weight \(4, 5\)'),
        (((2, 3, 1), (4, 3)), [0, 1], {}, r'features \(2, 3, 1\)'),
        (((2, 3), (4, 3)), [0], {}, r'labels \(1,\)'),
        (((2, 3), (1, 3)), [0, 0], {}, 'at least 2 classes'),
        (((2, 3), (4, 3)), [0, 1], {'reduction': 'sum'}, "got 'sum'"),
    ],
)
def test_bad_input_says_what_was_found(shapes, labels, kwargs, message):
    x, w = (torch.ones(s) for s in shapes)
    with pytest.raises(ValueError, match=message):
        cross_boundary_risk(x, torch.tensor(labels), w, **kwargs)
