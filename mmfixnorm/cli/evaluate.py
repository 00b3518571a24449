"""Test a checkpoint of any OpenMMLab toolbox: the config's ``default_scope`` picks it."""

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
        help='draw the predictions and save the images here (of several processes the first draws its share)',
    )


def show_in(cfg: Config, folder: str) -> None:
    """Switch on the visualization hook of the toolbox that the config is for, in place."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise ConfigError('--show-dir: the config has no default_hooks.visualization')
    # As given, not below the work dir: a hook of mmdet and a backend put their own in front of a relative path.
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
        draw_into(cfg, folder)


def draw_into(cfg: Config, folder: str) -> None:
    """Let the visualizer write its images, and nothing else, into a folder."""
    from mmengine.registry import VISBACKENDS

    from mmfixnorm.type_names import type_name

    visualizer = cfg.setdefault('visualizer', dict(type='Visualizer'))
    backends = visualizer.get('vis_backends') or []
    backends = backends if isinstance(backends, (list, tuple)) else [backends]
    scope = cfg.get('default_scope')
    others = [b for b in backends if type_name(b['type'], VISBACKENDS, scope) != 'LocalVisBackend']
    visualizer['vis_backends'] = [*others, dict(type='LocalVisBackend', img_save_dir=folder)]


def merge_args(cfg: Config, args: argparse.Namespace) -> None:
    """Write the options into the config, in place."""
    from mmfixnorm.data_checks.paths import check_checkpoint
    from mmfixnorm.launch import set_work_dir

    cfg.launcher = args.launcher
    set_work_dir(cfg, args.work_dir)
    # A local path; mmengine itself judges what it fetches (https://, torchvision://).
    if '://' not in args.checkpoint:
        check_checkpoint(args.checkpoint)
    cfg.load_from = args.checkpoint
    cfg.resume = False
    if args.out and args.out_item == 'pred' and not args.out.endswith(('.pkl', '.pickle')):
        raise ConfigError(f'--out: predictions go into a .pkl file, got {args.out!r}')
    if args.out and args.out_item == 'metrics' and not args.out.endswith(('.json', '.pkl')):
        raise ConfigError(f'--out: metrics go into a .json or .pkl file, got {args.out!r}')
    if args.show_dir:
        show_in(cfg, args.show_dir)


def run(args: argparse.Namespace) -> int:
    """Test."""
    import mmengine
    from mmengine.evaluator import DumpResults

    from mmfixnorm.fold import FoldCheckHook
    from mmfixnorm.launch import build_runner, build_testing, load_config

    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = load_config(args.config, cfg_options=args.cfg_options)
    merge_args(cfg, args)
    runner = build_runner(cfg)
    build_testing(runner)
    runner.register_hook(FoldCheckHook())
    if args.out and args.out_item == 'pred':
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
    metrics = runner.test()
    if args.out and args.out_item == 'metrics' and runner.rank == 0:
        mmengine.dump(metrics, args.out)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command alone, as ``tools/test.py`` does."""
    return run_script(__name__, argv)
