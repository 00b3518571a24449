#!/usr/bin/env python
"""Fig. 4: results of a GridSearch over learning rate and alpha, and a test of whether the two act independently.

Several work dirs are the same grid with other seeds (search.seed): cells then show means. Exit status: 0 done, 2 a
mistake to put right.
"""

import argparse
import sys
from collections.abc import Sequence

from mmfixnorm.analysis.command import add_study_argument, new_parser, run_tool
from mmfixnorm.analysis.grid import grid_chart, read_grid
from mmfixnorm.plot.chart import Chart
from mmfixnorm.search.record.compare import read_studies


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__, default_out='lr_alpha_grid')
    add_study_argument(parser)
    return parser


def make_chart(args: argparse.Namespace) -> Chart:
    return grid_chart(read_grid(read_studies(args.work_dirs)))


def main(argv: Sequence[str] | None = None) -> int:
    return run_tool(build_parser(), make_chart, argv)


if __name__ == '__main__':
    sys.exit(main())
