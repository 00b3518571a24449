"""The scripts in tools/ are doors to the commands: a few lines each, the same arguments, from any folder."""

import ast
import os
import re
import stat
from pathlib import Path

import pytest

from mmfixnorm.cli import COMMANDS
from mmfixnorm.cli.analyze import COMMANDS as FIGURES

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / 'tools'
DOORS = {  # script -> command
    'analysis/accuracy.py': ('analyze', 'accuracy'),
    'analysis/classifier_scale.py': ('analyze', 'classifier-scale'),
    'analysis/lr_alpha_grid.py': ('analyze', 'lr-alpha-grid'),
    'analysis/model_complexity.py': ('analyze', 'model-complexity'),
    'analysis/search_progress.py': ('analyze', 'search-progress'),
    'analysis/weight_norm.py': ('analyze', 'weight-norm'),
    'fixnorm_audit.py': ('audit',),
    'fixnorm_convert.py': ('convert',),
    'fixnorm_lr_range.py': ('lr-range',),
    'fixnorm_search.py': ('search',),
    'model_converters/fold_fixnorm.py': ('fold',),
    'test.py': ('test',),
    'train.py': ('train',),
}


def test_every_script_but_the_dataset_converters_is_a_door_and_every_command_has_one() -> None:
    scripts = {str(path.relative_to(TOOLS)) for path in TOOLS.rglob('*.py')}
    assert {script for script in scripts if not script.startswith('dataset_converters')} == set(DOORS)
    commands = {(name,) for name in COMMANDS if name != 'analyze'} | {('analyze', name) for name in FIGURES}
    assert set(DOORS.values()) == commands


@pytest.mark.parametrize('script', DOORS)
def test_a_door_is_a_few_lines_that_call_main(script: str) -> None:
    text = (TOOLS / script).read_text()
    lines = [line for line in text.splitlines() if line]
    assert len(lines) == 6
    assert lines[0] == '#!/usr/bin/env python'
    assert os.stat(TOOLS / script).st_mode & stat.S_IXUSR
    assert f'mmfixnorm {" ".join(DOORS[script])}' in (ast.get_docstring(ast.parse(text)) or '')
    assert lines[-2:] == ["if __name__ == '__main__':", '    sys.exit(main())']


@pytest.mark.parametrize('script', DOORS)
def test_a_door_has_the_help_of_its_command_from_any_folder(python, script: str) -> None:
    command = ' '.join(DOORS[script])
    by_path = python(TOOLS / script, '--help')
    by_name = python('-m', 'mmfixnorm', *DOORS[script], '--help')
    assert (by_path.returncode, by_name.returncode) == (0, 0), by_path.stderr + by_name.stderr

    def normalized(text: str, name: str) -> str:
        return re.sub(r'\s+', ' ', text.replace(f'usage: {name} ', 'usage: NAME '))

    shown = normalized(by_path.stdout, Path(script).name)
    assert shown == normalized(by_name.stdout, f'mmfixnorm {command}')
    assert shown.startswith('usage: NAME [-h]')


def test_a_door_ends_with_the_status_of_its_command_and_names_itself(python) -> None:
    done = python(TOOLS / 'train.py', 'nowhere.py')
    assert (done.returncode, done.stdout) == (2, '')
    assert 'nowhere.py: no such config file' in done.stderr
    done = python(TOOLS / 'analysis/search_progress.py', 'nowhere')
    assert done.returncode == 2
    assert re.match(r'search_progress\.py: \S*nowhere: no record of a search here', done.stderr)
