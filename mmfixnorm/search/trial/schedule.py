"""Shorten the whole schedule of a config.

A shorter round of Algorithm 4 is a whole training in less time, not a long training that is cut off: the
length and everything that is tied to it shrink by the same ratio.

- ``train_cfg``: ``max_epochs`` or ``max_iters``, ``val_begin``, ``val_interval``,
  ``dynamic_intervals``;
- every parameter scheduler: begin, end, T_max, milestones, periods, step_size, total_steps,
  patience, and the gamma of ExponentialLR, so that it ends at the same factor;
- every hook: the points of time named in :data:`HOOK_TIMES` and the interval of checkpoints.

Rules: a boundary is rounded to a whole epoch or iteration and is at least 1, and equal boundaries
stay equal, so the cosine begins where the warm-up ends. Where every scheduler that touches a
boundary has ``convert_to_iter_based=True``, the boundary may be a part of an epoch, as mmengine
turns it into iterations. Everything shrinks by the ratio of the real lengths (8 of 38 epochs, not
0.2). Not touched: momenta of moving averages, and whatever a hook of your own counts in epochs
under another name.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from mmengine.config import Config

from mmfixnorm.config import training_length
from mmfixnorm.errors import ConfigError
from mmfixnorm.type_names import type_name

#: Arguments of hooks that are points of time (EMAHook, PipelineSwitchHook, SwitchRecipeHook,
#: YOLOXModeSwitchHook, CheckpointHook ...).
HOOK_TIMES = frozenset(
    {
        'begin_epoch',
        'begin_iter',
        'switch_epoch',
        'switch_iter',
        'action_epoch',
        'action_iter',
        'num_last_epochs',
        'save_begin',
    }
)
_ENDLESS = 10**9  # mmengine's INF: a scheduler without an end


def shortened_length(cfg: Config, fraction: float, *, named_by: str = 'search.schedule_fractions') -> int:
    """Return the length of a training at ``fraction``, in epochs or iterations.

    Raises:
        ConfigError: The shorter training would have no epoch or iteration, or as many as the whole.
    """
    length, unit = training_length(cfg)
    if fraction == 1:
        return length
    short = round(length * fraction)
    if not 1 <= short < length:
        raise ConfigError(
            f'{named_by}: {fraction} of train_cfg.max_{unit} = {length} is '
            f'{length * fraction:g} {unit}, which cannot be a shorter training; '
            f'use a larger fraction or 1.0'
        )
    return short


def scale_schedule(cfg: Config, fraction: float, *, named_by: str = 'search.schedule_fractions') -> Config:
    """Return a copy of ``cfg`` whose training takes ``fraction`` of its length.

    Args:
        cfg (Config): Any config with an epoch-based or iteration-based training loop.
        fraction (float): In (0, 1]; 1 changes nothing.
        named_by (str): The setting that a refusal names.

    Raises:
        ConfigError: The training cannot be shortened that much.

    Example:
        >>> short = scale_schedule(Config.fromfile('resnet50_8xb32_in1k.py'), 0.2)
        >>> short.train_cfg.max_epochs, short.param_scheduler.milestones
        (20, [6, 12, 18])
    """
    scaled = copy.deepcopy(cfg)
    if fraction == 1:
        return scaled
    length, unit = training_length(cfg)
    short = shortened_length(cfg, fraction, named_by=named_by)
    ratio = short / length

    def whole(value: float) -> int:
        return max(1, round(value * ratio)) if value > 0 else int(value)

    scaled.train_cfg[f'max_{unit}'] = short
    _scale_validation(scaled.train_cfg, whole)
    schedulers = list(_schedulers(scaled.get('param_scheduler')))
    rounded = {edge for s in schedulers if not _fine(s) for edge in _edges(s)}
    for scheduler in schedulers:
        _scale_scheduler(scheduler, ratio, whole, rounded, named_by)
    for hooks in (scaled.get('default_hooks'), scaled.get('custom_hooks')):
        _scale_hooks(hooks, whole)
    return scaled


def lengthen_iterations(cfg: Config, times: int) -> Config:
    """Return a copy of ``cfg`` with ``times`` as many iterations, and its parameter schedulers as they are.

    For a training by iterations that updates its weights once in ``times`` iterations, and whose schedulers count
    updates. Validation, checkpoints and the points of time of hooks are as many times later; a training by epochs
    stays as it is.
    """
    longer = copy.deepcopy(cfg)
    length, unit = training_length(cfg)
    if unit == 'epochs' or times == 1:
        return longer

    def whole(value: float) -> int:
        return int(value * times)

    longer.train_cfg.max_iters = length * times
    _scale_validation(longer.train_cfg, whole)
    for hooks in (longer.get('default_hooks'), longer.get('custom_hooks')):
        _scale_hooks(hooks, whole)
    return longer


def _scale_validation(train_cfg: MutableMapping[str, Any], whole: Callable[[float], int]) -> None:
    for key in ('val_begin', 'val_interval'):
        if key in train_cfg:
            train_cfg[key] = whole(train_cfg[key])
    if train_cfg.get('dynamic_intervals'):
        train_cfg['dynamic_intervals'] = [
            (whole(milestone), whole(interval)) for milestone, interval in train_cfg['dynamic_intervals']
        ]


def _schedulers(node: Any) -> Iterator[MutableMapping[str, Any]]:
    """Yield every scheduler of a dict, of a list, or of the lists of several optimizers."""
    if isinstance(node, MutableMapping) and 'type' in node:
        yield node
    elif isinstance(node, Mapping):
        for child in node.values():
            yield from _schedulers(child)
    elif isinstance(node, (list, tuple)):
        for child in node:
            yield from _schedulers(child)


def _fine(scheduler: Mapping[str, Any]) -> bool:
    return bool(scheduler.get('convert_to_iter_based', False))


def _counts_epochs(scheduler: Mapping[str, Any]) -> bool:
    return bool(scheduler.get('by_epoch', True))


def _edges(scheduler: Mapping[str, Any]) -> list[tuple[bool, float]]:
    """Return begin and end of a scheduler, each with whether it counts epochs."""
    edges = [scheduler.get('begin', 0), scheduler.get('end', _ENDLESS)]
    return [(_counts_epochs(scheduler), float(edge)) for edge in edges]


def _scale_scheduler(
    scheduler: MutableMapping[str, Any],
    ratio: float,
    whole: Callable[[float], int],
    rounded: set[tuple[bool, float]],
    named_by: str,
) -> None:
    begin = scheduler.get('begin', 0)

    def edge(value: float) -> float:
        if value >= _ENDLESS:
            return value
        if _fine(scheduler) and (_counts_epochs(scheduler), float(value)) not in rounded:
            return round(value * ratio, 6)
        return whole(value)

    def span(value: float) -> float:
        """Scale a time that counts from the scheduler's begin."""
        return max(edge(begin + value) - edge(begin), 0 if _fine(scheduler) else 1)

    new: dict[str, Any] = {key: edge(scheduler[key]) for key in ('begin', 'end') if key in scheduler}
    if scheduler.get('T_max'):
        new['T_max'] = span(scheduler['T_max'])
    if scheduler.get('total_steps'):  # mmengine demands an int
        new['total_steps'] = max(1, whole(begin + scheduler['total_steps']) - whole(begin))
    if 'step_size' in scheduler:
        new['step_size'] = whole(scheduler['step_size'])
    for key in ('patience', 'cooldown'):
        if scheduler.get(key):
            new[key] = whole(scheduler[key])
    if 'milestones' in scheduler:  # compared to whole steps, so never a part of one
        new['milestones'] = [max(1, whole(begin + m) - whole(begin)) for m in scheduler['milestones']]
    if 'periods' in scheduler:
        ends = [sum(scheduler['periods'][: i + 1]) for i in range(len(scheduler['periods']))]
        starts = [0, *ends[:-1]]
        new['periods'] = [max(1, whole(e) - (whole(s) if s else 0)) for s, e in zip(starts, ends, strict=True)]
    if 'Exponential' in type_name(scheduler['type']) and 'gamma' in scheduler:
        new['gamma'] = scheduler['gamma'] ** (1 / ratio)
    scheduler.update(new)
    if scheduler.get('end', _ENDLESS) <= scheduler.get('begin', 0):
        raise ConfigError(
            f'{named_by}: nothing is left of the param_scheduler {dict(scheduler)!r} '
            f'at {ratio:g} of its length; use a larger fraction'
        )


def _scale_hooks(node: Any, whole: Callable[[float], int]) -> None:
    if isinstance(node, MutableMapping):
        for key, value in node.items():
            if key in HOOK_TIMES and isinstance(value, int):
                node[key] = whole(value)
            else:
                _scale_hooks(value, whole)
        if 'CheckpointHook' in type_name(node.get('type', '')) and node.get('interval', -1) > 0:
            node['interval'] = whole(node['interval'])
    elif isinstance(node, (list, tuple)):
        for child in node:
            _scale_hooks(child, whole)
