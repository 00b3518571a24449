"""Fold the WN and FixNorm layers of a checkpoint into plain ones, for the stock config without this package.

The folded checkpoint holds weights only: to test, to deploy, or for `load_from`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from mmfixnorm.cli._arguments import add_cfg_options
from mmfixnorm.cli._parser import run_script
from mmfixnorm.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument('config', help='config that the checkpoint was trained with')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('out', help='file to write')
    parser.add_argument('--force', action='store_true', help='replace OUT if it exists')
    add_cfg_options(parser, help='the changes to the config that the training was given')


def run(args: argparse.Namespace) -> int:
    """Write the folded checkpoint and print which layers were folded."""
    from mmfixnorm.fold import fold_checkpoint, write_checkpoint
    from mmfixnorm.launch import load_config

    if os.path.abspath(args.out) == os.path.abspath(args.checkpoint):
        raise ConfigError(f'{args.out}: would replace the checkpoint itself; give another name')
    cfg = load_config(args.config, cfg_options=args.cfg_options)
    folded = fold_checkpoint(cfg, args.checkpoint)
    write_checkpoint(folded, args.out, overwrite=args.force)
    names = folded['meta']['folded']
    print(f'{args.out}: {len(names)} layers folded: {", ".join(names)}')
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command alone, as ``tools/model_converters/fold_fixnorm.py`` does."""
    return run_script(__name__, argv)
