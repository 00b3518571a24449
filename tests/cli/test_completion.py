"""Completion in a shell, by argcomplete."""

import pytest

PROTOCOL = {'_ARGCOMPLETE': '1', '_ARGCOMPLETE_SHELL': 'bash', '_ARGCOMPLETE_SUPPRESS_SPACE': '1', 'IFS': '\v'}
BLOCK = "import sys; sys.modules['argcomplete'] = None\nfrom mmfixnorm.cli import main\nmain(['--version'])"


@pytest.mark.parametrize(
    'line, completions',
    [
        ('mmfixnorm ', {'train', 'test', 'audit', 'convert', 'search', 'lr-range', 'fold', 'analyze'}),
        ('mmfixnorm a', {'audit', 'analyze'}),
        ('mmfixnorm search st', {'status'}),
        ('mmfixnorm search run c.py --executor ', {'local', 'manual', 'ray', 'slurm'}),
        ('mmfixnorm analyze cl', {'classifier-scale'}),
        ('mmfixnorm train --au', {'--auto-scale-lr'}),
    ],
)
def test_commands_choices_and_options_are_completed(python, tmp_path, line, completions) -> None:
    pytest.importorskip('argcomplete')
    out = tmp_path / 'completions'
    env = {**PROTOCOL, 'COMP_LINE': line, 'COMP_POINT': str(len(line)), '_ARGCOMPLETE_STDOUT_FILENAME': str(out)}
    done = python('-m', 'mmfixnorm', **env)
    assert done.returncode == 0, done.stderr
    found = {word.strip() for word in out.read_text().split('\v')}
    assert completions <= found
    assert found - completions <= {'-h', '--help', '--version'}


def test_without_argcomplete_the_command_works(python) -> None:
    done = python('-c', BLOCK)
    assert (done.returncode, done.stdout.partition(' ')[0]) == (0, 'mmfixnorm')


def test_argcomplete_is_imported_only_where_a_shell_asks(python) -> None:
    done = python('-X', 'importtime', '-m', 'mmfixnorm', '--version')
    assert 'mmfixnorm.cli' in done.stderr
    assert 'argcomplete' not in done.stderr
