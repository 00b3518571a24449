#!/usr/bin/env python
"""Train a model of any OpenMMLab toolbox: the config's ``default_scope`` picks it."""

import argparse
import os
import sys
from collections.abc import Sequence

from mmengine.config import Config

from mmfixnorm.errors import ConfigError
from mmfixnorm.launch import (
    add_launch_arguments,
    build_runner,
    build_training,
    load_config,
    set_work_dir,
    use_amp,
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    add_launch_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from a checkpoint; without a value from the latest one in the work dir',
    )
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the learning rate by the batch size over the config's base_batch_size",
    )
    return parser


def merge_args(cfg: Config, args: argparse.Namespace) -> None:
    """Write the options into the config, in place."""
    cfg.launcher = args.launcher
    set_work_dir(cfg, args.work_dir)
    if args.amp:
        use_amp(cfg)
    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise ConfigError(
                '--auto-scale-lr: the config must say for which batch size its learning rate is, '
                'auto_scale_lr = dict(base_batch_size=...)'
            )
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        if args.resume != 'auto' and not os.path.isfile(args.resume):
            raise ConfigError(f'--resume: no such checkpoint: {args.resume!r}')
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    try:
        cfg = load_config(args.config, cfg_options=args.cfg_options)
        merge_args(cfg, args)
        runner = build_runner(cfg)
        build_training(runner)
        runner.train()
    except ConfigError as err:
        print(f'{args.config}: {err}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
