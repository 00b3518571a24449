"""Write a small child config that trains a plain config of mmpretrain, mmdet or mmseg with FixNorm.

The scale-invariance audit measures what to replace, and the child is audited before it is written: no data is needed.
Exit status: 0; 2 if the config cannot be converted, with the reason.
"""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from collections.abc import Sequence

from mmfixnorm.cli._arguments import positive
from mmfixnorm.cli._console import progress
from mmfixnorm.cli._parser import run_script


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument('config', help='plain config of mmpretrain, mmdet or mmseg')
    parser.add_argument('-o', '--out', required=True, metavar='NEW', help='file to write')
    parser.add_argument(
        '--alpha', type=float, default=1.0, help='bound of the classifiers, times sqrt(classes) (default: %(default)s)'
    )
    parser.add_argument(
        '--update',
        choices=['step', 'angle'],
        default='step',
        help="'step': the set makes the optimizer's steps, and its norm is restored; 'angle': each of its layers turns "
        'by the learning rate, in radians (default: %(default)s)',
    )
    parser.add_argument(
        '--lr-range',
        type=float,
        nargs=2,
        metavar=('LO', 'HI'),
        help="learning rates to search (default: half to 8 times the config's; 0.004 to 0.064 with --update angle)",
    )
    parser.add_argument(
        '--lr-from',
        metavar='CHECKPOINT',
        help="checkpoint that a training of the config arrived at, by SGD: lr becomes the config's times the square of "
        'the norm of the set at the start over its norm there, so that lr / ||W||^2 is the same (default: the lr of '
        'the config)',
    )
    stored = parser.add_mutually_exclusive_group()
    stored.add_argument(
        '--keep-norm-eval',
        action='store_true',
        help='leave the layers before batch normalisation on stored statistics (norm_eval=True) out of the set '
        '(default: weight-normalise them with their scale held, so that they compute the same; BN stays)',
    )
    stored.add_argument(
        '--train-bn',
        action='store_true',
        help='train batch normalisation on stored statistics on batch statistics instead, as SyncBN',
    )
    parser.add_argument(
        '--classifier',
        action='append',
        default=[],
        metavar='LAYER',
        help='a layer that classifies, where none is found; may be given several times',
    )
    parser.add_argument('--size', type=positive, help="height and width of the audit's images (default: by toolbox)")
    parser.add_argument('--force', action='store_true', help='replace NEW if it exists')


def run(args: argparse.Namespace) -> int:
    """Write the config and print what was replaced and what was left out, with the reasons."""
    from mmengine.logging import MMLogger

    from mmfixnorm.convert import convert

    MMLogger.get_instance('mmengine', log_level=logging.ERROR)
    with progress() as say:
        done = convert(
            args.config,
            args.out,
            alpha=args.alpha,
            lr_range=args.lr_range,
            keep_norm_eval=args.keep_norm_eval,
            train_bn=args.train_bn,
            overwrite=args.force,
            size=args.size,
            update=args.update,
            lr_from=args.lr_from,
            classifiers=args.classifier,
            progress=say,
        )
    print(
        f'{args.out}: {len(done.in_set)} weights in the norm-fixing set, all scale-invariant; '
        f'{len(done.weight_normalized)} layers weight-normalised'
        f'{f" ({len(done.scale_held)} with their scale held)" if done.scale_held else ""}, '
        f'{len(done.classifiers)} with a bound '
        f'({", ".join(done.classifiers)}); {len(done.left_out)} weights left out'
    )
    for reason, count in Counter(done.left_out.values()).items():
        print(f'    left out, {count}: {reason}')
    for note in done.notes:
        print(note)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command alone, as ``tools/fixnorm_convert.py`` does."""
    return run_script(__name__, argv)
