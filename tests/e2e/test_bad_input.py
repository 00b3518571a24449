"""Mistakes that show only when training begins: a clear message, status 2, no traceback."""

from urllib.error import URLError

import pytest
import torch
from mmengine.hooks import IterTimerHook

from mmfixnorm.cli.evaluate import main as evaluate
from mmfixnorm.cli.train import main

HOOK = "custom_hooks = [dict(type='FixNormHook')]"
CASES = {
    'no_final_linear_layer': (
        'wd',
        "model = dict(head=dict(_delete_=True, type='ClsHead'))",
        'layer=None is not a linear layer of the model',
    ),
    'empty_set_of_the_hook': (
        'wd',
        "custom_hooks = [dict(type='FixNormHook', exclude=['.'])]",
        'FixNormHook: the norm-fixing set is empty',
    ),
    'fixed_twice': ('fixnorm', HOOK, 'norm fixing is set up twice'),
}


@pytest.fixture
def train(digits, tmp_path, monkeypatch, capsys, pytestconfig):
    """Runs ``mmfixnorm train`` for an epoch on a child of a digits config; returns status and stderr."""
    root = pytestconfig.rootpath
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/digits').symlink_to(digits)

    def run(method, change='', *options, epochs=1):
        base = root / f'configs/digits/resnet8_{method}_1xb64-20e_digits.py'
        (tmp_path / 'child.py').write_text(
            f'_base_ = [{str(base)!r}]\n{change}\nparam_scheduler = []\ntrain_cfg = dict(max_epochs={epochs})\n'
        )
        status = main(['child.py', '--work-dir', 'run', *options])
        return status, capsys.readouterr().err

    return run


@pytest.mark.parametrize('method, change, message', CASES.values(), ids=CASES)
def test_mistake_is_told_without_a_traceback(train, method, change, message):
    status, err = train(method, change)
    assert status == 2
    assert message in err
    assert 'Traceback' not in err


@pytest.mark.parametrize(
    ('start', 'key'),
    [
        ("init_cfg=dict(type='Pretrained', checkpoint='http://127.0.0.1:9/r8.pth')", 'model.backbone.init_cfg'),
        ("init_cfg=[dict(type='Pretrained', checkpoint='http://127.0.0.1:9/r8.pth')]", 'model.backbone.init_cfg'),
    ],
)
def test_pretrained_weights_that_cannot_be_downloaded_name_their_key(train, start, key):
    status, err = train('fixnorm', f'model = dict(backbone=dict({start}))')
    assert status == 2
    assert f"{key}='http://127.0.0.1:9/r8.pth': weights that cannot be downloaded" in err
    assert f'to train from scratch, set {key} to None' in err
    assert 'Traceback' not in err


def test_a_checkpoint_that_is_not_folded_is_refused_in_the_plain_config(train, tmp_path, capsys):
    assert train('fixnorm')[0] == 0
    child = (tmp_path / 'child.py').read_text()
    (tmp_path / 'plain.py').write_text(child.replace('resnet8_fixnorm_', 'resnet8_wd_'))
    assert evaluate(['plain.py', 'run/epoch_1.pth', '--work-dir', 'tested']) == 2
    err = capsys.readouterr().err
    assert "the scale g of WN or FixNorm layers, which are plain in this config: 'head.fc'" in err
    assert 'fold_fixnorm.py' in err
    assert evaluate(['child.py', 'run/epoch_1.pth', '--work-dir', 'tested']) == 0
    assert train('wd', "load_from = 'run/epoch_1.pth'")[0] == 0
    logs = ''.join(log.read_text() for log in (tmp_path / 'run').rglob('*.log'))
    assert logs.count("the scale g of WN or FixNorm layers, which are plain in this config: 'head.fc'") == 1


@pytest.fixture
def downloaded(tmp_path, monkeypatch):
    """The config line of a backbone whose weights lie in the cache of downloads."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    file = tmp_path / 'hub' / 'checkpoints' / 'there.pth'
    file.parent.mkdir(parents=True)
    torch.save({'state_dict': {}}, file)
    init_cfg = "dict(type='Pretrained', checkpoint='https://nowhere.invalid/there.pth')"
    return f'model = dict(backbone=dict(init_cfg={init_cfg}))\n'


def test_a_download_that_fails_is_blamed_on_the_weights_that_are_missing(train, downloaded):
    status, err = train('fixnorm', f"{downloaded}load_from = 'http://127.0.0.1:9/r8.pth'")
    assert status == 2
    assert "child.py: load_from='http://127.0.0.1:9/r8.pth': weights that cannot be downloaded" in err
    assert 'there.pth' not in err


def test_a_download_of_a_hook_that_fails_keeps_its_traceback(train, downloaded, monkeypatch):
    def failing(*args, **kwargs):
        raise URLError('the report server is down')

    monkeypatch.setattr(IterTimerHook, '_after_iter', failing)
    with pytest.raises(URLError, match='the report server is down'):
        train('fixnorm', downloaded)


STARTS = {
    'load_from': ("load_from = 'missing.pth'", "load_from: no such checkpoint: 'missing.pth'"),
    'pretrained': (
        "model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='missing.pth')))",
        "model.backbone.init_cfg.checkpoint: no such checkpoint: 'missing.pth'",
    ),
    'folders without images': (
        "train_dataloader = dict(dataset=dict(data_root='empty', data_prefix=''))",
        'train_dataloader.dataset: no image in the folders below',
    ),
    'an angle beyond pi': (
        "optim_wrapper = dict(update='angle', optimizer=dict(lr=4.0))",
        "optim_wrapper.optimizer.lr: with update='angle' it is an angle from 0 to pi, in radians, got 4.0",
    ),
}


@pytest.mark.parametrize('change, message', STARTS.values(), ids=STARTS)
def test_what_a_training_cannot_start_from_is_told_before_it(train, tmp_path, change, message):
    (tmp_path / 'empty' / '0').mkdir(parents=True)
    status, err = train('fixnorm', change)
    assert (status, 'Traceback' in err) == (2, False)
    assert message in err


def test_a_checkpoint_with_the_groups_of_another_config_is_not_resumed(train):
    assert train('fixnorm')[0] == 0
    status, err = train('wd', '', '--resume', 'run/epoch_1.pth', epochs=2)
    assert (status, 'Traceback' in err) == (2, False)
    assert 'resume: the optimizer of the checkpoint has other parameter groups' in err
