"""Ctrl-C before a command has begun."""

import signal
import subprocess
import sys

import pytest

CODE = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == 'mmfixnorm.cli._parser':
            raise {error}
sys.meta_path.insert(0, Finder())
import mmfixnorm.cli
"""


@pytest.mark.parametrize(
    ('error', 'status', 'told'), [('KeyboardInterrupt', -signal.SIGINT, False), ('ValueError', 1, True)]
)
def test_only_ctrl_c_while_the_command_is_imported_leaves_no_traceback(error, status, told):
    done = subprocess.run([sys.executable, '-c', CODE.format(error=error)], capture_output=True, text=True)
    assert (done.returncode, 'Traceback' in done.stderr) == (status, told)
