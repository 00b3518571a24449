"""Every command of the README and of docs/: it is in the table here, its tool takes its options, a test runs it.

``RUN`` names the test that runs a program for real, ``NOT_RUN`` says why none does. The tests at the end of this
file take the command lines themselves from the pages, put real names in place of CONFIG and the like, and make
them shorter: one training, one epoch, a few images.
"""

import argparse
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
import torch

from mmfixnorm.config import HOOK_NAMES
from mmfixnorm.launch import load_config
from mmfixnorm.search.methods import parse_settings
from mmfixnorm.search.record.study import read_record
from tests.tiny.own import write_boxes, write_masks

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md'))]
HERE = 'tests/e2e/test_doc_commands.py'
FIGURES = 'tests/analysis/test_tools.py'

RUN = {  # program -> the test that runs it
    'mmfixnorm': 'tests/cli/test_doors.py::test_a_door_has_the_help_of_its_command_from_any_folder',
    'tools/train.py': f'{HERE}::test_digits_by_the_commands',
    'tools/test.py': f'{HERE}::test_digits_by_the_commands',
    'tools/model_converters/fold_fixnorm.py': f'{HERE}::test_digits_by_the_commands',
    'tools/fixnorm_audit.py': f'{HERE}::test_digits_by_the_commands',
    'tools/fixnorm_convert.py': f'{HERE}::test_digits_by_the_commands',
    'tools/dist_train.sh': 'tests/tools/test_scripts.py::'
    'test_dist_train_trains_and_resumes_with_equal_weights_on_both_ranks',
    'tools/slurm_train.sh': 'tests/tools/test_scripts.py::test_slurm_scripts_train_two_tasks_and_test',
    'tools/fixnorm_lr_range.py': f'{HERE}::test_the_range_of_the_learning_rate_by_the_command',
    'tools/fixnorm_search.py plan': f'{HERE}::test_a_search_by_the_commands',
    'tools/fixnorm_search.py run': f'{HERE}::test_a_search_by_the_commands',
    'tools/fixnorm_search.py status': f'{HERE}::test_a_search_by_the_commands',
    'tools/fixnorm_search.py report': f'{HERE}::test_a_search_by_the_commands',
    'tools/fixnorm_search.py export': f'{HERE}::test_a_search_by_the_commands',
    'tools/fixnorm_search.py tell': f'{HERE}::test_a_search_by_hand_by_the_commands',
    'tools/analysis/weight_norm.py': f'{FIGURES}::test_weight_norm_draws_what_the_weights_really_have',
    'tools/analysis/accuracy.py': f'{FIGURES}::test_a_resumed_run_is_drawn_as_an_uninterrupted_one',
    'tools/analysis/classifier_scale.py': f'{FIGURES}::'
    'test_classifier_scale_and_accuracy_draw_two_methods_and_two_seeds',
    'tools/analysis/lr_alpha_grid.py': f'{FIGURES}::test_lr_alpha_grid_draws_a_grid',
    'tools/analysis/search_progress.py': f'{FIGURES}::test_search_progress_draws_several_searches',
    'tools/analysis/model_complexity.py': 'tests/tools/test_model_complexity.py::'
    'test_both_forms_of_every_model_have_the_paper_s_parameters_and_flops',
    'tools/dataset_converters/digits.py': f'{HERE}::test_digits_by_the_commands',
    'tools/dataset_converters/cifar10.py': f'{HERE}::test_a_benchmark_by_its_command',
    'benchmarks/angle_meter.py': f'{HERE}::test_a_benchmark_by_its_command',
    'benchmarks/audit_cost.py': f'{HERE}::test_a_benchmark_by_its_command',
    'benchmarks/convert_stock.py': 'tests/tools/test_fixnorm_convert.py::'
    'test_a_stock_config_is_converted_passes_the_audit_and_trains_with_its_norm_held',
    'benchmarks/frozen_bn.py': 'tests/convert/test_frozen_bn.py::'
    'test_a_small_detector_computes_the_same_is_invariant_trains_and_folds',
    'benchmarks/driver_cost.py': f'{HERE}::test_a_benchmark_by_its_command',
    'benchmarks/driver_kills.py': 'tests/search/test_kills.py::test_random_kills_lose_nothing_and_double_nothing',
    'benchmarks/driver_makespan.py': 'tests/search/test_makespan.py::test_no_worker_waits_while_a_trial_is_ready',
    'benchmarks/evidence/report.py': 'tests/test_evidence.py::test_the_pages_have_the_tables_that_the_raw_results_make',
    'benchmarks/ema_rescale.py': f'{HERE}::test_a_benchmark_by_its_command',
    'benchmarks/head.py': f'{HERE}::test_a_benchmark_by_its_command',
    'benchmarks/in_memory_loader.py': f'{HERE}::test_a_benchmark_by_its_command',
    'benchmarks/large_study.py': 'tests/search/test_large.py::test_2000_trials_are_told_in_less_than_5_mb',
    'benchmarks/norm_fixing.py': f'{HERE}::test_a_benchmark_by_its_command',
    'benchmarks/record_search.py': 'tests/search/terminal/test_recording.py::test_a_live_search_is_recorded',
    'benchmarks/search_kills.py': 'tests/search/test_kills.py::test_kills_at_a_terminal_and_an_edit_mix_nothing',
    'benchmarks/tuners/exact_savings.py': 'tests/search/test_lr_tables.py::'
    'test_the_recorded_searches_choose_what_they_chose',
    'benchmarks/tuners/lr_tables.py': 'tests/search/test_lr_tables.py::'
    'test_every_method_is_played_and_costs_what_it_is_named_for',
    'benchmarks/tuners/replay.py': 'tests/search/test_replay.py::test_without_noise_it_is_the_search_on_the_formula',
    'benchmarks/wd_against_fixnorm.py': f'{HERE}::test_a_benchmark_by_its_command',
    'optuna-dashboard': 'tests/search/record/test_dashboard.py::'
    'test_it_shows_every_attempt_with_its_value_and_its_tuned_numbers',
}
NOT_RUN = {
    'make': 'it makes the environment that the tests run in; its targets are looked up',
    'pip install': 'it changes the environment that the tests run in; its extras are looked up',
    'pre-commit install': 'it changes the hooks of the repository',
    'benchmarks/evidence/run.py': 'hours: several hundred trainings',
    'benchmarks/figures.sh': '45 minutes; its syntax is checked',
    'benchmarks/lr_from.py': 'a quarter of an hour: 45 trainings of the digits',
    'benchmarks/lr_range.py': 'a quarter of an hour: ramps of nine networks',
    'benchmarks/negative_scale.py': 'half an hour: three trainings of ResNet-18',
    'benchmarks/train_iteration.py': 'its processes build ResNet-50 24 times; minutes at the least',
    'benchmarks/tuners/make_table.py': 'hours: 1086 trainings',
}
# What stands for a value, where a tool wants a number or a list.
NUMBERS = {'A': '2', 'LO': '0.1', 'HI': '1.6', 'PX': '32', 'k=v': 'train_cfg.max_epochs=1'}


class Command(NamedTuple):
    """A command of a page in words, with the optional ones in brackets, without brackets, ellipsis and comment."""

    page: str
    words: tuple[str, ...]

    @property
    def program(self) -> str:
        first, *rest = self.words
        # Only these are several programs in one.
        return f'{first} {rest[0]}' if first in ('tools/fixnorm_search.py', 'pip', 'pre-commit') else first

    @property
    def arguments(self) -> list[str]:
        return [NUMBERS.get(word, word) for word in self.words[1:]]


FENCE = re.compile(r'^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$', re.DOTALL | re.MULTILINE)
INLINE = re.compile(
    r'`((?:\w+=\S+\s+)?(?:python|make|pip|mim|mmfixnorm|pre-commit|optuna-dashboard|(?:tools|benchmarks)/\S+\.py)\s[^`]+'
    r'|benchmarks/\w+\.sh)`'
)


def shell_lines(text: str) -> list[str]:
    """The commands of a page of Markdown, in blocks and in running text."""
    blocks = [m['text'] for m in FENCE.finditer(text) if m['language'] in ('', 'sh', 'bash', 'console', 'shell')]
    lines = [line for block in blocks for line in block.replace('\\\n', ' ').splitlines()]
    return [*lines, *(' '.join(span.split()) for span in INLINE.findall(FENCE.sub('', text)))]


# ``mmfixnorm search`` and the like -> the script that is a door to it, as the script itself says.
DOORS = {
    tuple(door[1].split()): str(path.relative_to(ROOT))
    for path in (ROOT / 'tools').rglob('*.py')
    if (door := re.search(r'^"""``(mmfixnorm [a-z -]+)``', path.read_text(), re.MULTILINE))
}


def read_command(page: str, line: str) -> Command | None:
    words = [word.strip('[]') for word in shlex.split(line, comments=True)]
    words = [word for word in words if word not in ('...', 'python')]
    while words and re.match(r'[A-Z_]+=', words[0]):
        del words[0]
    for length in (3, 2):  # the table has one row for a command and its script
        if script := DOORS.get(tuple(words[:length])):
            words[:length] = [script]
    return Command(page, tuple(words)) if words else None


COMMANDS = [
    command
    for page in PAGES
    for line in shell_lines(page.read_text())
    if (command := read_command(page.name, line)) is not None
]
SCRIPTS = list(dict.fromkeys(command for command in COMMANDS if '/' in command.words[0]))


class Parsed(Exception):  # noqa: N818
    """Ends a script when it has read its command line."""


def run_script(script: str, *arguments: object) -> int:
    """Run a script of this project in this process, as its command line would; return the exit status."""
    path = ROOT / script
    argv = [str(path), *map(str, arguments)]
    search_path = [str(path.parent), *sys.path]
    patch = mock.patch.object
    with mock.patch.dict(os.environ), patch(sys, 'argv', argv), patch(sys, 'path', search_path):
        try:
            runpy.run_path(str(path), run_name='__main__')
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def check_options(script: str, arguments: list[str], monkeypatch, capsys) -> None:
    """Let a script read its command line and end there."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_end(self, args=None, namespace=None):
        raise Parsed(parse(self, args, namespace))

    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', parse_and_end)
    try:
        status = run_script(script, *arguments)
    except Parsed:
        return
    pytest.fail(f'{script} ended with {status}: {capsys.readouterr().err}')


def test_every_command_is_in_the_table_and_every_row_is_a_command():
    assert {command.program for command in COMMANDS} == RUN.keys() | NOT_RUN.keys()
    assert not RUN.keys() & NOT_RUN.keys()


@pytest.mark.parametrize('where', sorted(set(RUN.values())), ids=lambda where: where.rpartition('::')[2])
def test_the_tests_of_the_table_are_there(where):
    file, _, name = where.partition('::')
    assert f'\ndef {name}(' in (ROOT / file).read_text()


@pytest.mark.parametrize('command', SCRIPTS, ids=lambda command: ' '.join(command.words)[:90])
def test_a_script_takes_what_the_documentation_gives_it(command, monkeypatch, capsys):
    script, arguments = command.words[0], command.arguments
    assert (ROOT / script).is_file()
    configs = [word for word in command.words if word.startswith('configs/')]
    assert [config for config in configs if not (ROOT / config).is_file()] == []
    if script.endswith('.sh'):
        subprocess.run(['bash', '-n', str(ROOT / script)], check=True)
        assert os.access(ROOT / script, os.X_OK)
    if script == 'tools/dist_train.sh':  # CONFIG GPUS [arguments of train.py]
        assert arguments[1].isdigit()
        script, arguments = 'tools/train.py', [arguments[0], *arguments[2:]]
    elif script == 'tools/slurm_train.sh':  # PARTITION JOB_NAME CONFIG WORK_DIR [arguments of train.py]
        script, arguments = 'tools/train.py', [arguments[2], '--work-dir', *arguments[3:]]
    source = (ROOT / script).read_text()
    if script.endswith('.py') and 'parser' not in source and 'mmfixnorm.cli' not in source:  # it would run as it is
        assert arguments == []
    elif script.endswith('.py'):
        check_options(script, arguments, monkeypatch, capsys)


PAGE = """
```shell
python tools/new.py CONFIG [--size 3] \\
    [--names A ...]   # a comment
```
As `OMP_NUM_THREADS=1 python tools/new.py CONFIG` says, or `make new`, or `tools/new.py` with `size=3`.
Or `mmfixnorm search run CONFIG`, or `mmfixnorm analyze weight-norm DIR`.
"""


def test_commands_are_found_in_blocks_and_in_running_text():
    lines = shell_lines(PAGE)
    assert [read_command('page', line) for line in lines] == [
        Command('page', ('tools/new.py', 'CONFIG', '--size', '3', '--names', 'A')),
        Command('page', ('tools/new.py', 'CONFIG')),
        Command('page', ('make', 'new')),
        Command('page', ('tools/fixnorm_search.py', 'run', 'CONFIG')),
        Command('page', ('tools/analysis/weight_norm.py', 'DIR')),
    ]


def test_an_option_that_a_tool_does_not_have_is_noticed(monkeypatch, capsys):
    with pytest.raises(pytest.fail.Exception, match='unrecognized arguments: --work-dri DIR'):
        check_options('tools/train.py', ['CONFIG', '--work-dri', 'DIR'], monkeypatch, capsys)


def test_a_checkpoint_is_where_the_training_of_its_config_leaves_it():
    tests = [
        command.words
        for command in COMMANDS
        if command.program == 'tools/test.py' and command.words[1].startswith('configs/')
    ]
    assert tests
    for _, config, checkpoint, *_ in tests:
        cfg = load_config(ROOT / config, import_custom_modules=False).train_cfg
        last = f'epoch_{cfg.max_epochs}' if 'max_epochs' in cfg else f'iter_{cfg.max_iters}'
        assert checkpoint == f'work_dirs/{Path(config).stem}/{last}.pth'


def test_the_keys_of_cfg_options_are_in_the_config():
    changed = [c.words for c in COMMANDS if '--cfg-options' in c.words and c.words[1].startswith('configs/')]
    assert changed
    for words in changed:
        cfg = load_config(ROOT / words[1])
        for option in words[words.index('--cfg-options') + 1 :]:
            *path, last = option.partition('=')[0].split('.')
            node = cfg
            for key in path:
                node = node[int(key)] if key.isdigit() else node[key]
            assert last in node or node['type'] in HOOK_NAMES['WeightNormLoggerHook'], (
                option
            )  # arguments of a hook have defaults


def test_the_targets_of_make_and_the_extras_of_pip_are_there():
    targets = {word for c in COMMANDS if c.program == 'make' for word in c.words[1:]}
    phony = re.search(r'^\.PHONY: (.*)$', (ROOT / 'Makefile').read_text(), re.MULTILINE)
    assert phony is not None
    assert targets <= set(phony[1].split())
    extras = {extra for c in COMMANDS for word in c.words for extra in re.findall(r'^mmfixnorm\[(\w+)', word)}
    assert 'onedl' in extras
    assert extras <= set(metadata.metadata('mmfixnorm').get_all('Provides-Extra'))


def documented(program: str, *, of: str = '') -> list[list[str]]:
    """The different arguments that the pages give a program, in their order; with ``of``, those that have this word."""
    found = [command.arguments for command in COMMANDS if command.program == program]
    return [list(words) for words in dict.fromkeys(map(tuple, found)) if not of or of in words]


def filled(words: list[str], **values: object) -> list[str]:
    """Put real names in place of CONFIG and the like."""
    return [str(values.get(word, word)) for word in words]


@pytest.fixture
def folder(tmp_path, monkeypatch, forget_runs):
    """An empty folder beside configs/ and tools/, as the root of the repository is."""
    monkeypatch.chdir(tmp_path)
    for name in ('configs', 'tools', 'benchmarks'):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setenv('OMP_NUM_THREADS', '1')

    def run(script: str, *arguments: object) -> int:
        forget_runs()
        return run_script(script, *arguments)

    return run


ONE = """
_base_ = [{base!r}]
search = dict(lrs=[0.4])
"""


@pytest.fixture
def toy_search(tmp_path, monkeypatch, folder):
    """A search of one training of a second."""
    toy = ROOT / 'tests/search/toy_config.py'
    monkeypatch.setenv('PYTHONPATH', f'{toy.parent}:{ROOT}')
    monkeypatch.syspath_prepend(str(toy.parent))
    (tmp_path / 'one.py').write_text(ONE.format(base=str(toy)))
    return lambda *words: folder('tools/fixnorm_search.py', *filled(words, CONFIG='one.py'))


@pytest.mark.slow
def test_a_search_by_the_commands(toy_search, capsys, tmp_path):
    work_dir = tmp_path / 'work_dirs/one_search'
    commands = {
        action: documented(f'tools/fixnorm_search.py {action}')
        for action in ('plan', 'run', 'status', 'report', 'export')
    }
    generic = {a: [words for words in found if 'CONFIG' in words] for a, found in commands.items()}
    for words in generic['plan']:
        assert toy_search(*words) == 0
        assert 'in all: 1 trainings, 1 T_max' in capsys.readouterr().out
        assert not work_dir.exists()
    local = [words for words in generic['run'] if '--executor' not in words]
    assert local
    for words in local:  # the second one finds a search that is over
        assert toy_search(*words) == 0
    (attempt,) = read_record(work_dir).attempts
    assert attempt.result.outcome == 'done'
    for words in generic['status']:
        capsys.readouterr()
        assert toy_search(*words) == 0
        assert attempt.spec.key in capsys.readouterr().out
    for words in generic['export']:
        capsys.readouterr()
        assert toy_search(*words) == 0
        assert attempt.spec.key in capsys.readouterr().out
    others = [shutil.copytree(work_dir, tmp_path / name) for name in ('other', 'third')]
    for words in generic['report']:
        (work_dir / 'report.html').unlink()
        compared = iter(others)
        assert toy_search(*[next(compared) if word == 'WORK_DIR' else word for word in words]) == 0
        assert (work_dir / 'report.html').is_file()
        assert load_config(work_dir / 'best_config.py', import_custom_modules=False).optim_wrapper.optimizer.lr == 0.4


@pytest.mark.slow
def test_the_range_of_the_learning_rate_by_the_command(toy_search, folder, capsys, tmp_path):
    for words in documented('tools/fixnorm_lr_range.py'):
        assert folder('tools/fixnorm_lr_range.py', *filled(words, CONFIG='one.py'), '--json', 'ramp.json') == 0
    *_, line = capsys.readouterr().out.splitlines()
    measured = json.loads((tmp_path / 'ramp.json').read_text())
    assert line == 'lr_range = ({:g}, {:g})'.format(*measured['lr_range'])
    assert not list(tmp_path.rglob('*.pth'))


@pytest.mark.slow
def test_a_search_by_hand_by_the_commands(toy_search, capfd, tmp_path):
    (start,) = [words for words in documented('tools/fixnorm_search.py run') if '--executor' in words]
    (tell,) = documented('tools/fixnorm_search.py tell')
    assert toy_search(*start) == 3
    (command,) = [line for line in capfd.readouterr().out.splitlines() if '/trials/' in line and line[0] != '{']
    assert toy_search(*tell) == 3  # not run yet
    subprocess.run(command, shell=True, check=True)
    assert toy_search(*tell) == 0
    assert read_record(tmp_path / 'work_dirs/one_search').attempts[0].result.outcome == 'done'


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    """The default data set, where its command writes it: below ``data``."""
    (words,) = [words for words in documented('tools/dataset_converters/digits.py') if '--task' not in words]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp('digits'))
        assert run_script('tools/dataset_converters/digits.py', *words) == 0
        return Path('data').absolute()


SHORT = ['--cfg-options', 'train_cfg.max_epochs=1', 'train_dataloader.dataset.indices=128']


@pytest.mark.slow
def test_digits_by_the_commands(folder, digits, tmp_path):
    """A training, its test, the folded checkpoint, the audit, the conversion."""
    (tmp_path / 'data').symlink_to(digits)
    config = 'configs/digits/resnet8_fixnorm_1xb64-20e_digits.py'
    stem = Path(config).stem

    (plain,) = [words for words in documented('tools/train.py') if words == [config]]
    assert folder('tools/train.py', *plain, *SHORT) == 0
    (optional,) = [words for words in documented('tools/train.py', of='--work-dir') if words[0] == 'CONFIG']
    optional.remove('--amp')  # needs an accelerator
    assert folder('tools/train.py', *filled(optional, CONFIG=config, DIR='here'), SHORT[-1]) == 0
    assert (tmp_path / 'here/epoch_1.pth').is_file()

    few = ['--cfg-options', 'test_dataloader.dataset.indices=8']
    for words in documented('tools/test.py'):
        if words[0] in ('CONFIG', config):
            words = [word.replace('epoch_20', 'epoch_1') for word in words]
            words = filled(words, CONFIG=config, CHECKPOINT=f'work_dirs/{stem}/epoch_1.pth')
            assert folder('tools/test.py', *words, *few) == 0
    assert len(list((tmp_path / 'painted').rglob('*.png'))) == 8

    checkpoint = 'here/epoch_1.pth'
    for words in documented('tools/model_converters/fold_fixnorm.py', of='CONFIG'):
        names = filled(words, CONFIG=config, CHECKPOINT=checkpoint, OUT='plain.pth')
        names += [] if '--force' in names else ['--force']
        assert folder('tools/model_converters/fold_fixnorm.py', *names) == 0
    assert 'head.fc.g' not in torch.load('plain.pth')['state_dict']

    wd = config.replace('fixnorm', 'wd')
    assert folder('tools/train.py', wd, '--work-dir', 'wd', *SHORT) == 0
    for words in documented('tools/fixnorm_convert.py', of='CONFIG'):
        words = filled(words, CONFIG=wd, NEW='new.py', CHECKPOINT='wd/epoch_1.pth')
        assert folder('tools/fixnorm_convert.py', *words, *([] if '--force' in words else ['--force'])) == 0
    assert load_config('new.py').optim_wrapper.type == 'FixNormOptimWrapper'

    for words in documented('tools/fixnorm_audit.py', of='CONFIG') + documented('tools/fixnorm_audit.py', of='NEW'):
        words = ['32' if word == '224' else word for word in words]
        names = filled(words, CONFIG=config, NEW='new.py', CHECKPOINT=checkpoint, FILE='audit.json')
        assert folder('tools/fixnorm_audit.py', *names) == 0
    assert Path('audit.json').is_file()


def write_cifar10(folder: Path) -> None:
    """CIFAR-10 of two images a class and batch, in the archive that the README names, converted by its command."""
    tests = runpy.run_path(str(ROOT / 'tests/dataset_converters/test_cifar10.py'))
    tests['python_archive'](folder)
    ((archive,),) = documented('tools/dataset_converters/cifar10.py')
    assert archive == 'cifar-10-python.tar.gz'
    converter = runpy.run_path(str(ROOT / 'tools/dataset_converters/cifar10.py'))
    converter['main'].__globals__['IMAGES_PER_CLASS'] = tests['PER_CLASS']
    assert converter['main']([archive]) == 0


class Tutorial(NamedTuple):
    """A page from a folder of data to a folded model, and how to make it small.

    ``small`` and ``search`` are appended to the config of the page and to the child made of it; ``printed`` is in the
    output of a command; ``last`` is the last checkpoint of the page, and of the small training.
    """

    config: str
    small: str
    search: str
    size: str
    printed: dict[str, str]
    last: tuple[str, str]


LOADERS = """
for loader in (train_dataloader, val_dataloader, test_dataloader):
    loader.update(batch_size=BATCH, num_workers=0, persistent_workers=False)
del loader
"""
TUTORIALS = {
    'own_config.md': Tutorial(
        'my_config.py',
        LOADERS.replace('BATCH', '16')
        + """
small = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 64)), dict(type='PackInputs')]
train_dataloader['dataset'].update(indices=32, pipeline=small)
val_dataloader['dataset'].update(indices=32, pipeline=small)
test_dataloader['dataset'].update(indices=32, pipeline=small)
train_cfg = dict(max_epochs=1)
""",
        "search = dict(type='GridSearch', lrs=(0.1,), alphas=(1.0,), metric='accuracy/top1')\n",
        '64',
        {
            'tools/fixnorm_audit.py': '20 of 21 weights are scale-invariant',
            'tools/fixnorm_convert.py': '21 weights in the norm-fixing set',
        },
        ('epoch_30', 'epoch_1'),
    ),
    'own_boxes.md': Tutorial(
        'my_boxes.py',
        LOADERS.replace('BATCH', '2')
        + """
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
size = dict(type='Resize', scale=(64, 64), keep_ratio=True)
keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
train_dataloader['dataset'].update(pipeline=[*load, size, dict(type='PackDetInputs')])
val_dataloader['dataset'].update(pipeline=[*load, size, dict(type='PackDetInputs', meta_keys=keys)])
test_dataloader['dataset'].update(pipeline=[*load, size, dict(type='PackDetInputs', meta_keys=keys)])
model.update(backbone=dict(init_cfg=None))
train_cfg = dict(max_epochs=1)
""",
        "search = dict(type='GridSearch', lrs=(0.01,), metric='coco/bbox_mAP')\n",
        '64',
        {'tools/fixnorm_convert.py': '33 weights in the norm-fixing set'},
        ('epoch_12', 'epoch_1'),
    ),
    'own_masks.md': Tutorial(
        'my_masks.py',
        LOADERS.replace('BATCH', '2')
        + """
size = (64, 64)
model.update(pretrained=None)
model['data_preprocessor'].update(size=size)
for dataset in (train_dataloader['dataset'], val_dataloader['dataset'], test_dataloader['dataset']):
    for step in dataset['pipeline']:
        if step['type'] == 'Resize':
            step['scale'] = size
del dataset, step
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=2))
""",
        "search = dict(type='GridSearch', lrs=(0.1,), metric='mIoU')\n",
        '64',
        {'tools/fixnorm_convert.py': '30 weights in the norm-fixing set'},
        ('iter_8000', 'iter_2'),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize('page', TUTORIALS)
def test_a_tutorial_by_its_commands(page, folder, digits, tmp_path, capfd):
    """The page from its first command to its last, in its order."""
    about = TUTORIALS[page]
    (config,) = python_blocks(ROOT / 'docs' / page)
    (tmp_path / about.config).write_text(config + about.small)
    (tmp_path / 'data').mkdir()
    if page == 'own_config.md':
        (tmp_path / 'data/my_images').symlink_to(digits / 'digits')
    write_boxes(tmp_path / 'data/my_boxes')
    write_masks(tmp_path / 'data/my_masks')
    printed = dict(about.printed)
    for command in COMMANDS:
        if command.page != page or '/' not in command.words[0]:
            continue
        words = [word.replace(*about.last) for word in command.words[1:]]
        if command.program in ('tools/fixnorm_audit.py', 'tools/fixnorm_convert.py'):
            words += ['--size', about.size]
        if command.program == 'tools/fixnorm_search.py plan':
            child = tmp_path / command.words[2]
            assert len(child.read_text().splitlines()) < 40
            child.write_text(child.read_text() + about.search)
        assert folder(command.words[0], *words) == 0, command
        expected = printed.pop(command.program, '')
        assert expected in ' '.join(capfd.readouterr().out.split())
    *_, fold = [c for c in COMMANDS if c.page == page and c.program == 'tools/model_converters/fold_fixnorm.py']
    assert not [key for key in torch.load(fold.words[-1])['state_dict'] if key.endswith('.g')]


DIGITS = 'configs/digits/resnet8_fixnorm_1xb64-20e_digits.py'
SHORTER = {  # program -> words to put last, and what is printed
    'angle_meter': (['--batch', '2', '--size', '32', '--threads', '1', '--rounds', '2'], 'measured, with cosine'),
    'audit_cost': ([DIGITS, '--size', '32', '--threads', '1'], '"weights": 10'),
    'driver_cost': (['--trials', '5', '--workers', '1'], '"torch": false'),
    'ema_rescale': (['--epochs', '1', '--momenta', '0.1', '--seeds', '0'], '"norm_ratio"'),
    'head': (['--features', '64', '--classes', '10', '--threads', '1', '--rounds', '2'], '"medians_ms"'),
    'in_memory_loader': (['--images', '20', '--rounds', '1'], '"decoding_once_s"'),
    'norm_fixing': (['--rounds', '2'], 'SGD + FixNorm by angle, fused'),
    'wd_against_fixnorm': ([], '| bccd | fixnorm |'),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', SHORTER)
def test_a_benchmark_by_its_command(name, folder, digits, tmp_path, capfd):
    changes, printed = SHORTER[name]
    if name == 'in_memory_loader':
        write_cifar10(tmp_path)
    else:
        (tmp_path / 'data').symlink_to(digits)
    script = f'benchmarks/{name}.py'
    (words,) = documented(script)
    assert folder(script, *words, *changes) == 0  # of an option given twice the last one counts
    assert printed in capfd.readouterr().out


def python_blocks(page: Path) -> list[str]:
    """Blocks of Python; an ellipsis stands for what is left out."""
    found = [m['text'] for m in FENCE.finditer(page.read_text()) if m['language'] == 'python']
    return [text.replace(', ...', '') for text in found]


BLOCKS = [(page, number, text) for page in PAGES for number, text in enumerate(python_blocks(page))]


@pytest.mark.parametrize('page, number, text', BLOCKS, ids=[f'{page.stem}-{number}' for page, number, _ in BLOCKS])
def test_a_block_of_python_runs(page, number, text, tmp_path):
    if '_base_.' in text:  # a config that uses its base: not Python by itself
        (tmp_path / 'config.py').write_text(text)
        assert load_config(tmp_path / 'config.py')
        return
    scope = {'model': torch.nn.Sequential(), 'torch': torch}
    if 'audit(' in text:
        scope |= dict(
            model=torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten()),
            images=torch.randn(4, 1, 4, 4),
            labels=torch.arange(4),
            criterion=torch.nn.CrossEntropyLoss(),
        )
    elif 'fix_norm(' in text:
        scope['model'].add_module('fc', torch.nn.Linear(512, 10))
    exec(compile(text, f'{page.name}, block {number}', 'exec'), scope)
    for search in re.findall(r'^search = (dict\(.*?\)) *(?:#.*)?$', text, re.DOTALL | re.MULTILINE):
        parse_settings(eval(search))
