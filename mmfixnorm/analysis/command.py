"""The common code of the scripts in ``tools/analysis``: arguments, files, exit status."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mmfixnorm.errors import ConfigError
from mmfixnorm.plot.chart import Chart
from mmfixnorm.plot.html import html_page
from mmfixnorm.plot.png import draw_png
from mmfixnorm.search.files import make_folder, write_text


class ChartFiles(NamedTuple):
    """The written files."""

    png: Path
    html: Path


def new_parser(doc: str | None, *, default_out: str) -> argparse.ArgumentParser:
    """Make a parser with ``--out``."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--out',
        default=f'work_dirs/figures/{default_out}',
        help='path of the figure; a suffix .png or .html is replaced, as both are written (default: %(default)s)',
    )
    return parser


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add work dirs of trainings, their labels and the band over seeds."""
    parser.add_argument('work_dirs', nargs='+', metavar='WORK_DIR', help='work dir of a training')
    parser.add_argument(
        '--labels',
        nargs='+',
        metavar='LABEL',
        help="one for each work dir (default: the folders' names); runs with the same label are seeds of one method "
        'and are drawn as their mean with a band',
    )
    parser.add_argument(
        '--band',
        choices=['range', 'std'],
        default='range',
        help='over several seeds: smallest to largest, or mean -+ sample standard deviation (default: %(default)s)',
    )


def add_study_argument(parser: argparse.ArgumentParser) -> None:
    """Add work dirs of searches."""
    parser.add_argument('work_dirs', nargs='+', metavar='WORK_DIR', help='work dir of a search, or its study.db')


def run_tool(
    parser: argparse.ArgumentParser, make_chart: Callable[[argparse.Namespace], Chart], argv: Sequence[str] | None
) -> int:
    """Parse, compute, draw and print the notes; return 2 after a mistake that the user can correct."""
    args = parser.parse_args(argv)
    try:
        chart = make_chart(args)
        files = write_chart(chart, args.out)
    except ConfigError as err:
        sys.stderr.write(f'{parser.prog}: {err}\n')
        return 2
    sys.stdout.write('\n'.join([*chart.notes, f'figure: {files.png}', f'figure: {files.html}']) + '\n')
    return 0


def write_chart(chart: Chart, out: str | Path) -> ChartFiles:
    """Write ``<out>.png`` and ``<out>.html``.

    Raises:
        ConfigError: If they cannot be written there.
    """
    out = Path(out)
    stem = out.with_suffix('') if out.suffix in ('.png', '.html') else out
    make_folder(stem.parent, named_by='--out')
    files = ChartFiles(stem.with_name(f'{stem.name}.png'), stem.with_name(f'{stem.name}.html'))
    draw_png(chart).savefig(files.png)
    write_text(files.html, html_page(chart))
    return files
