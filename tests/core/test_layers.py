import copy
import math
import pickle

import pytest
import torch
import torch.distributed as dist
from mmcv.cnn import fuse_conv_bn
from mmengine.model import BaseModule, initialize
from torch import nn
from torch.ao.quantization import fuse_modules, quantize_dynamic
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from mmfixnorm.core import FixNormConv2d, FixNormLinear, WNConv2d, WNLinear, fill_scales, fold_layers
from tests.gloo import leave_group

CONV_CASES = {
    'plain': dict(),
    'no_bias': dict(bias=False),
    'stride': dict(stride=2),
    'padding': dict(padding=(1, 2)),
    'same': dict(padding='same'),
    'dilation': dict(dilation=2, padding=2),
    'groups': dict(groups=2),
    'depthwise': dict(groups=4),
    'reflect': dict(padding=1, padding_mode='reflect'),
    'circular': dict(padding=1, padding_mode='circular'),
    'zeros_5x3': dict(kernel_size=(5, 3), padding=2),
}
LAYERS = {
    'WNLinear': lambda **kw: WNLinear(6, 4, **kw),
    'FixNormLinear': lambda **kw: FixNormLinear(6, 4, alpha=0.1, **kw),
    'WNConv2d': lambda **kw: WNConv2d(6, 4, 3, **kw),
    'FixNormConv2d': lambda **kw: FixNormConv2d(6, 4, 3, alpha=0.1, **kw),
    'WNLinear, held': lambda **kw: WNLinear(6, 4, train_scale=False, **kw),
    'WNConv2d, held': lambda **kw: WNConv2d(6, 4, 3, train_scale=False, **kw),
}
layers = pytest.mark.parametrize('make', LAYERS.values(), ids=LAYERS)


@pytest.mark.parametrize('alpha', [None, 0.2, 5.0], ids=['wn', 'above_bound', 'below_bound'])
@pytest.mark.parametrize('case', CONV_CASES.values(), ids=CONV_CASES)
def test_convolution_matches_float64_reference(case, alpha):
    torch.manual_seed(0)
    args = dict(in_channels=4, out_channels=8, kernel_size=3) | case
    plain = nn.Conv2d(**args).double()
    layer = WNConv2d(**args) if alpha is None else FixNormConv2d(**args, alpha=alpha)
    layer.load_state_dict({**plain.float().state_dict(), 'g': torch.tensor([1.7])})
    x = torch.randn(2, 4, 9, 10)
    plain = plain.double()
    bias = 0 if plain.bias is None else plain.bias[:, None, None]
    raw = plain(x.double()) - bias
    scale = 1.7 if alpha is None else min(1.7, alpha * math.sqrt(8))
    expected = raw / plain.weight.norm() * scale + bias
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('alpha', [None, 0.2, 5.0])
@pytest.mark.parametrize('bias', [True, False])
def test_linear_matches_float64_reference(alpha, bias):
    torch.manual_seed(0)
    layer = WNLinear(6, 9, bias) if alpha is None else FixNormLinear(6, 9, bias, alpha=alpha)
    nn.init.constant_(layer.g, 1.7)
    x = torch.randn(3, 2, 6)
    w = layer.weight.double()
    scale = 1.7 if alpha is None else min(1.7, alpha * 3)
    expected = x.double() @ w.T / w.square().sum().sqrt() * scale + (layer.bias.double() if bias else 0)
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-6)


@layers
def test_gradients_pass_gradcheck_in_float64(make):
    torch.manual_seed(0)
    layer = make(dtype=torch.float64)
    nn.init.constant_(layer.g, 0.15)  # below the bound of 0.2
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64) if layer.weight.ndim == 4 else torch.randn(2, 6).double()
    params = tuple(layer.parameters())
    names = [name for name, _ in layer.named_parameters()]

    def run(*values):
        return torch.func.functional_call(layer, dict(zip(names, values)), (x,))

    assert torch.autograd.gradcheck(run, params)


@pytest.mark.parametrize('alpha, g, flows', [(0.5, 1.1, False), (0.5, 0.9, True), (0.5, 1.0, True)])
def test_scale_gets_a_gradient_only_up_to_the_bound(alpha, g, flows):
    torch.manual_seed(0)
    layer = FixNormLinear(3, 4, alpha=alpha)  # bound 0.5 * sqrt(4) = 1
    nn.init.constant_(layer.g, g)
    layer(torch.randn(2, 3)).sum().backward()
    assert (layer.g.grad != 0).item() is flows


def test_equation_8_equals_autograd():
    torch.manual_seed(0)
    layer = FixNormLinear(5, 7, bias=False, alpha=2.0).double()
    nn.init.constant_(layer.g, 1.3)
    x = torch.randn(1, 5, dtype=torch.float64, requires_grad=True)
    k = 3
    nn.functional.cross_entropy(layer(x), torch.tensor([k])).backward()
    w, p = layer.weight.detach(), layer(x).softmax(1)[0].detach()
    descent = sum(p[j] * (w[k] - w[j]) for j in range(7) if j != k) * 1.3 / w.norm()
    torch.testing.assert_close(-x.grad[0], descent)


@layers
def test_state_keys_are_the_plain_layers_plus_g(make):
    assert sorted(make().state_dict()) == ['bias', 'g', 'weight']
    assert make().g.shape == (1,)


def norm_equals_scale(layer):
    torch.testing.assert_close(layer.g.detach(), layer.weight.detach().double().norm().float().reshape(1))


@layers
def test_scale_is_the_norm_after_default_init_and_reset(make):
    torch.manual_seed(0)
    layer = make()
    norm_equals_scale(layer)
    before = layer.g.item()
    layer.reset_parameters()
    norm_equals_scale(layer)
    assert layer.g.item() != before


@pytest.mark.parametrize(
    'init_cfg',
    [
        dict(type='Normal', layer='Linear', std=0.01),
        dict(type='Xavier', layer='Linear'),
        dict(type='Constant', layer='Linear', val=0.5),
        dict(type='TruncNormal', layer='Linear', std=0.02),
        dict(type='Kaiming', layer='Linear'),
    ],
    ids=lambda cfg: cfg['type'],
)
@pytest.mark.parametrize('kind', ['WNLinear', 'FixNormLinear'])
def test_scale_is_the_norm_after_an_init_cfg_that_names_the_plain_layer(kind, init_cfg):
    torch.manual_seed(0)

    class Head(BaseModule):
        def __init__(self):
            super().__init__(init_cfg=init_cfg)
            self.fc = LAYERS[kind]()

    head = Head()
    before = head.fc.weight.detach().clone()
    head.init_weights()
    assert not torch.equal(head.fc.weight, before)
    norm_equals_scale(head.fc)


def test_scale_is_the_norm_after_initialize_with_conv_layers():
    model = nn.Sequential(WNConv2d(3, 4, 3), FixNormConv2d(4, 4, 3, alpha=1.0))
    initialize(model, dict(type='Normal', layer='Conv2d', std=0.3))
    for layer in model:
        norm_equals_scale(layer)


@layers
def test_scale_is_the_norm_after_a_plain_checkpoint(make):
    torch.manual_seed(0)
    state = {k: v for k, v in make().state_dict().items() if k != 'g'}
    given = dict(state)
    layer = make()
    assert layer.load_state_dict(state).missing_keys == []
    norm_equals_scale(layer)
    assert state.keys() == given.keys()  # the caller's dict is not touched


@layers
def test_checkpoint_with_a_scale_brings_its_own(make):
    layer, state = make(), {**make().state_dict(), 'g': torch.tensor([42.0])}
    layer.load_state_dict(state)
    fill_scales(layer)
    assert layer.g.item() == 42.0


def test_scale_of_a_weight_that_does_not_fit_is_not_taken_alone():
    layer = FixNormLinear(4, 10, alpha=1.0)
    state = {**FixNormLinear(4, 1000, alpha=1.0).state_dict(), 'g': torch.tensor([42.0])}
    with pytest.raises(RuntimeError, match='size mismatch for weight'):
        layer.load_state_dict(state)
    norm_equals_scale(layer)


@layers
def test_fill_scales_catches_up_with_a_direct_write_once(make):
    layer = make()
    nn.init.normal_(layer.weight, std=3.0)
    fill_scales(nn.ModuleList([layer]))
    norm_equals_scale(layer)
    nn.init.constant_(layer.g, 42.0)
    fill_scales(nn.ModuleList([layer]))
    assert layer.g.item() == 42.0


def test_scale_of_a_large_layer_is_its_norm_to_the_last_digits():
    # torch's float32 norm of this weight is 7e-5 off on a CPU; a checkpoint may come from elsewhere.
    layer = WNConv2d(512, 1024, 3)
    expected = layer.weight.double().square().sum().sqrt().item()
    assert layer.g.item() == pytest.approx(expected, rel=1e-6)
    layer.load_state_dict({'weight': layer.weight * 2, 'bias': layer.bias})
    assert layer.g.item() == pytest.approx(2 * expected, rel=1e-6)
    assert layer.effective_weight().double().norm().item() == pytest.approx(2 * expected, rel=1e-5)


@layers
def test_fill_scales_leaves_a_scale_that_was_set(make):
    layer = make()
    layer.set_scale_(0.0)
    fill_scales(layer)
    assert layer.g.item() == 0
    x = torch.randn(2, 6, 5, 5) if layer.weight.ndim == 4 else torch.randn(2, 6)
    layer(x).square().sum().backward()
    assert not layer.train_scale or layer.g.grad.abs() > 0  # so that it can leave zero
    assert torch.isfinite(layer.weight.grad).all()


@pytest.mark.parametrize('value', [0.0, math.nan])
def test_fill_scales_refuses_a_weight_without_a_direction(value):
    model = nn.Sequential(nn.ReLU(), WNConv2d(2, 3, 1))
    nn.init.constant_(model[1].weight, value)
    with pytest.raises(ValueError, match=r'1\.weight: .* finite and > 0, got (0.0|nan)'):
        fill_scales(model)


PLAIN = {nn.Linear: (6, 4), nn.Conv2d: (6, 4, 3)}


@pytest.mark.parametrize('cls, kwargs', [(WNLinear, {}), (WNConv2d, {}), (FixNormLinear, dict(alpha=9.0))])
@pytest.mark.parametrize('bias', [True, False])
def test_layer_made_from_a_plain_one_computes_the_same_and_draws_no_numbers(cls, kwargs, bias):
    base = nn.Linear if issubclass(cls, nn.Linear) else nn.Conv2d
    plain = base(*PLAIN[base], bias=bias).eval().requires_grad_(False)
    state = torch.get_rng_state()
    layer = cls.from_plain(plain, **kwargs)
    assert torch.equal(torch.get_rng_state(), state)
    assert not layer.training
    assert not any(p.requires_grad for p in layer.parameters())
    x = torch.randn(2, 6, 5, 5) if base is nn.Conv2d else torch.randn(2, 6)
    torch.testing.assert_close(layer(x), plain(x))


def test_conv_made_from_a_plain_one_keeps_every_setting():
    for case in CONV_CASES.values():
        plain = nn.Conv2d(**dict(in_channels=4, out_channels=8, kernel_size=3) | case)
        layer = FixNormConv2d.from_plain(plain, alpha=9.0)
        x = torch.randn(2, 4, 9, 10)
        torch.testing.assert_close(layer(x), plain(x))
        torch.testing.assert_close(layer.to_plain()(x), plain(x))


@pytest.mark.parametrize('layer', [nn.Linear(2, 2), nn.Conv1d(2, 2, 1), nn.ConvTranspose2d(2, 2, 1), WNConv2d(2, 2, 1)])
def test_only_a_plain_layer_of_the_same_kind_is_replaced(layer):
    with pytest.raises(TypeError, match='takes the place of a plain nn.Conv2d, got'):
        WNConv2d.from_plain(layer)


@pytest.mark.parametrize('g', [0.05, 30.0], ids=['below_bound', 'above_bound'])
def test_folded_model_is_plain_and_computes_the_same(g):
    shared = WNConv2d(4, 4, 3, padding=1)
    model = nn.Sequential(FixNormConv2d(3, 4, 3, alpha=0.1), shared, nn.Sequential(nn.ReLU(), shared), nn.Flatten())
    model.append(FixNormLinear(64, 5, alpha=0.1))
    for layer in (model[0], model[4], shared):
        layer.set_scale_(g)
    x = torch.randn(2, 3, 6, 6)
    expected = model(x)
    assert fold_layers(model) == ['0', '1', '4', '2.1']
    assert [type(m) for m in (model[0], model[1], model[4])] == [nn.Conv2d, nn.Conv2d, nn.Linear]
    assert model[1] is model[2][1]
    assert not [key for key in model.state_dict() if key.endswith('.g')]
    torch.testing.assert_close(model(x), expected)


def test_bfloat16_autocast_of_a_wide_detector_output_is_finite_and_near_float64():
    # RetinaNet: 9 anchors x 80 classes, with the initialisation of its head; a small map, as only sums over channels
    # are long enough to lose digits, and bfloat16 is slow on many CPUs.
    layer = FixNormConv2d(256, 720, 3, padding=1, alpha=0.5)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.constant_(layer.bias, -4.595)
    x = torch.randn(1, 256, 10, 8).relu().mul(3).requires_grad_()
    for g in (layer.weight.norm().item(), 1e4):  # below and far above the bound
        layer.set_scale_(g)
        with torch.autocast('cpu', torch.bfloat16):
            scores = layer(x)
        assert scores.dtype == torch.bfloat16
        scores.float().sigmoid().sum().backward()
        factor = min(g, 0.5 * math.sqrt(720)) / layer.weight.double().norm()
        expected = nn.functional.conv2d(x.double(), layer.weight.double() * factor, layer.bias.double(), padding=1)
        torch.testing.assert_close(scores.double(), expected, rtol=2e-2, atol=5e-2)
        assert all(torch.isfinite(p.grad).all() for p in (x, layer.weight, layer.g, layer.bias) if p.grad is not None)


@layers
def test_scale_stays_when_apply_does_not_touch_the_weight(make):
    layer = make()
    nn.init.constant_(layer.g, 42.0)
    nn.Sequential(layer).apply(lambda module: module.train())
    assert layer.g.item() == 42.0


@layers
def test_layer_computes_what_the_plain_one_would_below_the_bound(make):
    torch.manual_seed(0)
    layer = make()
    plain = nn.Linear(6, 4) if layer.weight.ndim == 2 else nn.Conv2d(6, 4, 3)
    nn.init.normal_(plain.weight, std=1e-3)  # a norm below the bound of 0.2
    layer.load_state_dict(plain.state_dict())
    x = torch.randn(2, 6) if layer.weight.ndim == 2 else torch.randn(2, 6, 5, 5)
    torch.testing.assert_close(layer(x), plain(x))


@layers
def test_output_does_not_depend_on_the_weight_norm(make):
    torch.manual_seed(0)
    layer = make()
    x = torch.randn(2, 6) if layer.weight.ndim == 2 else torch.randn(2, 6, 5, 5)
    before = layer(x)
    with torch.no_grad():
        layer.weight.mul_(7)
    torch.testing.assert_close(layer(x), before)


@layers
def test_factor_is_computed_in_float32_under_autocast(make):
    torch.manual_seed(0)
    layer = make()
    x = torch.randn(2, 6) if layer.weight.ndim == 2 else torch.randn(2, 6, 5, 5)
    with torch.autocast('cpu', torch.bfloat16):
        assert layer.effective_weight().dtype == torch.float32
        low = layer(x)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), layer(x), rtol=0.02, atol=0.02)


def test_half_weights_with_a_norm_beyond_half_range_stay_finite():
    layer = WNLinear(300, 300, bias=False, dtype=torch.float16)
    nn.init.constant_(layer.weight, 1000.0)  # norm 3e5 > 65504
    nn.init.constant_(layer.g, 2.0)
    weight = layer.effective_weight()
    assert weight.dtype == torch.float16
    torch.testing.assert_close(weight.float().norm().item(), 2.0, rtol=1e-2, atol=0)


@pytest.mark.parametrize('size', [1, 40], ids=['scaled_input', 'scaled_weight'])
@pytest.mark.parametrize('alpha', [0.1, 9.0], ids=['above_bound', 'below_bound'])
@layers
def test_outputs_and_gradients_are_those_of_float64_whichever_factor_is_scaled(make, alpha, size):
    torch.manual_seed(0)
    layer = make()
    if hasattr(layer, 'alpha'):
        layer.alpha = alpha
    x = torch.randn(size, 6, 5, 5) if layer.weight.ndim == 4 else torch.randn(size, 6)
    twin = copy.deepcopy(layer).double()
    x64, upstream = x.double().requires_grad_(), torch.randn_like(layer(x))
    weight = twin.weight / twin.weight.norm() * twin.g.clamp(max=twin.scale_bound)
    operation = nn.functional.conv2d if x.ndim == 4 else nn.functional.linear
    expected = operation(x64, weight, twin.bias)
    expected.backward(upstream.double())
    output = layer(x.requires_grad_())
    output.backward(upstream)
    torch.testing.assert_close(output.double(), expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip((x, *layer.parameters()), (x64, *twin.parameters()), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize('cls', [WNLinear, WNConv2d])
def test_a_held_scale_is_no_parameter_so_nothing_trains_it(cls):
    base = nn.Linear if cls is WNLinear else nn.Conv2d
    plain = base(*PLAIN[base])
    for layer in (cls.from_plain(plain, train_scale=False), cls(*PLAIN[base], train_scale=False)):
        assert sorted(layer.state_dict()) == ['bias', 'g', 'weight']
        assert [name for name, _ in layer.requires_grad_(True).named_parameters()] == ['weight', 'bias']  # as thawed
        assert 'train_scale=False' in repr(layer)
        before = layer.g.clone()
        x = torch.randn(2, 6) if base is nn.Linear else torch.randn(2, 6, 5, 5)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, weight_decay=0.1)
        layer(x).square().sum().backward()
        assert layer.weight.grad.any()
        optimizer.step()
        assert torch.equal(layer.g, before)
    assert 'train_scale' not in repr(cls(*PLAIN[base]))


def test_a_checkpoint_fits_whether_its_scale_was_trained_or_held():
    trained, held = WNConv2d(6, 4, 3), WNConv2d(6, 4, 3, train_scale=False)
    trained.set_scale_(0.7)
    x = torch.randn(2, 6, 5, 5)
    for assign in (False, True):
        held.load_state_dict(trained.state_dict(), assign=assign)
        assert held.g.item() == pytest.approx(0.7)
        assert torch.equal(held(x), trained(x))
        assert [name for name, _ in held.named_parameters()] == ['weight', 'bias']
    held.set_scale_(0.3)
    trained.load_state_dict(held.state_dict())
    assert trained.g.requires_grad
    assert torch.equal(trained(x), held(x))


@layers
def test_copies_and_pickles_are_equal(make):
    layer = make()
    nn.init.constant_(layer.g, 0.1)
    x = torch.randn(2, 6) if layer.weight.ndim == 2 else torch.randn(2, 6, 5, 5)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x))


@layers
def test_forward_compiles_to_one_graph(make):
    layer = make()
    x = torch.randn(2, 6) if layer.weight.ndim == 2 else torch.randn(2, 6, 5, 5)
    compiled = torch.compile(layer, backend='eager', fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.parametrize('alpha', [0, -1.0, math.nan])
@pytest.mark.parametrize('cls, args', [(FixNormLinear, (2, 2)), (FixNormConv2d, (2, 2, 1))])
def test_alpha_must_be_positive(cls, args, alpha):
    with pytest.raises(ValueError, match=rf'alpha must be > 0 .*got {alpha!r}'):
        cls(*args, alpha=alpha)


def test_meta_layers_can_be_materialised():
    layer = WNLinear(3, 2, device='meta').apply(lambda module: None).to_empty(device='cpu')
    layer.reset_parameters()
    norm_equals_scale(layer)


FUSIONS = {  # the layer -> what fuses it with the normalisation behind it, and how that ends: the error, or None
    'mmcv, conv': ('WNConv2d', fuse_conv_bn, RuntimeError),
    'mmcv, conv, inner module': ('FixNormConv2d', lambda m: fuse_conv_bn(nn.Sequential(m)), RuntimeError),
    'torch, conv': ('FixNormConv2d', lambda m: fuse_conv_bn_eval(*m), RuntimeError),
    'torch, linear': ('FixNormLinear', lambda m: fuse_linear_bn_eval(*m), RuntimeError),
    'quantisation, fuse_modules': ('WNConv2d', lambda m: fuse_modules(m, ['0', '1']), AssertionError),
    'quantisation of plain linear layers': ('WNLinear', quantize_dynamic, None),
}


@pytest.mark.parametrize('kind, fuse, error', FUSIONS.values(), ids=FUSIONS)
@pytest.mark.parametrize('bias', [True, False])
def test_fusing_is_refused_or_right_and_right_once_folded(kind, fuse, error, bias):
    torch.manual_seed(0)
    layer = LAYERS[kind](bias=bias)
    layer.set_scale_(0.7)  # off the norm, and above the bound of the FixNorm layers
    norm = (nn.BatchNorm1d if kind.endswith('Linear') else nn.BatchNorm2d)(4)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    model = nn.Sequential(layer, norm).eval().requires_grad_(False)
    x = torch.randn(2, 6) if kind.endswith('Linear') else torch.randn(2, 6, 5, 5)
    expected = model(x)
    if error is None:
        torch.testing.assert_close(fuse(copy.deepcopy(model))(x), expected, rtol=1e-4, atol=1e-5)
        return
    with pytest.raises(error, match=r'fold_layers\(model\)' if error is RuntimeError else None):
        fuse(copy.deepcopy(model))
    fold_layers(model)
    torch.testing.assert_close(fuse(model)(x), expected, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_may_take_the_place_of_the_weight():
    layer, other = WNConv2d(6, 4, 3), WNConv2d(6, 4, 3)
    layer.load_state_dict(other.state_dict(), assign=True)
    assert layer.weight.data_ptr() == other.weight.data_ptr()
    with pytest.raises(RuntimeError, match='reset_scale'):
        layer.weight = nn.Parameter(torch.ones(4, 6, 3, 3))


def test_a_held_scale_follows_a_weight_that_fsdp2_shards(tmp_path):
    from torch.distributed import fsdp

    if not hasattr(fsdp, 'fully_shard'):
        pytest.skip('needs torch 2.6')
    layer = WNConv2d(6, 4, 3, train_scale=False)
    x = torch.randn(2, 6, 5, 5)
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        fsdp.fully_shard(layer, mesh=dist.init_device_mesh('cpu', (1,)))
        with torch.no_grad():
            layer.weight.mul_(3.0)
        fill_scales(layer)
        expected = layer.weight.full_tensor().double().norm().item()
        assert layer.g.item() == pytest.approx(expected, rel=1e-6)
        assert [name for name, _ in layer.named_parameters()] == ['weight', 'bias']
        plain = nn.functional.conv2d(x, layer.weight.full_tensor(), layer.bias.full_tensor())
        torch.testing.assert_close(layer(x), plain)
    finally:
        leave_group()
