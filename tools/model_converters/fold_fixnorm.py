#!/usr/bin/env python
"""Fold the WN and FixNorm layers of a checkpoint into plain ones, for the stock config without this package.

The folded checkpoint holds weights only: to test, to deploy, or for `load_from`.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from mmengine.config import DictAction

from mmfixnorm.errors import ConfigError
from mmfixnorm.fold import fold_checkpoint, write_checkpoint
from mmfixnorm.launch import load_config


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config that the checkpoint was trained with')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('out', help='file to write')
    parser.add_argument('--force', action='store_true', help='replace OUT if it exists')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='the changes to the config that the training was given',
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        if os.path.abspath(args.out) == os.path.abspath(args.checkpoint):
            raise ConfigError(f'{args.out}: would replace the checkpoint itself; give another name')
        cfg = load_config(args.config, cfg_options=args.cfg_options)
        folded = fold_checkpoint(cfg, args.checkpoint)
        write_checkpoint(folded, args.out, overwrite=args.force)
    except ConfigError as err:
        print(f'{args.config}: {err}', file=sys.stderr)
        return 2
    names = folded['meta']['folded']
    print(f'{args.out}: {len(names)} layers folded: {", ".join(names)}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
