"""The site in docs/ builds without a warning, and its pages say what the code has."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from mmfixnorm.search.methods import METHODS

DOCS = Path(__file__).resolve().parents[1] / 'docs'


@pytest.mark.slow
def test_the_site_builds_and_a_warning_is_an_error(tmp_path: Path) -> None:
    options = ['-W', '--keep-going', '-q', '-b', 'html', '-d', str(tmp_path / 'doctrees')]
    command = [sys.executable, '-m', 'sphinx', *options, str(DOCS), str(tmp_path / 'html')]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'FixNormLinear' in (tmp_path / 'html/api.html').read_text()


def test_every_page_is_in_the_table_of_contents() -> None:
    listed = set(re.findall(r'^([a-z_]+)$', (DOCS / 'index.md').read_text(), re.MULTILINE))
    assert listed == {page.stem for page in DOCS.glob('*.md')} - {'index'}


def test_the_search_page_has_every_method() -> None:
    text = (DOCS / 'search.md').read_text()
    assert [kind for kind in METHODS if f'`{kind}`' not in text] == []


def test_the_page_of_configs_has_every_config_as_it_is_now() -> None:
    script = runpy.run_path(str(DOCS / 'configs_table.py'))
    page = (DOCS / 'configs.md').read_text()
    assert page == script['with_tables'](page)
    files = [f for f in (DOCS.parent / 'configs').rglob('*.py') if '_base_' not in f.parts]
    assert [file.stem for file in files if f'`{file.stem}`' not in page and file.stem not in page] == []
