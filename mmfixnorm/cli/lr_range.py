"""Measure the learning rates worth a search, by one short ramp of the learning rate.

Takes at most 100 steps and leaves nothing behind. A search does the same with ``search.lr_range='auto'``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence

from mmfixnorm.cli._arguments import add_cfg_options
from mmfixnorm.cli._output import check_writable, write_output
from mmfixnorm.cli._parser import run_script
from mmfixnorm.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument('config', help='config with an optimizer whose lr is a number')
    parser.add_argument('--lr-key', default='optim_wrapper.optimizer.lr', help='default: %(default)s')
    parser.add_argument('--seed', type=int, default=0, help='default: %(default)s')
    parser.add_argument('--json', metavar='FILE', help='write each step here as JSON')
    add_cfg_options(parser, help='changes to the config')


def run(args: argparse.Namespace) -> int:
    """Measure, and print the range."""
    from mmfixnorm.config import load_config, turns_by_angle
    from mmfixnorm.lr_range import measure_lr_range
    from mmfixnorm.search._utils.keys import get_key
    from mmfixnorm.search.settings import ANGLE_RANGE

    if args.json:
        check_writable(args.json, named_by='--json')
    cfg = load_config(args.config, cfg_options=args.cfg_options)
    lr = get_key(cfg.to_dict(), args.lr_key, named_by='--lr-key')
    if isinstance(lr, bool) or not isinstance(lr, (int, float)) or not lr > 0:
        raise ConfigError(f'{args.lr_key}: must be a number > 0, got {lr!r}')
    if turns_by_angle(cfg):
        print("lr_range = ({:g}, {:g})  # radians: with update='angle' it is the same for all".format(*ANGLE_RANGE))
        return 0
    cfg.launcher, cfg.log_level = 'none', 'WARNING'
    cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': args.seed}
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        ramp = measure_lr_range(cfg, float(lr))
    print(f'# {ramp}')
    if ramp.lr_range is not None:
        print('lr_range = ({:g}, {:g})'.format(*ramp.lr_range))
    if args.json:
        write_output(args.json, json.dumps(ramp.to_dict()), named_by='--json')
    return 1 if ramp.lr_range is None else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command alone, as ``tools/fixnorm_lr_range.py`` does."""
    return run_script(__name__, argv)
