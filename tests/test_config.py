"""Reading configs: those that packages install, those in pure Python, and what is told of a mistake in them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.utils import get_installed_path

from mmfixnorm.config import base_of, load_config, turns_by_angle, with_names
from mmfixnorm.errors import ConfigError
from mmfixnorm.failures import not_valid
from mmfixnorm.launch import build_model
from mmfixnorm.search import load_problem

SEG = 'mmseg::fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py'


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a file of an otherwise empty folder that is the current one; return its name."""
    monkeypatch.chdir(tmp_path)

    def written(text, name='config.py'):
        Path(name).write_text(text)
        return name

    return written


@pytest.mark.parametrize('base', [f'{SEG!r}', f'[{SEG!r}]'])
def test_a_base_of_mmseg_is_found_under_any_name_of_its_package(write, base) -> None:
    pytest.importorskip('mmseg')
    assert load_config(write(f'_base_ = {base}')).model.decode_head.type == 'FCNHead'


def test_a_package_of_another_name_is_found_by_its_module(write, tmp_path, monkeypatch) -> None:
    config = tmp_path / 'site/mmaction/.mim/configs/x/y.py'
    config.parent.mkdir(parents=True)
    config.write_text('found = 1')
    (tmp_path / 'site/mmaction/__init__.py').touch()
    (tmp_path / 'site/mmaction/.mim/model-index.yml').write_text('Import: []')
    write("_base_ = ['mmaction::x/y.py']")
    code = "from mmfixnorm.config import load_config; print(load_config('config.py').found)"
    paths = os.pathsep.join([str(tmp_path / 'site'), str(Path(__file__).parents[1])])
    env = {**os.environ, 'PYTHONPATH': paths}
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=env, check=False)
    assert done.stdout == '1\n', done.stderr


OPTIONS = {  # of a config with `a = dict(max_epochs=3, x=[dict(b=1)])` -> what is meant; None: it is taken
    'serch.type': 'search',
    'optim_wraper.optimizer.lr': 'optim_wrapper',
    'a.max_epoch': 'a.max_epochs',
    'a.maxEpochs': 'a.max_epochs',
    'a.max_epochs': None,
    'a.new': None,
    'a.x.0.b': None,
    'randomness.seed': None,
    'my_own': None,
    'b.5': None,
}


def test_options_that_bring_another_class_bring_its_keys(write):
    config = write("a = dict(type='One', target=1.0)")
    cfg = load_config(config, cfg_options={'a.type': 'Many', 'a.targets': 'equal', 'a.target': None})
    assert cfg.a == dict(type='Many', target=None, targets='equal')


@pytest.mark.parametrize(('option', 'meant'), OPTIONS.items(), ids=OPTIONS)
def test_an_option_that_nothing_reads_for_a_slip_is_refused(write, option, meant):
    config = write('a = dict(max_epochs=3, x=[dict(b=1)])\nb = {0: 1}')
    if meant is None:
        load_config(config, cfg_options={option: 5})
        return
    with pytest.raises(ConfigError, match=rf"--cfg-options: '{option}': no such key, did you mean '{meant}'\?"):
        load_config(config, cfg_options={option: 5})


def test_an_option_that_mmengine_cannot_merge_is_told(write):
    with pytest.raises(ConfigError, match=r"--cfg-options \{'a\.0': 5\}: "):
        load_config(write('a = [1]'), cfg_options={'a.0': 5})


def test_a_config_is_named_as_in_a_base(monkeypatch, tmp_path) -> None:
    mmseg = pytest.importorskip('mmseg')
    monkeypatch.chdir(tmp_path)
    stock = Path(mmseg.__file__).parent / '.mim/configs' / SEG.partition('::')[2]
    assert load_config(SEG).to_dict() == Config.fromfile(stock).to_dict()
    assert base_of(SEG, 'anywhere') == SEG
    with pytest.raises(ConfigError, match="no such config file: 'mmseg::fcn/no.py'"):
        load_config('mmseg::fcn/no.py')
    with pytest.raises(ConfigError, match='mmpose is not installed'):
        load_config('mmpose::x/y.py')


@pytest.mark.skipif(
    not Path(get_installed_path('mmfixnorm'), '.mim').exists(), reason='mmengine does not find an editable install'
)
def test_names_in_a_config_of_this_package_are_of_the_toolbox(write) -> None:
    """mmengine notes ``_scope_='mmfixnorm'`` in what is inherited, under which no registry finds anything."""
    base = 'mmfixnorm::digits/resnet8_fixnorm_1xb64-20e_digits.py'
    cfg = load_config(write(f'_base_ = [{base!r}]\npipeline = _base_.train_pipeline\n'))
    assert '_scope_' not in cfg.pretty_text
    assert type(build_model(cfg)).__module__.startswith('mmpretrain.')
    assert load_problem('config.py', needs_data=False).settings.lr_range == (0.2, 3.2)


def test_settings_of_a_search_have_no_scope(write) -> None:
    cfg = load_config(
        write("_base_ = ['mmpretrain::_base_/default_runtime.py']\nsearch = dict(_scope_='mmpretrain')\n")
    )
    assert '_scope_' not in cfg.search
    assert cfg.visualizer['_scope_'] == 'mmpretrain'


def test_a_base_is_found_from_a_folder_that_is_a_link(write, tmp_path) -> None:
    (tmp_path / 'disk/deep/runs').mkdir(parents=True)
    Path('project').mkdir()
    write('value = 1', 'project/plain.py')
    Path('project/work_dirs').symlink_to(tmp_path / 'disk/deep/runs')
    write(f'_base_ = [{base_of("project/plain.py", "project/work_dirs")!r}]', 'project/work_dirs/new.py')
    assert load_config('project/work_dirs/new.py').value == 1
    assert load_config(tmp_path / 'disk/deep/runs/new.py').value == 1


def test_a_base_is_relative_where_no_link_is_in_between(write, tmp_path) -> None:
    Path('real/sub').mkdir(parents=True)
    Path('link').symlink_to('real')
    write('value = 1', 'real/plain.py')
    # So that both can move together; the link above both does not matter.
    assert base_of('real/plain.py', 'real/sub') == '../plain.py'
    assert base_of('link/plain.py', 'link/sub') == '../plain.py'
    write("_base_ = ['../plain.py']", 'link/sub/new.py')
    assert load_config('link/sub/new.py').value == 1


TRANSLATED = """
from torch.optim import SGD
from mmengine.optim import OptimWrapper as Wrapper
import mmengine.hooks
steps = [1, 2]
optim_wrapper = dict(type=Wrapper, optimizer=dict(type=SGD, lr=0.1))
custom_hooks = [dict(type=mmengine.hooks.EMAHook)]
def helper(): pass
"""


def test_classes_become_names_without_being_imported(write) -> None:
    write(TRANSLATED)
    code = (
        'import sys; from mmfixnorm.config import *; cfg = with_names(load_config("config.py"));'
        'print(cfg.to_dict(), "torch" in sys.modules)'
    )
    env = {**os.environ, 'PYTHONPATH': str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=env, check=True)
    expected = dict(
        steps=[1, 2],
        optim_wrapper=dict(type='mmengine.optim.OptimWrapper', optimizer=dict(type='torch.optim.SGD', lr=0.1)),
        custom_hooks=[dict(type='mmengine.hooks.EMAHook')],
    )
    assert done.stdout == f'{expected} False\n'


def test_a_class_that_no_part_is_built_from_is_named_by_its_key(write) -> None:
    cfg = load_config(write('from torch.nn import GELU\nmodel = dict(type="X", layers=[dict(act=GELU)])'))
    with pytest.raises(ConfigError, match=r'^model\.layers\.0\.act: a class or function'):
        with_names(cfg)


def test_custom_imports_of_a_config_in_pure_python_are_imported(write, monkeypatch, tmp_path) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    write('from torch.optim import SGD\ncustom_imports = dict(imports=["seen_here"], allow_failed_imports=False)')
    with pytest.raises(ConfigError, match="custom_imports: No module named 'seen_here'"):
        load_config('config.py')
    write('', 'seen_here.py')
    load_config('config.py')
    assert sys.modules.pop('seen_here').__file__ == str(tmp_path / 'seen_here.py')


PURE = 'makes it a config in pure Python'


@pytest.mark.parametrize(
    'text, message',
    [
        ('\nimport numpy\nx = numpy.zeros(3)', f'config.py, line 3: .*config.py, line 2: `import numpy` {PURE}'),
        ("_base_ = ['base.py']", f'/base.py, line 2: `from numpy import zeros` {PURE}.*write with read_base'),
        ("import torch\n_base_ = ['plain.py']", f'config.py, line 1: `import torch` {PURE}'),
        ("_base_ = 'mmpose::x/y.py'", '_base_: the package mmpose is missing: mmpose is not installed'),
        ("\nx = __import__('no_such')", 'config.py, line 2: ModuleNotFoundError: .*no_such'),
        ("custom_imports = dict(imports=['no_such'])", "custom_imports: No module named 'no_such'"),
    ],
)
def test_what_an_import_does_to_a_config_is_told(write, text, message) -> None:
    write('', 'plain.py')
    write('x = 1\nfrom numpy import zeros\n', 'base.py')
    with pytest.raises(ConfigError, match=message) as raised:
        load_config(write(text))
    assert 'lazy_import' not in str(raised.value)


def test_an_editable_install_without_configs_is_told() -> None:
    """mmengine 0.10 looks beside the metadata of a package, where an editable install has no files."""
    err = FileNotFoundError(2, 'No such file or directory', '/env/site-packages/mmfixnorm/.mim/model-index.yml')
    told = 'looks for the configs of mmfixnorm in /env/site-packages/mmfixnorm, where an editable install has none'
    assert told in str(not_valid(err, 'config.py'))


def test_the_advice_for_a_library_works(write) -> None:
    cfg = load_config(write("np = __import__('numpy')\nx = np.ones(2).tolist()"))
    assert cfg.to_dict() == {'x': [1.0, 1.0]}


BY_ANGLE = {
    "optim_wrapper = dict(type='FixNormOptimWrapper', update='angle')": True,
    "optim_wrapper = dict(type='FixNormOptimWrapper')": False,
    "custom_hooks = [dict(type='EMAHook'), dict(type='FixNormHook', update='angle')]": True,
    "custom_hooks = [dict(type='FixNormHook')]": False,
    '': False,
}


@pytest.mark.parametrize(('text', 'expected'), BY_ANGLE.items())
def test_the_learning_rate_is_an_angle_by_the_wrapper_or_by_the_hook(write, text, expected):
    assert turns_by_angle(load_config(write(text))) is expected
