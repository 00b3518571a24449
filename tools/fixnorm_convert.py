#!/usr/bin/env python
"""Write a small child config that trains a plain config of mmpretrain, mmdet or mmseg with FixNorm.

What to replace is measured by the scale-invariance audit, and the child is audited before it is written: no data is
needed. Exit status: 0; 2 if the config cannot be converted, with the reason.
"""

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Sequence

from mmengine.logging import MMLogger

from mmfixnorm.convert import convert
from mmfixnorm.errors import ConfigError


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='plain config of mmpretrain, mmdet or mmseg')
    parser.add_argument('-o', '--out', required=True, metavar='NEW', help='file to write')
    parser.add_argument(
        '--alpha', type=float, default=1.0, help='bound of the classifiers, times sqrt(classes) (default: %(default)s)'
    )
    parser.add_argument(
        '--lr-range',
        type=float,
        nargs=2,
        metavar=('LO', 'HI'),
        help="learning rates to search (default: half to 8 times the config's)",
    )
    parser.add_argument(
        '--keep-norm-eval',
        action='store_true',
        help='leave batch normalisation on stored statistics as it is, and the layers before it out of the set',
    )
    parser.add_argument('--size', type=int, help="height and width of the audit's images (default: by toolbox)")
    parser.add_argument('--force', action='store_true', help='replace NEW if it exists')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    MMLogger.get_instance('mmengine', log_level=logging.ERROR)
    try:
        done = convert(
            args.config,
            args.out,
            alpha=args.alpha,
            lr_range=args.lr_range,
            keep_norm_eval=args.keep_norm_eval,
            overwrite=args.force,
            size=args.size,
        )
    except ConfigError as err:
        print(f'{args.config}: {err}', file=sys.stderr)
        return 2
    print(
        f'{args.out}: {len(done.in_set)} weights in the norm-fixing set, all scale-invariant; '
        f'{len(done.weight_normalized)} layers weight-normalised, {len(done.classifiers)} with a bound '
        f'({", ".join(done.classifiers)}); {len(done.left_out)} weights left out'
    )
    for reason, count in Counter(done.left_out.values()).items():
        print(f'    left out, {count}: {reason}')
    for note in done.notes:
        print(note)
    return 0


if __name__ == '__main__':
    sys.exit(main())
