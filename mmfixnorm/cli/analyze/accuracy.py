"""Fig. 1 right and Fig. 2 left: accuracy on validation data against epoch, in the order of the work dirs.

Exit status: 0 done, 2 a mistake to put right.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mmfixnorm.cli._parser import run_script
from mmfixnorm.cli.analyze._figure import add_out_argument, add_run_arguments, write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_out_argument(parser, default='accuracy')
    add_run_arguments(parser)
    parser.add_argument(
        '--metric',
        default='accuracy/top1',
        help='as the evaluator reports it, greater is better (default: %(default)s)',
    )


def run(args: argparse.Namespace) -> int:
    """Draw the figure."""
    from mmfixnorm.analysis.curves import accuracy_chart
    from mmfixnorm.analysis.groups import read_groups

    groups = read_groups(args.work_dirs, args.labels)
    return write(accuracy_chart(groups, metric=args.metric, band=args.band), args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command alone, as ``tools/analysis/accuracy.py`` does."""
    return run_script(__name__, argv)
