#!/usr/bin/env python
"""Test a checkpoint of any OpenMMLab toolbox: the config's ``default_scope`` picks it."""

import argparse
import os
import sys
from collections.abc import Sequence

import mmengine
from mmengine.config import Config
from mmengine.evaluator import DumpResults

from mmfixnorm.errors import ConfigError
from mmfixnorm.launch import (
    add_launch_arguments,
    build_runner,
    build_testing,
    load_config,
    set_work_dir,
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    add_launch_arguments(parser)
    parser.add_argument('--out', metavar='FILE', help='write the results here')
    parser.add_argument(
        '--out-item',
        choices=['pred', 'metrics'],
        default='pred',
        help='which results: predictions (.pkl) or metrics (.json, .pkl) (default: %(default)s)',
    )
    parser.add_argument(
        '--show-dir',
        help='paint the predictions and save the images here (of several processes the first paints its share)',
    )
    return parser


def show_in(cfg: Config, folder: str) -> None:
    """Switch on the visualization hook of whichever toolbox the config is for, in place."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise ConfigError('--show-dir: the config has no default_hooks.visualization')
    # As given, not below the work dir; a hook of mmdet and a backend put theirs in front of a relative path.
    folder = os.path.abspath(folder)
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as err:
        raise ConfigError(f'--show-dir: cannot write to {folder!r} ({err.strerror})') from err
    if cfg.get('default_scope') == 'mmpretrain':
        hook.update(enable=True, interval=1, out_dir=folder)
    elif cfg.get('default_scope') == 'mmdet':
        hook.update(draw=True, interval=1, test_out_dir=folder)
    else:
        hook.update(draw=True, interval=1)
        paint_into(cfg, folder)


def paint_into(cfg: Config, folder: str) -> None:
    """Let the visualizer write its pictures, and nothing else, into a folder."""
    visualizer = cfg.setdefault('visualizer', dict(type='Visualizer'))
    backends = visualizer.get('vis_backends') or []
    backends = backends if isinstance(backends, (list, tuple)) else [backends]
    others = [backend for backend in backends if backend['type'] != 'LocalVisBackend']
    visualizer['vis_backends'] = [*others, dict(type='LocalVisBackend', img_save_dir=folder)]


def merge_args(cfg: Config, args: argparse.Namespace) -> None:
    """Write the options into the config, in place."""
    cfg.launcher = args.launcher
    set_work_dir(cfg, args.work_dir)
    # A local path; what mmengine fetches (https://, torchvision://) is for it to judge.
    if '://' not in args.checkpoint and not os.path.isfile(args.checkpoint):
        raise ConfigError(f'no such checkpoint: {args.checkpoint!r}')
    cfg.load_from = args.checkpoint
    cfg.resume = False
    if args.out and args.out_item == 'pred' and not args.out.endswith(('.pkl', '.pickle')):
        raise ConfigError(f'--out: predictions go into a .pkl file, got {args.out!r}')
    if args.out and args.out_item == 'metrics' and not args.out.endswith(('.json', '.pkl')):
        raise ConfigError(f'--out: metrics go into a .json or .pkl file, got {args.out!r}')
    if args.show_dir:
        show_in(cfg, args.show_dir)


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    try:
        cfg = load_config(args.config, cfg_options=args.cfg_options)
        merge_args(cfg, args)
        runner = build_runner(cfg)
        build_testing(runner)
        if args.out and args.out_item == 'pred':
            runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
        metrics = runner.test()
    except ConfigError as err:
        print(f'{args.config}: {err}', file=sys.stderr)
        return 2
    if args.out and args.out_item == 'metrics' and runner.rank == 0:
        mmengine.dump(metrics, args.out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
