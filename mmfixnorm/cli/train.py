"""Train a model of any OpenMMLab toolbox: the config's ``default_scope`` picks it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmfixnorm.cli._arguments import add_launch_arguments
from mmfixnorm.cli._parser import run_script
from mmfixnorm.errors import ConfigError

if TYPE_CHECKING:
    from mmengine.config import Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument('config', help='config file')
    add_launch_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from a checkpoint; without a value from the latest one in the work dir',
    )
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the learning rate by the batch size over the config's base_batch_size",
    )


def merge_args(cfg: Config, args: argparse.Namespace) -> None:
    """Write the options into the config, in place."""
    from mmengine.runner import find_latest_checkpoint

    from mmfixnorm.data_checks.paths import check_checkpoint
    from mmfixnorm.launch import set_work_dir, use_amp

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
    if args.resume == 'auto':
        # The runner would take `load_from` for the checkpoint to continue from, and without one begin from nothing.
        cfg.resume = find_latest_checkpoint(cfg.work_dir) is not None
        cfg.load_from = None if cfg.resume else cfg.get('load_from')
    elif args.resume is not None:
        check_checkpoint(args.resume, '--resume')
        cfg.resume = True
        cfg.load_from = args.resume


def run(args: argparse.Namespace) -> int:
    """Train."""
    from mmfixnorm.fold import FoldCheckHook
    from mmfixnorm.launch import build_runner, build_training, load_config, train

    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = load_config(args.config, cfg_options=args.cfg_options)
    merge_args(cfg, args)
    runner = build_runner(cfg)
    build_training(runner)
    runner.register_hook(FoldCheckHook(refuse=False))
    train(runner)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command alone, as ``tools/train.py`` does."""
    return run_script(__name__, argv)
