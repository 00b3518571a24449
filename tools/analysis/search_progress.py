#!/usr/bin/env python
"""Fig. 5: best value so far against cost for several searches, and the details of each search with FixNorm.

Exit status: 0 done, 2 a mistake to put right.
"""

import argparse
import sys
from collections.abc import Sequence

from mmfixnorm.analysis.command import add_study_argument, new_parser, run_tool
from mmfixnorm.analysis.search_progress import search_chart
from mmfixnorm.plot.chart import Chart
from mmfixnorm.search.record.compare import read_studies


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__, default_out='search_progress')
    add_study_argument(parser)
    parser.add_argument('--labels', nargs='+', metavar='LABEL', help="one for each (default: the folders' names)")
    return parser


def make_chart(args: argparse.Namespace) -> Chart:
    return search_chart(read_studies(args.work_dirs, args.labels))


def main(argv: Sequence[str] | None = None) -> int:
    return run_tool(build_parser(), make_chart, argv)


if __name__ == '__main__':
    sys.exit(main())
