#!/usr/bin/env python
"""Fig. 1 right and Fig. 2 left: accuracy on validation data against epoch, in the order of the work dirs.

Exit status: 0 done, 2 a mistake to put right.
"""

import argparse
import sys
from collections.abc import Sequence

from mmfixnorm.analysis.command import add_run_arguments, new_parser, run_tool
from mmfixnorm.analysis.curves import accuracy_chart
from mmfixnorm.analysis.groups import read_groups
from mmfixnorm.plot.chart import Chart


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__, default_out='accuracy')
    add_run_arguments(parser)
    parser.add_argument(
        '--metric',
        default='accuracy/top1',
        help='as the evaluator reports it, greater is better (default: %(default)s)',
    )
    return parser


def make_chart(args: argparse.Namespace) -> Chart:
    return accuracy_chart(read_groups(args.work_dirs, args.labels), metric=args.metric, band=args.band)


def main(argv: Sequence[str] | None = None) -> int:
    return run_tool(build_parser(), make_chart, argv)


if __name__ == '__main__':
    sys.exit(main())
