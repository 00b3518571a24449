import pytest
import torch
from mmengine.structures import PixelData
from mmseg.models.decode_heads import UPerHead
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import nn

from mmfixnorm.core import FixNormConv2d, WNConv2d, fill_scales, norm_fixing_parameters
from mmfixnorm.seg import BaseOCHead, FixNormDecodeHeadMixin

COMMON = dict(channels=6, num_classes=5, norm_cfg=dict(type='BN', eps=1e-12), align_corners=False)
# name of the stock head -> its arguments; in front of each name, 'FixNorm' is the head under test
HEADS = {
    'BaseOCHead': dict(in_channels=8, key_channels=4),
    'FCNHead': dict(in_channels=8, num_convs=1, concat_input=False),
    'PSPHead': dict(in_channels=8, pool_scales=(1, 2)),
    'DepthwiseSeparableASPPHead': dict(in_channels=8, dilations=(1, 2), c1_in_channels=4, c1_channels=3),
}
heads = pytest.mark.parametrize('name', HEADS)


def stock_head(name: str, **kwargs) -> nn.Module:
    """A stock head as it is after some training: no zeros."""
    head = MODELS.build(dict(type=name, **{**COMMON, **HEADS[name], **kwargs}))
    for param in head.parameters():
        nn.init.normal_(param)
    return head


def fixnorm_head(name: str, alpha: float = 100.0, **kwargs) -> nn.Module:
    return MODELS.build(dict(type=f'FixNorm{name}', alpha=alpha, **{**COMMON, **HEADS[name], **kwargs}))


def features(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    # Three images: BN maps two values of a channel, as after global pooling, to -1 and 1 whatever they are.
    return [torch.randn(3, 4, 14, 10, dtype=dtype), torch.randn(3, 8, 7, 5, dtype=dtype)]


def samples() -> list[SegDataSample]:
    return [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(5, (1, 28, 20)))) for _ in range(3)]


@heads
@pytest.mark.parametrize('alpha', [100.0, float('inf')])
def test_a_stock_checkpoint_gives_the_stock_heads_logits_and_losses(name, alpha):
    stock, head = stock_head(name), fixnorm_head(name, alpha)
    head.load_state_dict(stock.state_dict())
    fill_scales(head)
    inputs, targets, results = features(), samples(), []
    for model in (stock, head):
        torch.manual_seed(1)  # the same dropout
        losses = model.loss(inputs, targets, None)
        losses['loss_ce'].backward()
        results.append((losses, model.conv_seg.bias.grad, model.eval()(inputs)))
    (expected, expected_grad, expected_logits), (actual, actual_grad, logits) = results
    assert expected.keys() == actual.keys()
    for key in expected:
        torch.testing.assert_close(actual[key], expected[key])
    torch.testing.assert_close(actual_grad, expected_grad)
    torch.testing.assert_close(logits, expected_logits)


@heads
def test_the_state_keys_are_the_stock_heads_and_the_scales(name):
    head = fixnorm_head(name)
    scales = {f'{key}.g' for key, module in head.named_modules() if isinstance(module, WNConv2d | FixNormConv2d)}
    assert head.state_dict().keys() - scales == stock_head(name).state_dict().keys()
    assert scales <= head.state_dict().keys()


@heads
def test_the_same_seed_gives_the_stock_heads_weights(name):
    def weights(prefix: str, **kwargs) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        head = MODELS.build(dict(type=f'{prefix}{name}', **COMMON, **HEADS[name], **kwargs))
        head.init_weights()
        return {key: value for key, value in head.state_dict().items() if not key.endswith('.g')}

    expected, actual = weights(''), weights('FixNorm', alpha=1.0)
    expected.pop('object_context.out_project.weight', None)  # zero in the plain head, which has no direction
    for key in expected:
        torch.testing.assert_close(actual[key], expected[key], msg=key)


@heads
def test_a_small_alpha_scales_the_logits_down_and_stops_the_scales_gradient(name):
    stock, head = stock_head(name).eval(), fixnorm_head(name, alpha=0.01).eval()
    head.load_state_dict(stock.state_dict())
    inputs, bias = features(), stock.conv_seg.bias[:, None, None]
    logits = head(inputs)
    factor = 0.01 * 5**0.5 / stock.conv_seg.weight.norm()
    assert factor < 0.1
    torch.testing.assert_close(logits - bias, factor * (stock(inputs) - bias), atol=1e-4, rtol=1e-4)
    logits.square().sum().backward()
    assert head.conv_seg.g.grad.abs().max() == 0
    assert head.conv_seg.weight.grad.abs().max() > 0


def sensitive_weights(head: nn.Module) -> set[str]:
    """The weights of the norm-fixing set whose scale changes the logits in training."""
    head = head.double().train()
    inputs = features(torch.float64)
    fill_scales(head)
    expected = head(inputs)
    found = set()
    for name, weight in norm_fixing_parameters(head).items():
        with torch.no_grad():
            weight.mul_(3.0)
            changed = not torch.allclose(head(inputs), expected, rtol=1e-5, atol=1e-7)
            weight.div_(3.0)
        if changed:
            found.add(name)
    return found


@heads
def test_no_weight_of_the_set_changes_the_output_by_its_scale(name):
    stock, head = stock_head(name, dropout_ratio=0), fixnorm_head(name, dropout_ratio=0)
    head.load_state_dict(stock.state_dict())
    assert 'conv_seg.weight' in sensitive_weights(stock)
    assert sensitive_weights(head) == set()


def test_the_projections_of_the_plain_head_are_sensitive():
    projections = {f'object_context.{part}_project.weight' for part in ('value', 'out')}
    assert sensitive_weights(stock_head('BaseOCHead', dropout_ratio=0)) == {'conv_seg.weight'} | projections


@pytest.mark.parametrize('name, count', [('BaseOCHead', 6), ('FCNHead', 2)])
def test_each_conv_of_the_set_has_a_norm_or_is_weight_normalised(name, count):
    head = fixnorm_head(name)
    normed = {id(m.conv.weight) for m in head.modules() if hasattr(m, 'with_norm') and m.with_norm}
    own = {id(m.weight) for m in head.modules() if isinstance(m, WNConv2d | FixNormConv2d)}
    weights = {id(p) for p in norm_fixing_parameters(head).values()}
    assert weights == normed | own
    assert len(weights) == len(normed) + len(own) == count


def test_base_oc_has_the_layers_of_ocnet():
    head = BaseOCHead(in_channels=2048, channels=512, num_classes=19, norm_cfg=dict(type='BN'))
    convs = {name: m for name, m in head.named_modules() if isinstance(m, nn.Conv2d)}
    shapes = {name: (conv.in_channels, conv.out_channels, conv.kernel_size[0]) for name, conv in convs.items()}
    assert shapes == {
        'conv.conv': (2048, 512, 3),
        'object_context.key_project.conv': (512, 256, 1),
        'object_context.value_project': (512, 256, 1),
        'object_context.out_project': (256, 512, 1),
        'bottleneck.conv': (1024, 512, 1),
        'conv_seg': (512, 19, 1),
    }
    norms = {name for name, m in head.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert norms == {'conv.bn', 'object_context.key_project.bn', 'bottleneck.bn'}
    assert head.dropout.p == 0.05


def test_base_oc_joins_the_context_in_front_of_the_features():
    head = stock_head('BaseOCHead').eval()
    inputs = features()
    feats = head.conv(inputs[-1])
    expected = head.conv_seg(head.bottleneck(torch.cat([head.object_context(feats), feats], dim=1)))
    torch.testing.assert_close(head(inputs), expected)


@heads
def test_the_classifier_gets_the_stock_init_and_its_scale_follows(name):
    head = fixnorm_head(name, channels=64, num_classes=150)
    head.init_weights()
    assert head.conv_seg.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert head.conv_seg.bias.abs().max() == 0
    norm = head.conv_seg.weight.norm().item()
    assert head.conv_seg.g.item() == pytest.approx(norm, rel=1e-6)
    fill_scales(head)
    assert head.conv_seg.g.item() == pytest.approx(norm, rel=1e-6)


@heads
def test_the_first_step_moves_every_weight_of_the_set(name):
    head = fixnorm_head(name)
    head.init_weights()
    fill_scales(head)
    before = {key: p.detach().clone() for key, p in norm_fixing_parameters(head).items()}
    optimizer = torch.optim.SGD(head.parameters(), lr=1.0)
    loss = head.loss(features(), samples(), None)['loss_ce']
    assert loss.isfinite()
    loss.backward()
    optimizer.step()
    for key, weight in norm_fixing_parameters(head).items():
        assert weight.isfinite().all()
        assert not torch.equal(weight, before[key]), key


def test_a_checkpoint_with_a_projection_of_zero_is_refused_by_name():
    plain = BaseOCHead(in_channels=8, key_channels=4, **COMMON)
    head = fixnorm_head('BaseOCHead')
    head.load_state_dict(plain.state_dict())
    with pytest.raises(ValueError, match=r'object_context\.out_project\.weight: the norm .* got 0'):
        fill_scales(head)


@heads
def test_autocast_to_bfloat16_stays_finite_and_near_float32(name):
    head = fixnorm_head(name, alpha=1.0, dropout_ratio=0)
    head.load_state_dict(stock_head(name).state_dict())
    inputs, targets = features(), samples()
    expected = head(inputs)
    with torch.autocast('cpu', torch.bfloat16):
        logits = head(inputs)
        loss = head.loss(inputs, targets, None)['loss_ce']
    loss.backward()
    assert logits.dtype == torch.bfloat16
    assert (logits - expected).norm() < 0.05 * expected.norm()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in head.parameters())


@heads
@pytest.mark.parametrize('alpha', [0, -1.0, float('nan')])
def test_an_alpha_that_is_not_positive_is_refused(name, alpha):
    with pytest.raises(ValueError, match=f'alpha must be > 0 .* got {alpha}'):
        fixnorm_head(name, alpha)


@heads
def test_alpha_has_no_default_and_is_what_the_layer_uses(name):
    with pytest.raises(TypeError, match='alpha'):
        MODELS.build(dict(type=f'FixNorm{name}', **COMMON, **HEADS[name]))
    head = fixnorm_head(name, alpha=0.5)
    assert head.alpha == head.conv_seg.alpha == 0.5
    assert head.conv_seg.scale_bound == pytest.approx(0.5 * 5**0.5)


def test_another_head_takes_one_line():
    class FixNormUPerHead(FixNormDecodeHeadMixin, UPerHead):
        pass

    kwargs = dict(COMMON, in_channels=[4, 8], in_index=[0, 1], pool_scales=(1, 2))
    stock, head = UPerHead(**kwargs).eval(), FixNormUPerHead(alpha=100.0, **kwargs).eval()
    head.load_state_dict(stock.state_dict())
    inputs = features()
    torch.testing.assert_close(head(inputs), stock(inputs))
    assert head.alpha == 100.0
