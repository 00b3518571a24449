"""Fig. 2 right: ||W_FC|| or g (top) and mean cross-boundary risk (bottom) against epoch.

Needs CrossBoundaryRiskHook in the trainings' custom_hooks. Exit status: 0 done, 2 a mistake to put right.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mmfixnorm.cli._parser import run_script
from mmfixnorm.cli.analyze._figure import add_out_argument, add_run_arguments, write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_out_argument(parser, default='classifier_scale')
    add_run_arguments(parser)
    parser.add_argument(
        '--split',
        choices=['val', 'train'],
        default='val',
        help='the risk on the whole validation set, or on the logged batches of training (default: %(default)s)',
    )


def run(args: argparse.Namespace) -> int:
    """Draw the figure."""
    from mmfixnorm.analysis.curves import classifier_scale_chart
    from mmfixnorm.analysis.groups import read_groups

    groups = read_groups(args.work_dirs, args.labels)
    return write(classifier_scale_chart(groups, mode=args.split, band=args.band), args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command alone, as ``tools/analysis/classifier_scale.py`` does."""
    return run_script(__name__, argv)
