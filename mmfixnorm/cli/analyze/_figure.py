"""What the commands that draw a figure share: arguments and files."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmfixnorm.plot.chart import Chart


def add_out_argument(parser: argparse.ArgumentParser, *, default: str) -> None:
    """Add ``--out``; the default is a name in ``work_dirs/figures``."""
    parser.add_argument(
        '--out',
        default=f'work_dirs/figures/{default}',
        help='path of the figure; .png and .html are put in place of a suffix of that kind (default: %(default)s)',
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add work dirs of trainings, their labels and the band over seeds."""
    parser.add_argument('work_dirs', nargs='+', metavar='WORK_DIR', help='work dir of a training')
    parser.add_argument(
        '--labels',
        nargs='+',
        metavar='LABEL',
        help="one for each work dir (default: the folders' names); runs with the same label are seeds of one method, "
        'drawn as their mean with a band',
    )
    parser.add_argument(
        '--band',
        choices=['range', 'std'],
        default='range',
        help='of several seeds: smallest to largest, or mean -+ sample standard deviation (default: %(default)s)',
    )


def add_study_argument(parser: argparse.ArgumentParser) -> None:
    """Add work dirs of searches."""
    parser.add_argument('work_dirs', nargs='+', metavar='WORK_DIR', help='work dir of a search, or its study.db')


def write(chart: Chart, out: str) -> int:
    """Write the two files of a figure, print its notes and their names; return the exit status."""
    from mmfixnorm.analysis.files import write_chart

    files = write_chart(chart, out)
    print('\n'.join([*chart.notes, f'figure: {files.png}', f'figure: {files.html}']))
    return 0
