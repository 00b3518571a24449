"""Options that several commands have."""

from __future__ import annotations

import argparse
from typing import Any


class CfgOptions(argparse.Action):
    """``KEY=VALUE ...`` by mmengine's ``DictAction``, which is imported only where the option is given."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        from mmengine.config import DictAction

        for value in values:
            if '=' not in value:
                raise argparse.ArgumentError(self, f'must be KEY=VALUE, got {value!r}')
        DictAction(self.option_strings, self.dest)(parser, namespace, values, option_string)


def add_cfg_options(parser: argparse.ArgumentParser, *, help: str) -> None:  # argparse's own name
    """Add ``--cfg-options``."""
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE', help=help)


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that every tool of an OpenMMLab project has."""
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    add_cfg_options(
        parser,
        help='change settings of the config, e.g. optim_wrapper.optimizer.lr=0.4; '
        'a list is written key="[a,b]" or key=a,b, without white space',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started this process (default: %(default)s)',
    )
    # torch.distributed.launch passes it as an option, torchrun in the environment.
    parser.add_argument('--local-rank', '--local_rank', type=int, default=0, help=argparse.SUPPRESS)
