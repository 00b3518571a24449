"""Fig. 5: best value so far against cost for several searches, and the details of each search with FixNorm.

Exit status: 0 done, 2 a mistake to put right.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mmfixnorm.cli._parser import run_script
from mmfixnorm.cli.analyze._figure import add_out_argument, add_study_argument, write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_out_argument(parser, default='search_progress')
    add_study_argument(parser)
    parser.add_argument('--labels', nargs='+', metavar='LABEL', help="one for each (default: the folders' names)")


def run(args: argparse.Namespace) -> int:
    """Draw the figure."""
    from mmfixnorm.analysis.search_progress import search_chart
    from mmfixnorm.search.record.compare import read_studies

    return write(search_chart(read_studies(args.work_dirs, args.labels)), args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command alone, as ``tools/analysis/search_progress.py`` does."""
    return run_script(__name__, argv)
