"""Record a real search as it appears on a terminal, and its report, for the docs.

    python tools/dataset_converters/digits.py && python benchmarks/record_search.py

Runs the search of a config in a pseudo-terminal and writes docs/images/search_run.svg, a screen after ``--after``
trainings have finished, while others run, and docs/images/search_report.png, the top of the report in a headless
Chromium. A search that is in the work dir already is not run again; then only the report is recorded.
"""

from __future__ import annotations

import argparse
import codecs
import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / 'docs/images'
CONFIG = 'configs/digits/resnet8_fixnorm_1xb64-20e_digits.py'
COLUMNS, LINES = 124, 46
REPORT_PIXELS = (1150, 1480)

_BROWSERS = ('chromium', 'chromium-browser', 'google-chrome')
_FONT = re.compile(r'@font-face \{.*?\}', re.DOTALL)  # from another host
# What a live table of rich writes: colours, one line up, erase a line, hide the cursor.
_SEQUENCE = re.compile(r'\x1b\[(?P<number>[0-9;?]*)(?P<kind>[A-Za-z])|(?P<return>\r)|(?P<line>\n)')
_UPDATE = re.compile(r'(?<=.)(?=\r\x1b)', re.DOTALL)  # rich goes back to the first column, and then up


class Screen:
    """The lines of a terminal, as far as rich uses one."""

    def __init__(self) -> None:
        self._lines = ['']
        self._row = 0

    def feed(self, text: str) -> None:
        """Write to the terminal."""
        at = 0
        for found in _SEQUENCE.finditer(text):
            self._lines[self._row] += text[at : found.start()]
            at = found.end()
            if found['line']:
                self._row += 1
                if self._row == len(self._lines):
                    self._lines.append('')
            elif found['kind'] == 'A':
                self._row -= int(found['number'] or 1)
            elif found['kind'] == 'K':
                self._lines[self._row] = ''
            elif found['kind'] == 'm':
                self._lines[self._row] += found[0]
        self._lines[self._row] += text[at:]

    def shown(self) -> list[str]:
        """The lines that are in view, with their colours."""
        return '\n'.join(self._lines).rstrip().split('\n')[-LINES:]


def screens(command: Sequence[str]) -> Iterator[list[str]]:
    """Run a command in a terminal; yield what is in view before each of its updates, and at its end.

    Raises:
        CalledProcessError: The command has failed.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', LINES, COLUMNS, 0, 0))
    # COLUMNS and LINES would count more than the size of this terminal.
    env = {name: value for name, value in os.environ.items() if name not in ('COLUMNS', 'LINES')}
    env |= {'TERM': 'xterm-256color', 'PYTHONPATH': str(ROOT)}
    screen, decoder = Screen(), codecs.getincrementaldecoder('utf-8')('replace')
    text = ''
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd=ROOT) as process:
        os.close(theirs)
        while True:
            try:
                part = os.read(ours, 1 << 16)
            except OSError:  # Linux: the other end is closed
                break
            if not part:
                break
            *shown, text = _UPDATE.split(text + decoder.decode(part))  # a part may end within an update
            for update in shown:
                screen.feed(update)
                yield screen.shown()
    os.close(ours)
    screen.feed(text)
    yield screen.shown()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, output='\n'.join(screen.shown()))


def is_telling(lines: Sequence[str], after: int, workers: int) -> bool:
    """Tell whether a screen shows so many finished trainings, and all workers at work."""
    text = '\n'.join(Text.from_ansi(line).plain for line in lines)
    at_work = re.findall(r'\b[2-9]\d% │ +\d', text)  # with a loss
    return f' {after}/' in text and len(at_work) == workers


def save_svg(lines: Sequence[str], title: str, path: Path) -> None:
    """Draw lines of a terminal."""
    with open(os.devnull, 'w') as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        for line in lines:
            console.print(Text.from_ansi(line), soft_wrap=True)
        svg = console.export_svg(title=title, unique_id='search')
    path.write_text(_FONT.sub('', svg), encoding='utf-8')


def save_picture(page: Path, path: Path) -> None:
    """Draw the top of a page."""
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        raise SystemExit(f'the picture of a report needs one of {", ".join(_BROWSERS)}')
    with tempfile.TemporaryDirectory() as profile:
        options = ['--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars', '--virtual-time-budget=10000']
        size = '--window-size={},{}'.format(*REPORT_PIXELS)
        where = [f'--user-data-dir={profile}', f'--screenshot={path}', page.resolve().as_uri()]
        subprocess.run([browser, *options, size, *where], check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', default=CONFIG)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/recorded_search'))
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--after', type=int, default=8, help='trainings that have finished (default: %(default)s)')
    args = parser.parse_args()

    words = ['search', 'run', args.config, '--workers', str(args.workers)]
    command = [sys.executable, '-m', 'mmfixnorm', *words, '--work-dir', str(args.work_dir)]
    recorded: list[str] | None = None
    for lines in screens(command):
        if recorded is None and is_telling(lines, args.after, args.workers):
            recorded = lines
    if recorded:
        save_svg(recorded, f'mmfixnorm {" ".join(words)}', IMAGES / 'search_run.svg')
    else:
        print('the search had ended before: docs/images/search_run.svg is as it was', file=sys.stderr)
    save_picture(args.work_dir / 'report.html', IMAGES / 'search_report.png')


if __name__ == '__main__':
    main()
