"""The command tree: names, help, exit status, and what starting it imports."""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import DictAction

from mmfixnorm import __version__, cli
from mmfixnorm.cli._arguments import add_cfg_options
from mmfixnorm.cli._parser import CommandParser, run_command
from mmfixnorm.errors import ConfigError

ROOT = Path(__file__).parents[2]
TOOLBOXES = {'mmcv', 'mmdet', 'mmpretrain', 'mmseg'}
# Each takes longer than to read a command line.
SLOW = {'torch', 'mmengine', 'numpy', 'rich', 'plotly', 'optuna', 'sqlalchemy', 'matplotlib', 'scipy', 'yapf'}
MODULES_OF = """
import json, sys
from mmfixnorm.cli import main
try:
    status = main(sys.argv[1:])
except SystemExit as end:
    status = end.code
print(json.dumps([status, sorted({name.partition('.')[0] for name in sys.modules})]))
"""


def ended(process: subprocess.CompletedProcess[str]) -> tuple[int, set[str]]:
    """The exit status and the modules that ``MODULES_OF`` printed."""
    assert process.returncode == 0, process.stderr
    status, modules = json.loads(process.stdout.splitlines()[-1])
    return status, set(modules)


def test_the_help_of_the_tree_names_each_command_and_imports_nothing_slow(python) -> None:
    done = python('-c', MODULES_OF, '--help')
    status, modules = ended(done)
    assert status == 0
    assert not modules & (TOOLBOXES | SLOW)
    assert all(f'\n    {name} ' in done.stdout for name in cli.COMMANDS)


def test_the_help_of_each_command_imports_nothing_slow(python, words) -> None:
    done = python('-c', MODULES_OF, *words, '--help')
    status, modules = ended(done)
    assert status == 0
    assert not modules & (TOOLBOXES | SLOW)
    assert done.stdout.startswith(f'usage: mmfixnorm {" ".join(words)} [-h]')


def test_a_search_is_planned_begun_and_shown_without_torch(python, tmp_path) -> None:
    shutil.copyfile(ROOT / 'tests/tiny/search.py', tmp_path / 'config.py')
    printed = {}
    record = {'optuna', 'sqlalchemy'}  # they write it
    for action, options, expected, needed in (
        ('plan', [], 0, set()),
        ('run', ['--executor', 'manual'], 3, record | {'plotly'}),
        ('status', [], 0, set()),
    ):
        printed[action] = python('-c', MODULES_OF, 'search', action, 'config.py', *options)
        status, modules = ended(printed[action])
        assert status == expected, printed[action].stderr
        assert not modules & (TOOLBOXES | {'torch', 'plotly', 'matplotlib', 'scipy'} | record) - needed
    assert 'in all: 15 trainings, 11 T_max' in printed['plan'].stdout
    assert 'then: mmfixnorm search tell' in printed['run'].stderr
    assert 'no stage has finished yet' in printed['status'].stdout


def test_python_m_mmfixnorm_is_the_command(python) -> None:
    done = python('-m', 'mmfixnorm', '--version')
    assert (done.returncode, done.stdout) == (0, f'mmfixnorm {__version__}\n')


@pytest.mark.parametrize(
    'argv, message',
    [
        ([], 'the following arguments are required: COMMAND'),
        (['serch', 'run'], "mmfixnorm: error: no command 'serch', did you mean 'search'? (choose from train, test,"),
        (['xyz'], "no command 'xyz' (choose from"),
        (['analyze'], 'the following arguments are required: COMMAND'),
        (['analyze', 'weight_norm'], "mmfixnorm analyze: error: no command 'weight_norm', did you mean 'weight-norm'?"),
        (['train'], 'mmfixnorm train: error: the following arguments are required: config'),
        (['train', 'c.py', '--work-dri', 'x'], 'mmfixnorm train: error: unrecognized arguments: --work-dri x'),
        (['train', 'c.py', '--cfg-options', 'lr'], "argument --cfg-options: must be KEY=VALUE, got 'lr'"),
        (['train', 'c.py', '--cfg-options', "a.b={'type':'AdamW'}"], 'a.b: a dict cannot be given, got'),
        (['convert', 'c.py', '-o', 'n.py', '--size', '0'], 'argument --size: must be an integer >= 1, got 0'),
        (['audit', 'c.py', '--images', '-4'], 'argument --images: must be an integer >= 1, got -4'),
        (['search', 'stop', 'c.py'], "mmfixnorm search: error: argument action: invalid choice: 'stop'"),
    ],
)
def test_a_mistake_in_the_command_line_ends_with_status_2(capsys, argv, message) -> None:
    with pytest.raises(SystemExit, match='2'):
        cli.main(argv)
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith(f'usage: {message.partition(": error")[0] if ": error" in message else "mmfixnorm"}')


NOWHERE = {  # what each command says of a path that is not there
    ('train',): (['nowhere.py'], 'nowhere.py: no such config file'),
    ('test',): (['nowhere.py', 'x.pth'], 'nowhere.py: no such config file'),
    ('audit',): (['nowhere.py'], 'nowhere.py: no such config file'),
    ('convert',): (['nowhere.py', '-o', 'new.py'], 'nowhere.py: no such config file'),
    ('search',): (['status', 'nowhere.py'], 'nowhere.py: no such config file'),
    ('lr-range',): (['nowhere.py'], 'nowhere.py: no such config file'),
    ('fold',): (['nowhere.py', 'x.pth', 'y.pth'], 'nowhere.py: no such config file'),
    ('analyze', 'accuracy'): (['nowhere'], 'mmfixnorm analyze accuracy: nowhere: no log of a training here'),
    ('analyze', 'classifier-scale'): (['nowhere'], 'mmfixnorm analyze classifier-scale: nowhere: no log'),
    ('analyze', 'lr-alpha-grid'): (['nowhere'], 'nowhere: no record of a search here'),
    ('analyze', 'model-complexity'): (['nowhere.py'], 'mmfixnorm analyze model-complexity: no such config file'),
    ('analyze', 'search-progress'): (['nowhere'], 'nowhere: no record of a search here'),
    ('analyze', 'weight-norm'): (['nowhere'], 'mmfixnorm analyze weight-norm: nowhere: no log of a training here'),
}


def test_each_command_tells_of_a_path_that_is_not_there_in_one_line_with_status_2(
    words, capsys, monkeypatch, tmp_path
) -> None:
    monkeypatch.chdir(tmp_path)
    argv, message = NOWHERE[words]
    assert cli.main([*words, *argv]) == 2
    err = capsys.readouterr().err
    assert err.count('\n') == 1
    assert message in err


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Make a command out of the body of its ``run``; return its parser."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(body: str) -> CommandParser:
        source = (
            '"""Doc."""\nfrom mmfixnorm.errors import ConfigError\ndef add_arguments(parser): pass\ndef run(args):\n'
        )
        (tmp_path / 'a_command.py').write_text(f'{source}    {body}\n')
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, 'a_command', raising=False)
        return CommandParser(module='a_command', prog='prog')

    return make


def test_a_config_error_becomes_status_2_and_every_other_error_stays_one(command, capsys) -> None:
    assert run_command(command("raise ConfigError('the reason')"), []) == 2
    assert capsys.readouterr().err == 'prog: the reason\n'
    assert issubclass(ConfigError, ValueError)
    with pytest.raises(ValueError, match='a bug'):
        run_command(command("raise ValueError('a bug')"), [])
    assert run_command(command('return 3'), []) == 3


@pytest.mark.parametrize(
    'where', ['mmfixnorm.search.problem.load_problem', 'mmfixnorm.cli.search.add_cfg_options'], ids=['run', 'start']
)
def test_ctrl_c_ends_a_command_with_status_130(monkeypatch, where) -> None:
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupt)
    assert cli.main(['search', 'status', 'config.py']) == 130


OPTIONS = ['a.b=1', 'c=x,y', 'd=[1,2.5,(3,none)]', 'e=True', 'f="[a,b]"', 'g=k=v']


def test_cfg_options_are_read_as_mmengine_reads_them() -> None:
    ours, theirs = CommandParser(), CommandParser()
    add_cfg_options(ours, help='')
    theirs.add_argument('--cfg-options', nargs='+', action=DictAction)
    argv = ['--cfg-options', *OPTIONS, '--cfg-options', 'a.b=2']
    parsed = ours.parse_args(argv)
    assert parsed == theirs.parse_args(argv)
    assert parsed.cfg_options['a.b'] == 2


@pytest.mark.parametrize(
    'word, value',
    [
        ('a=my images', 'my images'),
        ('a= my  images ', 'my  images'),
        ("a='my images'", 'my images'),
        ('a=images (old)', 'images (old)'),
        ('a=[my cat, my dog]', ['my cat', 'my dog']),
        ("a=\"['my cat', 'my dog']\"", ['my cat', 'my dog']),
        ('a=my cat,my dog', ['my cat', 'my dog']),
        ('a=(1, [2 , x y])', (1, [2, 'x y'])),
        ('a=[1, 2.5, (3, None)]', [1, 2.5, (3, None)]),
        ('a= 0.4', 0.4),
        ('a=[1 2]', ['1 2']),
    ],
)
def test_cfg_options_keep_the_spaces_of_a_value(word, value) -> None:
    parser = CommandParser()
    add_cfg_options(parser, help='')
    assert parser.parse_args(['--cfg-options', word]).cfg_options == {'a': value}


def test_the_help_of_search_says_how_many_rows_are_shown() -> None:
    from mmfixnorm.search.terminal.console import SHOWN_ROWS

    parser = CommandParser(module='mmfixnorm.cli.search')
    parser.load()
    assert f'not only the last {SHOWN_ROWS}\n' in parser.format_help()


@pytest.mark.slow
def test_the_benchmark_compares_the_start_of_commands_with_python_and_torch(python) -> None:
    done = python(ROOT / 'benchmarks/command_startup.py', '--runs', '1')
    assert done.returncode == 0, done.stderr
    lines = {line['command']: line for line in map(json.loads, done.stdout.splitlines())}
    assert lines['python -c pass']['of_pass'] == lines['python -c import torch']['of_torch'] == 1
    assert {'python -m mmfixnorm --help', 'python -m mmfixnorm search status config.py'} <= lines.keys()
