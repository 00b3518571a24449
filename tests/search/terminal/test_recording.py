"""The pictures of a search in the docs: made from what a terminal shows, and with the words of the code."""

import html
import io
import pty
import re
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.record_search import Screen, is_telling, save_svg, screens
from mmfixnorm.search.terminal.follow import draw, take_snapshot
from tests.search.report.browser import needs_chromium, render
from tests.search.terminal.test_live import make_running

ROOT = Path(__file__).parents[3]
IMAGES = ROOT / 'docs/images'
RUN = (
    'import sys; from mmfixnorm.cli.search import main; '
    'sys.exit(main(sys.argv[1:4] + ["--workers", "2"], trial_command=sys.argv[4:]))'
)


def plain(lines):
    return '\n'.join(Text.from_ansi(line).plain for line in lines)


def words_of(svg):
    return ' '.join(html.unescape(re.sub('<[^>]*>', ' ', svg)).split())


def headings(search):
    """Titles and columns of all tables that a live search shows."""
    make_running(search, 'r1-k0', 2, 0.0)
    tables = draw(search.problem(), take_snapshot(search.problem()), height=60).renderables
    tables = [table for table in tables if isinstance(table, Table)]
    assert len(tables) == 3
    return [str(column.header) for table in tables for column in table.columns] + [
        'cost',
        'running',
        'time left: about',
    ]


def test_the_recording_has_the_words_of_the_code(make_search, small):
    search = make_search(small + ', max_attempts=1')
    search.run('fail-r1-k0')
    words = words_of((IMAGES / 'search_run.svg').read_text(encoding='utf-8'))
    assert [heading for heading in headings(search) if heading not in words] == []


def test_the_recording_names_nothing_outside_itself():
    svg = (IMAGES / 'search_run.svg').read_text(encoding='utf-8')
    assert 'url(http' not in svg
    assert re.findall(r'href="(?!#)', svg) == []


@pytest.mark.skipif(not hasattr(pty, 'openpty'), reason='needs a pseudo-terminal')
@pytest.mark.slow
def test_a_live_search_is_recorded(make_search, small, fake_trial, tmp_path, monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')  # as a shell may export it
    search = make_search(small)
    command = [sys.executable, '-c', RUN, 'run', search.config, f'--work-dir={search.work_dir}', *fake_trial('slow')]
    shown = [plain(lines) for lines in screens(command)]
    live = [text for text in shown if '│ process ' in text]
    assert live
    # Tables of the one moment, not of all before it, and whole.
    assert all(text.count('lost attempts') == text.count('driver: ') == 1 for text in live)
    last = shown[-1]
    assert 'running' not in last
    assert 'winner: lr 1.7, alpha 4' in last
    save_svg(last.split('\n'), 'a search', tmp_path / 'last.svg')
    assert 'winner: lr 1.7, alpha 4' in words_of((tmp_path / 'last.svg').read_text())


def test_a_screen_is_what_rich_draws_over_and_over():
    screen = Screen()
    screen.feed('one\r\ntwo\r\nthree')
    screen.feed('\r\x1b[2K\x1b[1A\x1b[2K\x1b[1A\x1b[2Kabove\r\n\x1b[31mone again\x1b[0m')
    assert plain(screen.shown()) == 'above\none again'


@pytest.mark.skipif(not hasattr(pty, 'openpty'), reason='needs a pseudo-terminal')
def test_each_screen_is_whole_however_its_update_is_written():
    written = b'one\ntwo\r\x1b[2K\x1b[1A\x1b[2K\x1b[31monce\nagain\x1b[0m'
    byte_by_byte = f'import os\nfor byte in {written}: os.write(1, bytes([byte]))'
    assert [plain(lines) for lines in screens([sys.executable, '-c', byte_by_byte])] == ['one\ntwo', 'once\nagain']


def test_a_screen_before_the_trainings_show_a_loss_is_not_recorded(make_search, small):
    search = make_search(small)
    search.run('fail-r0-k1')  # three times
    make_running(search, 'r0-k1', 4, 0.0)  # at a third of its training
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(draw(search.problem(), take_snapshot(search.problem()), height=60))
    lines = ['06:00:00   1/5 r0-k0 done', *console.export_text().rstrip().split('\n')]
    assert is_telling([*lines, 'driver: process 1'], after=1, workers=1)
    assert not is_telling([*lines, 'driver: process 1'], after=1, workers=2)
    assert not is_telling([*lines, 'driver: process 1'], after=2, workers=1)


@needs_chromium
@pytest.mark.slow
def test_a_browser_shows_both_pictures(tmp_path):
    page = tmp_path / 'page.html'
    names = ('search_run.svg', 'search_report.png')
    pictures = ''.join(f'<img src="{(IMAGES / name).as_uri()}">' for name in names)
    script = 'onload = () => { document.title = [...document.images].map(i => i.naturalWidth > 0).join() }'
    page.write_text(f'<title></title>{pictures}<script>{script}</script>')
    dom, console = render(page, tmp_path / 'profile')
    assert console == []
    assert '<title>true,true</title>' in dom
