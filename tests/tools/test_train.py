"""mmfixnorm train: what its options do, and what it says when something is wrong."""

import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import OPTIM_WRAPPERS

from mmfixnorm.errors import ConfigError
from mmfixnorm.launch import load_config, use_amp


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=False)['state_dict']


def assert_same(first: dict, second: dict) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_one_epoch_leaves_a_checkpoint_and_the_config(train, toy, in_tmp) -> None:
    assert train([toy]) == 0
    assert (in_tmp / 'work_dirs/toy/epoch_1.pth').exists()
    assert Config.fromfile(in_tmp / 'work_dirs/toy/toy.py', import_custom_modules=False).model


def test_work_dir_and_cfg_options_reach_the_run(train, toy, in_tmp) -> None:
    options = ['optim_wrapper.optimizer.lr=0.25', 'train_cfg.max_epochs=2']
    assert train([toy, '--work-dir', 'here', '--cfg-options', *options]) == 0
    checkpoint = torch.load(in_tmp / 'here/epoch_2.pth', weights_only=False)
    assert {group['lr'] for group in checkpoint['optimizer']['param_groups']} == {0.25}


@pytest.mark.parametrize('resume', [['--resume'], ['--resume', 'half/epoch_1.pth']])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(train, toy, in_tmp, resume) -> None:
    two = ['--cfg-options', 'train_cfg.max_epochs=2']
    assert train([toy, '--work-dir', 'whole', *two]) == 0
    assert train([toy, '--work-dir', 'half']) == 0
    assert train([toy, '--work-dir', 'half', *resume, *two]) == 0
    assert_same(weights(in_tmp / 'half/epoch_2.pth'), weights(in_tmp / 'whole/epoch_2.pth'))


def test_resume_in_an_empty_work_dir_starts_from_nothing(train, toy, in_tmp) -> None:
    assert train([toy, '--work-dir', 'new', '--resume']) == 0
    assert train([toy, '--work-dir', 'plain']) == 0
    assert_same(weights(in_tmp / 'new/epoch_1.pth'), weights(in_tmp / 'plain/epoch_1.pth'))


def test_resume_in_an_empty_work_dir_starts_from_the_loaded_weights(train, toy, in_tmp) -> None:
    assert train([toy, '--work-dir', 'before']) == 0
    load = ['--cfg-options', 'load_from=before/epoch_1.pth']
    assert train([toy, '--work-dir', 'plain', *load]) == 0
    assert train([toy, '--work-dir', 'new', '--resume', *load]) == 0
    assert_same(weights(in_tmp / 'new/epoch_1.pth'), weights(in_tmp / 'plain/epoch_1.pth'))
    two = [*load, 'train_cfg.max_epochs=2']
    assert train([toy, '--work-dir', 'new', '--resume', *two]) == 0  # now there is something to continue
    assert train([toy, '--work-dir', 'whole', *two]) == 0
    assert_same(weights(in_tmp / 'new/epoch_2.pth'), weights(in_tmp / 'whole/epoch_2.pth'))


def test_auto_scale_lr_scales_by_the_ratio_of_batch_sizes(train, toy, in_tmp) -> None:
    base = ['--cfg-options', 'auto_scale_lr.base_batch_size=32']
    assert train([toy, '--work-dir', 'scaled', '--auto-scale-lr', *base]) == 0
    groups = torch.load(in_tmp / 'scaled/epoch_1.pth', weights_only=False)['optimizer']['param_groups']
    assert groups[0]['lr'] == pytest.approx(0.1 * 8 / 32)


@pytest.mark.parametrize(
    ('plain', 'amp'),
    [
        ('OptimWrapper', 'AmpOptimWrapper'),
        (None, 'AmpOptimWrapper'),
        ('FixNormOptimWrapper', 'FixNormAmpOptimWrapper'),
        ('FixNormAmpOptimWrapper', 'FixNormAmpOptimWrapper'),
    ],
)
def test_amp_takes_the_sibling_of_the_wrapper(plain: str | None, amp: str) -> None:
    cfg = Config(dict(optim_wrapper=dict(type=plain) if plain else dict()))
    use_amp(cfg)
    assert cfg.optim_wrapper == dict(type=amp, loss_scale='dynamic')


def test_amp_knows_every_wrapper_of_this_package_that_has_such_a_form() -> None:
    import mmfixnorm.peers  # noqa: F401  # registers

    ours = [name for name, kind in OPTIM_WRAPPERS.module_dict.items() if kind.__module__.startswith('mmfixnorm.')]
    for name in ours:
        amp = name if 'Amp' in name else name.replace('OptimWrapper', 'AmpOptimWrapper')
        assert amp in ours, f'{name} has no form for AMP'
        cfg = Config(dict(optim_wrapper=dict(type=name)))
        use_amp(cfg)
        assert cfg.optim_wrapper.type == amp


def test_amp_keeps_the_loss_scale_of_the_config() -> None:
    cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper', loss_scale=512.0)))
    use_amp(cfg)
    assert cfg.optim_wrapper.loss_scale == 512.0


def test_amp_refuses_a_wrapper_without_sibling() -> None:
    cfg = Config(dict(optim_wrapper=dict(type='ApexOptimWrapper')))
    with pytest.raises(ConfigError, match=r"optim_wrapper\.type must be .* got 'ApexOptimWrapper'"):
        use_amp(cfg)


BAD_INPUT = {
    'no config': (['missing.py'], "no such config file: 'missing.py'"),
    'no checkpoint': (['TOY', '--resume', 'no.pth'], "--resume: no such checkpoint: 'no.pth'"),
    'no base batch size': (['TOY', '--auto-scale-lr'], 'auto_scale_lr = dict(base_batch_size'),
    'unknown model': (['TOY', '--cfg-options', 'model.type=NoNet'], 'NoNet is not in the'),
    'unknown argument': (['TOY', '--cfg-options', 'model.depth=50'], "argument 'depth'"),
    'no data folder': (
        ['TOY', '--cfg-options', 'train_dataloader.dataset.data_root=nowhere'],
        "train_dataloader.dataset.data_root: no such file or folder: 'nowhere'",
    ),
    'option into a number': (
        ['TOY', '--cfg-options', 'randomness.seed.x=1'],
        '--cfg-options',
    ),
    'work dir is a file': (['TOY', '--work-dir', 'file'], "work_dir: cannot write to 'file'"),
    'launcher without its environment': (['TOY', '--launcher', 'pytorch'], 'RANK'),
    'nothing to train': (['TOY', '--cfg-options', 'train_cfg=None'], 'train_'),
}


@pytest.mark.parametrize(('argv', 'message'), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_ends_with_a_message_and_status_2(train, toy, in_tmp, monkeypatch, capsys, argv, message) -> None:
    (in_tmp / 'file').touch()
    monkeypatch.delenv('RANK', raising=False)
    assert train([toy if arg == 'TOY' else arg for arg in argv]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert 'Traceback' not in err


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('model = dict(', 'not a valid config'),
        ("_base_ = 'no_base.py'", 'no_base.py'),
        ("custom_imports = dict(imports=['no_such_module'])", 'no_such_module'),
        ('a = 1\nb = undefined', "bad.py, line 2: NameError: name 'undefined' is not defined"),
        ('a = dict()\n\na.no_key.append(1)', 'bad.py, line 3: AttributeError'),
        ('a = 1 / 0', 'bad.py, line 1: ZeroDivisionError: division by zero'),
        ('import torch\na = torch.zeros(3)', 'bad.py, line 2: RuntimeError'),  # imports make it a pure-Python config
        (b'# caf\xe9', 'UnicodeDecodeError'),
    ],
)
def test_a_config_that_cannot_be_read_ends_with_status_2(train, in_tmp, capsys, text, message) -> None:
    (in_tmp / 'bad.py').write_bytes(text if isinstance(text, bytes) else text.encode())
    assert train(['bad.py']) == 2
    err = capsys.readouterr().err
    assert message in err
    assert 'Traceback' not in err


def test_bad_yaml_ends_with_status_2(train, in_tmp, capsys) -> None:
    (in_tmp / 'bad.yaml').write_text('a: [1\nb: 2\n')
    assert train(['bad.yaml']) == 2
    assert 'line 2' in capsys.readouterr().err


def test_an_error_in_a_base_names_the_base(train, in_tmp, capsys) -> None:
    (in_tmp / 'base.py').write_text('a = 1\nb = undefined')
    (in_tmp / 'child.py').write_text("_base_ = 'base.py'")
    assert train(['child.py']) == 2
    assert 'base.py, line 2' in capsys.readouterr().err


@pytest.mark.parametrize('scope', ['mmpretrain', 'mmdet', 'mmseg'])
def test_a_missing_toolbox_is_named_with_what_to_install(in_tmp, monkeypatch, scope: str) -> None:
    (in_tmp / 'other.py').write_text(f"default_scope = '{scope}'")
    monkeypatch.setitem(sys.modules, scope, None)
    with pytest.raises(ConfigError, match=rf"{scope} is not installed: pip install 'mmfixnorm\["):
        load_config('other.py')


def test_an_error_of_the_training_itself_keeps_its_traceback(train, toy, monkeypatch) -> None:
    import toy_task

    def broken(self, *args, **kwargs):
        raise ValueError('a bug')

    monkeypatch.setattr(toy_task.ToyNet, 'forward', broken)
    with pytest.raises(ValueError, match='a bug'):
        train([toy])
