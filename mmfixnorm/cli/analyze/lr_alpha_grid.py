"""Fig. 4: results of a GridSearch over learning rate and alpha, and a test of whether the two act independently.

Several work dirs are the same grid with other seeds (search.seed): cells then show means. Exit status: 0 done, 2 a
mistake to put right.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mmfixnorm.cli._parser import run_script
from mmfixnorm.cli.analyze._figure import add_out_argument, add_study_argument, write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_out_argument(parser, default='lr_alpha_grid')
    add_study_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Draw the figure."""
    from mmfixnorm.analysis.grid import grid_chart, read_grid
    from mmfixnorm.search.record.compare import read_studies

    return write(grid_chart(read_grid(read_studies(args.work_dirs))), args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command alone, as ``tools/analysis/lr_alpha_grid.py`` does."""
    return run_script(__name__, argv)
