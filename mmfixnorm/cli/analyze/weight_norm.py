"""Fig. 1 left: norm of the convolutions' weights against epoch, with its two parts.

Needs WeightNormLoggerHook in the trainings' custom_hooks. Exit status: 0 done, 2 a mistake to put right.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mmfixnorm.cli._parser import run_script
from mmfixnorm.cli.analyze._figure import add_out_argument, add_run_arguments, write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_out_argument(parser, default='weight_norm')
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Draw the figure."""
    from mmfixnorm.analysis.curves import weight_norm_chart
    from mmfixnorm.analysis.groups import read_groups

    return write(weight_norm_chart(read_groups(args.work_dirs, args.labels), band=args.band), args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command alone, as ``tools/analysis/weight_norm.py`` does."""
    return run_script(__name__, argv)
