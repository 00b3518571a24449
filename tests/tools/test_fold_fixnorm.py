"""mmfixnorm fold: from a plain checkpoint to FixNorm and back, for all three toolboxes."""

import copy
import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmfixnorm.cli.fold import main
from mmfixnorm.core import WeightNormalized, WNLinear
from mmfixnorm.fold import unfolded_layers
from mmfixnorm.launch import build_model, load_config

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {
    'cls': ROOT / 'configs/digits/resnet8_fixnorm_1xb64-20e_digits.py',
    'det': ROOT / 'tests/tiny/detection.py',
    'seg': ROOT / 'tests/tiny/segmentation.py',
    'seg with Base-OC': ROOT / 'tests/tiny/base_oc.py',
}


@pytest.fixture
def fold(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *argv: main([str(arg) for arg in argv])


def without_fixnorm(node):
    """A config with the stock layers and heads in the places of ours."""
    if isinstance(node, dict):
        node = {key: without_fixnorm(value) for key, value in node.items() if key != 'alpha'}
        if str(node.get('type')).startswith('FixNorm'):
            node['type'] = node['type'].removeprefix('FixNorm')
        if node.get('conv_cfg') == dict(type='WNConv2d'):
            del node['conv_cfg']
    elif isinstance(node, list):
        node = [without_fixnorm(child) for child in node]
    return node


def configs(task, alpha) -> tuple[Config, Config]:
    """The config of FixNorm with this alpha, and the stock one."""
    ours = load_config(CONFIGS[task])
    heads = [ours.model[name] for name in ('head', 'bbox_head', 'decode_head', 'auxiliary_head') if name in ours.model]
    for head in heads:
        head['alpha'] = alpha
    stock = copy.deepcopy(ours)
    stock.model = without_fixnorm(ours.model.to_dict())
    return ours, stock


def randomised(model):
    """Weights, biases and statistics of a training's end, not of its start."""
    model.init_weights()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            if not module.weight.any():  # the output of Base-OC's attention starts at zero
                nn.init.normal_(module.weight, std=0.1)
            if module.bias is not None:
                nn.init.normal_(module.bias)
    return model


def outputs(model) -> torch.Tensor:
    inputs = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = model.eval()(inputs, mode='tensor')
    flat = []

    def collect(node):
        if isinstance(node, torch.Tensor):
            flat.append(node.double().flatten())
        else:
            for child in node:
                collect(child)

    collect(found)
    return torch.cat(flat)


def stock_layers(model) -> bool:
    return not any(isinstance(module, WeightNormalized) for module in model.modules())


@pytest.mark.parametrize('task', CONFIGS)
def test_a_plain_checkpoint_becomes_fixnorm_and_folds_back_with_equal_outputs(fold, task, tmp_path) -> None:
    ours, stock = configs(task, alpha=1e6)
    plain = randomised(build_model(stock))
    assert stock_layers(plain)
    expected = outputs(plain)
    fixnorm = build_model(ours)
    fixnorm.load_state_dict(plain.state_dict())
    torch.testing.assert_close(outputs(fixnorm), expected, rtol=1e-5, atol=1e-5)

    torch.save(dict(state_dict=fixnorm.state_dict()), 'fixnorm.pth')
    ours.dump('ours.py')
    assert fold('ours.py', 'fixnorm.pth', 'plain.pth') == 0
    back = build_model(stock)
    back.load_state_dict(torch.load('plain.pth')['state_dict'], strict=True)
    torch.testing.assert_close(outputs(back), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('task', CONFIGS)
def test_above_the_cap_the_bounded_output_is_kept(fold, task) -> None:
    ours, stock = configs(task, alpha=0.02)
    fixnorm = randomised(build_model(ours))
    bounded = [m for m in fixnorm.modules() if isinstance(m, WeightNormalized) and m.scale_bound < m.g]
    assert bounded
    expected = outputs(fixnorm)
    torch.save(dict(state_dict=fixnorm.state_dict()), 'fixnorm.pth')
    ours.dump('ours.py')
    assert fold('ours.py', 'fixnorm.pth', 'plain.pth') == 0
    plain = build_model(stock)
    plain.load_state_dict(torch.load('plain.pth')['state_dict'], strict=True)
    torch.testing.assert_close(outputs(plain), expected, rtol=1e-5, atol=1e-5)
    unbounded = build_model(configs(task, alpha=1e6)[0])
    unbounded.load_state_dict(fixnorm.state_dict())
    assert (outputs(unbounded) - expected).abs().max() > 1e-2


def test_a_trained_checkpoint_has_the_same_metrics_in_the_stock_config(fold, train, test_tool, tiny_task) -> None:
    config = tiny_task('segmentation')
    metrics = {}
    assert train([config, '--work-dir', 'run', '--cfg-options', 'custom_hooks.1.type=FixNormEMAHook']) == 0
    assert fold(config, 'run/iter_4.pth', 'plain.pth') == 0
    stock = load_config(config)
    stock.model = without_fixnorm(stock.model.to_dict())
    stock.custom_imports = dict(imports=[])
    stock.custom_hooks = []
    stock.optim_wrapper = None
    stock.train_dataloader = stock.train_cfg = stock.param_scheduler = None
    stock.default_hooks.pop('epoch_seed')
    stock.dump('stock.py')
    for name, checkpoint in ((config, 'run/iter_4.pth'), ('stock.py', 'plain.pth')):
        assert test_tool([name, checkpoint, '--work-dir', 'test', '--out', 'm.json', '--out-item', 'metrics']) == 0
        metrics[name] = json.loads(Path('m.json').read_text())
    assert metrics['stock.py'] == pytest.approx(metrics[config])
    assert set(torch.load('plain.pth', weights_only=False)) == {'state_dict', 'meta'}


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """The state of the digits model, in ``good.pth``."""
    monkeypatch.chdir(tmp_path)
    model = build_model(load_config(CONFIGS['cls']))
    torch.save(dict(state_dict=model.state_dict(), meta=dict(epoch=3, cfg='...')), 'good.pth')
    return model.state_dict()


def bad_state(state, kind):
    state = dict(state)
    if kind == 'plain':
        del state['head.fc.g']
    elif kind == 'unexpected':
        state['neck.weight'] = torch.ones(1)
    elif kind == 'missing':
        del state['head.fc.bias']
    elif kind == 'shape':
        state['head.fc.weight'] = torch.ones(3, 3)
    else:
        state['head.fc.weight'] = torch.zeros_like(state['head.fc.weight'])
    return state


@pytest.mark.parametrize(
    'kind, message',
    [
        ('plain', "it lacks 1 of the 1 scales of WN and FixNorm layers: 'head.fc.g'"),
        ('unexpected', 'neck.weight'),
        ('missing', 'head.fc.bias'),
        ('shape', 'size mismatch for head.fc.weight'),
        ('no direction', "not finite after folding: 'head.fc.weight'"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(fold, checkpoint, capsys, kind, message) -> None:
    torch.save(dict(state_dict=bad_state(checkpoint, kind)), 'bad.pth')
    assert fold(CONFIGS['cls'], 'bad.pth', 'out.pth') == 2
    err = capsys.readouterr().err
    assert 'bad.pth: ' in err
    assert message in err
    assert not Path('out.pth').exists()


def test_mistakes_on_the_command_line_end_with_status_2(fold, checkpoint, capsys) -> None:
    Path('text.pth').write_text('no checkpoint')
    wd = CONFIGS['cls'].with_name(CONFIGS['cls'].name.replace('fixnorm', 'wd'))
    for argv, message in (
        ([wd, 'good.pth', 'out.pth'], 'model: it has no WN or FixNorm layer'),
        ([CONFIGS['cls'], 'no.pth', 'out.pth'], "no such checkpoint: 'no.pth'"),
        ([CONFIGS['cls'], 'text.pth', 'out.pth'], 'text.pth: not a checkpoint'),
        ([CONFIGS['cls'], 'good.pth', './good.pth', '--force'], 'would replace the checkpoint itself'),
        ([CONFIGS['cls'], 'good.pth', 'text.pth'], 'text.pth: it already exists'),
        ([CONFIGS['cls'], 'good.pth', 'text.pth/out.pth'], 'cannot be written'),
    ):
        assert fold(*argv) == 2
        assert message in capsys.readouterr().err
    assert sorted(p.name for p in Path().iterdir()) == ['good.pth', 'text.pth']


def test_force_replaces_and_the_report_names_the_layers(fold, checkpoint, capsys) -> None:
    Path('out.pth').write_text('old')
    assert fold(CONFIGS['cls'], 'good.pth', 'out.pth', '--force') == 0
    assert capsys.readouterr().out == 'out.pth: 1 layers folded: head.fc\n'
    meta = torch.load('out.pth', weights_only=False)['meta']
    assert meta == dict(epoch=3, folded=['head.fc'])


def test_the_average_is_folded_where_a_checkpoint_has_one(fold, checkpoint) -> None:
    other = {key: value + 1 for key, value in checkpoint.items()}
    torch.save(dict(state_dict=checkpoint, ema_state_dict=other, optimizer={}), 'ema.pth')
    assert fold(CONFIGS['cls'], 'ema.pth', 'a.pth') == 0
    assert fold(CONFIGS['cls'], 'good.pth', 'b.pth') == 0
    a, b = (torch.load(name, weights_only=False)['state_dict'] for name in ('a.pth', 'b.pth'))
    assert all(torch.equal(a[key], b[key]) for key in b)


class OwnScale(nn.Linear):
    """A layer of a user's own that has a parameter of the same name as the scale of a WN layer."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.g = nn.Parameter(torch.ones(1))


def test_a_layer_with_a_parameter_of_its_own_named_g_is_not_taken_for_one_that_is_not_folded() -> None:
    own = nn.Sequential(OwnScale(), WNLinear(2, 2))
    plain = nn.Sequential(OwnScale(), nn.Linear(2, 2))
    assert unfolded_layers(own, own.state_dict()) == []
    assert unfolded_layers(plain, own.state_dict()) == ['1']
    assert unfolded_layers(plain, {f'module.{key}': value for key, value in own.state_dict().items()}) == ['1']
