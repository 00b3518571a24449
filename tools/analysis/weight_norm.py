#!/usr/bin/env python
"""Fig. 1 left: norm of the convolutions' weights against epoch, with its two parts.

Needs WeightNormLoggerHook in the trainings' custom_hooks. Exit status: 0 done, 2 a mistake to put right.
"""

import argparse
import sys
from collections.abc import Sequence

from mmfixnorm.analysis.command import add_run_arguments, new_parser, run_tool
from mmfixnorm.analysis.curves import weight_norm_chart
from mmfixnorm.analysis.groups import read_groups
from mmfixnorm.plot.chart import Chart


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__, default_out='weight_norm')
    add_run_arguments(parser)
    return parser


def make_chart(args: argparse.Namespace) -> Chart:
    return weight_norm_chart(read_groups(args.work_dirs, args.labels), band=args.band)


def main(argv: Sequence[str] | None = None) -> int:
    return run_tool(build_parser(), make_chart, argv)


if __name__ == '__main__':
    sys.exit(main())
