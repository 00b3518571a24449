"""The leaves of the command tree, and Python as a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mmfixnorm.cli import build_parser
from mmfixnorm.cli._parser import CommandParser

ROOT = Path(__file__).resolve().parents[2]


def leaves(parser: CommandParser, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], CommandParser]:
    """The commands that run something, by their words."""
    parser.load()
    if not parser.commands:
        return {words: parser}
    found: dict[tuple[str, ...], CommandParser] = {}
    for name, command in parser.commands.items():
        found |= leaves(command, (*words, name))
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if 'words' in metafunc.fixturenames:
        metafunc.parametrize('words', leaves(build_parser()), ids=' '.join)


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run this Python in an empty folder, with the package of this checkout."""

    def run(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, 'PYTHONPATH': path, 'COLUMNS': '100', **env},
            timeout=120,
            check=False,
        )

    return run
