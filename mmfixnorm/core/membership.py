"""The norm-fixing set in the groups of an optimizer, and which of its weights a step moves."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = [
    'FLAG',
    'WAITING',
    'MembershipReport',
    'Place',
    'flag_group',
    'flag_set',
    'flagged',
    'is_moved',
    'listing',
    'names_without_wrappers',
    'places',
    'positions',
    'require_same_set',
    'set_members',
    'trainable_by',
]

FLAG = 'fix_norm'
"""Key of a parameter group: ``True`` if all its tensors are in the norm-fixing set, else the list of their positions.
A flag on the group survives a copy, a pickle or a checkpoint, which replace optimizers and tensors."""

WAITING = 'fix_norm_waiting'
"""Key of a parameter group: positions of the weights that join the set with the first step that moves them."""

Place = tuple[int, int]
"""Number of a parameter group, and position in it."""


def flag_set(optimizer: Optimizer, params: Iterable[Tensor], names: Mapping[int, str] = MappingProxyType({})) -> None:
    """Flag ``params`` in the groups of ``optimizer`` as the norm-fixing set; frozen ones wait.

    Args:
        optimizer (Optimizer): Has them.
        params (Iterable[Tensor]): The set.
        names (Mapping[int, str]): The names of the tensors by their ``id``, as far as they are known, for the error.

    Raises:
        ValueError: If a tensor is not in the optimizer, or if there are no tensors.
    """
    in_set = {id(p): p for p in params}
    if not in_set:
        raise ValueError('the norm-fixing set is empty: no trainable conv or FC weight was given')
    own = {id(p) for group in optimizer.param_groups for p in group['params']}
    if missing := [names.get(k) or f'one of shape {tuple(p.shape)}' for k, p in in_set.items() if k not in own]:
        raise ValueError(
            f'{len(missing)} of the {len(in_set)} tensors to fix are not in the optimizer: {listing(missing)}; '
            'add them to the optimizer, or leave them out of the set'
        )
    for group in optimizer.param_groups:
        flag_group(group, [i for i, p in enumerate(group['params']) if id(p) in in_set])


_SHOWN = 3


def listing(names: Sequence[str]) -> str:
    """Write the first of these names, for a message."""
    return f'{", ".join(names[:_SHOWN]) or "none of them"}{" and others" if len(names) > _SHOWN else ""}'


def trainable_by(optimizer: Any, weights: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Leave out frozen weights that ``optimizer`` does not have, and so would not train when they are thawed."""
    own = {id(p) for group in getattr(optimizer, 'param_groups', ()) for p in group['params']}
    return [weight for weight in weights if weight.requires_grad or id(weight) in own]


def flag_group(group: dict[str, Any], to_flag: Sequence[int]) -> None:
    """Flag the tensors at these positions of a parameter group; frozen ones wait."""
    _divide(group, to_flag, [i for i in to_flag if group['params'][i].requires_grad])


def set_members(optimizer: Optimizer, members: Collection[Place]) -> None:
    """Let these weights be the set, of those that are in it or wait; the others wait."""
    for number, group in enumerate(optimizer.param_groups):
        candidates = sorted({*positions(group, FLAG), *positions(group, WAITING)})
        inside = [i for i in candidates if (number, i) in members]
        if inside != [*positions(group, FLAG)]:
            _divide(group, candidates, inside)


def _divide(group: dict[str, Any], candidates: Sequence[int], inside: Sequence[int]) -> None:
    group[FLAG] = True if len(inside) == len(group['params']) else [*inside]
    group[WAITING] = [i for i in candidates if i not in inside]
    if not group[WAITING]:
        del group[WAITING]


def positions(group: dict[str, Any], key: str = FLAG) -> Sequence[int]:
    """Return the positions that a parameter group lists under ``FLAG`` or ``WAITING``."""
    flag = group.get(key, ())
    return range(len(group['params'])) if flag is True else (flag or ())


def flagged(optimizer: Optimizer) -> list[Tensor]:
    """Return the tensors of the norm-fixing set, read from the groups at call time; not those that wait."""
    return [group['params'][i] for group in optimizer.param_groups for i in positions(group)]


def places(optimizer: Optimizer, *keys: str) -> dict[Place, Tensor]:
    """Find the tensors that the groups list under these keys, in the order of the groups."""
    found = {}
    for number, group in enumerate(optimizer.param_groups):
        for i in positions(group, keys[0]) if len(keys) == 1 else sorted(i for k in keys for i in positions(group, k)):
            found[number, i] = group['params'][i]
    return found


def is_moved(optimizer: Optimizer, place: Place) -> bool:
    """Tell whether a step moves a weight: not if it is frozen, has no gradient, or a learning rate of 0."""
    group = optimizer.param_groups[place[0]]
    tensor, lr = group['params'][place[1]], group.get('lr', 1)
    # A process that holds no part of a sharded tensor has no gradient for it. A learning rate on a device stays there.
    has_grad = tensor.grad is not None or tensor.numel() == 0
    return tensor.requires_grad and has_grad and (isinstance(lr, Tensor) or lr != 0)


def _log(text: str) -> None:
    logging.getLogger('mmfixnorm').warning(text)


# What DDP, FSDP, torch.compile and activation checkpointing put into names.
_WRAPPERS = re.compile(r'\b(module|_fsdp_wrapped_module|_orig_mod|_checkpoint_wrapped_module)\.')


def names_without_wrappers(names: Iterable[str]) -> list[str]:
    """Take out of names of parameters what wrappers of modules put into them."""
    return [_WRAPPERS.sub('', name) for name in names]


def require_same_set(saved: Collection[str], own: Collection[str]) -> None:
    """Refuse to resume with other weights in the norm-fixing set.

    Args:
        saved (Collection[str]): Names of the weights in the checkpoint.
        own (Collection[str]): Those of this run.

    Raises:
        ValueError: If they differ.
    """
    if {*saved} != {*own}:
        gone, new = sorted({*saved} - {*own}), sorted({*own} - {*saved})
        raise ValueError(
            f'the norm-fixing set has changed: the checkpoint has {listing(gone)}, this run has {listing(new)}. '
            'Resume with the config of that run, or start a new one from its weights by load_from'
        )


class MembershipReport:
    """Reports, by name, the weights that wait, join, are held or move again: each weight once for each of these.

    Attributes:
        write (Callable[[str], None]): Takes the lines. Defaults to a warning of the logger ``mmfixnorm``.
    """

    def __init__(self) -> None:
        self.write: Callable[[str], None] = _log
        self._names: dict[Place, str] = {}
        self._reported: set[tuple[str, Place]] = set()

    def take_names(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Learn the names of the weights from their model."""
        names = {id(param): name for name, param in model.named_parameters()}
        candidates = places(optimizer, FLAG, WAITING)
        self._names = {place: names[id(tensor)] for place, tensor in candidates.items() if id(tensor) in names}

    @property
    def names(self) -> list[str]:
        """The names of all weights that are or may join, without those of wrappers; empty while they are not known."""
        return names_without_wrappers(self._names.values())

    def __call__(self, weights: Iterable[Place], what: str) -> bool:
        """Write one line that says ``what`` the weights do, if one of them was not yet reported to do it."""
        new = [place for place in weights if (what, place) not in self._reported]
        self._reported.update((what, place) for place in new)
        if new:
            names = [self._names.get(place, 'number {1} of parameter group {0}'.format(*place)) for place in new]
            self.write(
                f'Norm fixing: {what}: {len(new)} {"weight" if len(new) == 1 else "weights"}, {", ".join(names)}'
            )
        return bool(new)
