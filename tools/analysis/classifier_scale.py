#!/usr/bin/env python
"""Fig. 2 right: ||W_FC|| or g (top) and mean cross-boundary risk (bottom) against epoch.

Needs CrossBoundaryRiskHook in the trainings' custom_hooks. Exit status: 0 done, 2 a mistake to put right.
"""

import argparse
import sys
from collections.abc import Sequence

from mmfixnorm.analysis.command import add_run_arguments, new_parser, run_tool
from mmfixnorm.analysis.curves import classifier_scale_chart
from mmfixnorm.analysis.groups import read_groups
from mmfixnorm.plot.chart import Chart


def build_parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__, default_out='classifier_scale')
    add_run_arguments(parser)
    parser.add_argument(
        '--split',
        choices=['val', 'train'],
        default='val',
        help='the risk on the whole validation set, or on the logged batches of training (default: %(default)s)',
    )
    return parser


def make_chart(args: argparse.Namespace) -> Chart:
    return classifier_scale_chart(read_groups(args.work_dirs, args.labels), mode=args.split, band=args.band)


def main(argv: Sequence[str] | None = None) -> int:
    return run_tool(build_parser(), make_chart, argv)


if __name__ == '__main__':
    sys.exit(main())
