"""A page in a real headless Chromium: its document after its scripts, and what they complained of."""

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason='no Chromium: apt-get install chromium')
OPTIONS = [
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--host-resolver-rules=MAP * ~NOTFOUND',  # no network
    '--enable-logging=stderr',
    '--v=0',
    '--window-size=1200,3000',
    '--virtual-time-budget=10000',
]


class Rendered(NamedTuple):
    """``dom`` after the scripts; ``console``: what they wrote to the console, uncaught errors included."""

    dom: str
    console: list[str]


def render(page: Path, profile: Path, *extra: str) -> Rendered:
    """Open a file."""
    command = [CHROMIUM, *OPTIONS, f'--user-data-dir={profile}', *extra, '--dump-dom', page.absolute().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return Rendered(done.stdout, [line for line in done.stderr.splitlines() if 'CONSOLE' in line])
