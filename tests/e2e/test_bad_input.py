"""Mistakes that show only when training begins: a clear message, status 2, no traceback."""

import pytest

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
    assert f"{key}='http://127.0.0.1:9/r8.pth': pretrained weights that cannot be downloaded" in err
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


@pytest.mark.slow
def test_resume_from_a_run_of_another_method_is_refused_and_its_checkpoint_stays(train, tmp_path):
    assert train('wd')[0] == 0
    before = (tmp_path / 'run/epoch_1.pth').read_bytes()
    status, err = train('wd', HOOK, '--resume', epochs=2)
    assert status == 2
    assert "no state 'fix_norm'" in err
    assert 'Use load_from instead of resume' in err
    assert (tmp_path / 'run/epoch_1.pth').read_bytes() == before
