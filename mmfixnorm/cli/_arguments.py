"""Options that several commands have."""

from __future__ import annotations

import argparse
import re
from typing import Any

# Stands for a space while mmengine's parser, which removes all of them, reads a value.
_SPACE = '\ue020'
_INNER_SPACE = re.compile(r'(?<=[^ ,(\[]) +(?=[^ ,)\]])')


class CfgOptions(argparse.Action):
    """``KEY=VALUE ...`` by mmengine's ``DictAction``, which is imported only where the option is given.

    Keeps the spaces inside words, as in a path, which ``DictAction`` removes.
    """

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        from mmengine.config import DictAction

        for value in values:
            if '=' not in value:
                raise argparse.ArgumentError(self, f'must be KEY=VALUE, got {value!r}')
            key, _, text = value.partition('=')
            if text.lstrip(' \'"').startswith('{'):
                raise argparse.ArgumentError(
                    self, f'{key}: a dict cannot be given, got {text!r}; give each of its keys, as {key}.KEY=VALUE'
                )
        DictAction(self.option_strings, self.dest)(parser, namespace, map(_protected, values), option_string)
        setattr(namespace, self.dest, _restored(getattr(namespace, self.dest)))


def _protected(option: str) -> str:
    """Replace the spaces of ``KEY=VALUE`` that belong to the value, not to the notation of a list."""
    key, value = option.split('=', maxsplit=1)
    text = value.strip(' \'"')
    if ',' in text or text[:1] + text[-1:] in ('()', '[]'):
        return f'{key}={_INNER_SPACE.sub(lambda spaces: _SPACE * len(spaces[0]), value)}'
    return f'{key}={text.replace(" ", _SPACE)}'


def _restored(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace(_SPACE, ' ')
    if isinstance(value, dict):
        return {key: _restored(child) for key, child in value.items()}
    return type(value)(map(_restored, value)) if isinstance(value, (list, tuple)) else value


def positive(text: str) -> int:
    """Read an integer >= 1, as the ``type`` of an option."""
    value = int(text)  # argparse words its ValueError
    if value < 1:
        raise argparse.ArgumentTypeError(f'must be an integer >= 1, got {text}')
    return value


def add_cfg_options(parser: argparse.ArgumentParser, *, help: str) -> None:  # argparse's own name
    """Add ``--cfg-options``."""
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, metavar='KEY=VALUE', help=help)


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that every tool of an OpenMMLab project has."""
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    add_cfg_options(
        parser,
        help='change settings of the config, e.g. optim_wrapper.optimizer.lr=0.4; '
        'a list is written key="[a,b]" or key=a,b, without spaces around its parts',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started this process (default: %(default)s)',
    )
    # torch.distributed.launch passes it as an option, torchrun in the environment.
    parser.add_argument('--local-rank', '--local_rank', type=int, default=0, help=argparse.SUPPRESS)
