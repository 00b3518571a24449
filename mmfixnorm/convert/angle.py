"""What a converted config has in units of the learning rate, when that becomes an angle or another learning rate."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.registry import OPTIMIZERS, PARAM_SCHEDULERS

from mmfixnorm.errors import ConfigError
from mmfixnorm.type_names import type_name

__all__ = [
    'ANGLE',
    'comments_on_decay',
    'has_warm_up',
    'keys_of_lr',
    'schedule_by_angle',
    'schedule_for_lr',
    'schedule_without_decay',
    'takes_no_lr',
    'wrapper_by_angle',
]

ANGLE = 0.02
"""Radians by which each layer turns in one step at the peak of the schedule, until a search finds a better angle."""

RAISED = 4.0
"""What multiplies the learning rate of Adam and AdamW for parameters outside the set, by angle."""

_BY_ANGLE = '--update angle'

# Keys of each scheduler in units of the learning rate; all others are factors, counts or switches.
_LR_KEYS: dict[str, tuple[str, ...]] = {
    'ConstantLR': (),
    'CosineAnnealingLR': ('eta_min',),
    'CosineRestartLR': ('eta_min',),
    'ExponentialLR': (),
    'LinearLR': (),
    'MultiStepLR': (),
    'PolyLR': ('eta_min',),
    'PolyLRRatio': ('eta_min',),
    'QuadraticWarmupLR': (),
    'ReduceOnPlateauLR': ('min_value', 'eps'),
    'StepLR': (),
}
_ALL_LR_KEYS = {**_LR_KEYS, 'OneCycleLR': ('eta_max',)}
# These take `eta_min_ratio`, which holds for every group of parameters and every angle of a search.
_WITH_RATIO = ('CosineAnnealingLR', 'CosineRestartLR', 'PolyLRRatio')
# These give one number to all parameters, though those outside the set have another learning rate than the angle.
_FOR_ALL = {
    ('OneCycleLR', 'eta_max'): 'replace the schedule, for example by LinearLR and CosineAnnealingLR',
    ('PolyLR', 'eta_min'): 'set it to 0, or replace the schedule by CosineAnnealingLR, which has eta_min_ratio',
    ('ReduceOnPlateauLR', 'min_value'): 'remove it',
}
_OTHER_VALUES = ('Momentum', 'WeightDecay')  # ends of the names of schedulers of something other than the lr


def wrapper_by_angle(cfg: Config, edit: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Turn the child's ``optim_wrapper`` into one by angle; return it, and comments on it.

    Args:
        cfg (Config): The plain config.
        edit (Mapping): ``optim_wrapper`` of the child whose set makes the optimizer's steps.
    """
    optimizer = cfg.optim_wrapper.optimizer
    found: dict[str, Any] = {**copy.deepcopy(dict(edit)), 'update': 'angle', 'per': 'layer'}
    found['optimizer'] = dict(lr=ANGLE, **edit.get('optimizer', {}))
    comments = [
        'lr is an angle: each layer of the set turns by it in one step, in radians. Schedules act on the angle.'
    ]
    kind = type_name(optimizer['type'], OPTIMIZERS, cfg.get('default_scope'))
    if kind == 'SGD':
        comments.append('Biases, norm layers and other parameters outside the set have 20 times the angle as their lr.')
    else:  # 20 times the angle is for SGD; a step of others is as long as their lr
        lr, factor = float(optimizer['lr']), RAISED if kind in ('Adam', 'AdamW') else 1.0
        found['other_lr'] = float(f'{factor * lr / ANGLE:.3g}')
        times = f"{factor:g} times the base config's {lr:g}" if factor > 1 else f"{lr:g}, the base config's"
        comments.append(
            'Biases, norm layers and other parameters outside the set have other_lr times the angle as their lr: '
            f'{times}, as long as the angle is {ANGLE}.'
        )
    for key, own in found.get('paramwise_cfg', {}).get('custom_keys', {}).items():
        if (factor := own.get('lr_mult', 1.0)) > 1:  # smaller ones, as of a backbone that was trained before, are kept
            own['lr_mult'] = 1.0  # and the key, which a shorter one may be part of
            comments.append(
                f'Not carried over: lr_mult={factor:g} of custom_keys[{key!r}], with which its layers would turn by '
                f'{_tidy(factor * ANGLE)} in one step.'
            )
    return found, comments


def schedule_by_angle(cfg: Config) -> list[dict[str, Any]] | None:
    """Write the child's ``param_scheduler``, without any number in units of the old learning rate.

    Schedulers that would bring weight decay are left out, as by :func:`schedule_without_decay`.

    Returns:
        list[dict] | None: All schedulers; None if the config's own have no such number.

    Raises:
        ConfigError: If a scheduler is unknown, or its number has no counterpart; the message names its key.
    """
    return _schedule(cfg, ANGLE, _BY_ANGLE)


def schedule_for_lr(cfg: Config, lr: float) -> list[dict[str, Any]] | None:
    """Write the child's ``param_scheduler`` for another learning rate than the config's, in the same proportion.

    Schedulers that would bring weight decay are left out, as by :func:`schedule_without_decay`.

    Returns:
        list[dict] | None: All schedulers; None if the config's own have no number in units of the learning rate.

    Raises:
        ConfigError: If a scheduler is unknown; the message names its key.
    """
    return _schedule(cfg, lr, '--lr-from')


def schedule_without_decay(cfg: Config) -> list[dict[str, Any]] | None:
    """Write the child's ``param_scheduler`` without schedulers that take a weight decay of 0 to another value.

    Such a scheduler, as ``CosineAnnealingParamScheduler(param_name='weight_decay', eta_min=1e-5)``, gives its number to
    every group, the norm-fixing set included. Those that multiply, and mmpretrain's ``CosineAnnealingWeightDecay``,
    keep 0 at 0.

    Returns:
        list[dict] | None: All schedulers that are left; None if the config has none of those.
    """
    before = _schedulers(cfg)
    after = [own for own in before if not _decays(own, cfg.get('default_scope'))]
    return None if before == after else after


def comments_on_decay(cfg: Config) -> list[str]:
    """Name the schedulers that :func:`schedule_without_decay` leaves out, in a comment for each."""
    scope = cfg.get('default_scope')
    return [
        f'Not carried over: {type_name(own["type"], PARAM_SCHEDULERS, scope)} of weight_decay with '
        f'{", ".join(f"{name}={own[name]}" for name in names)}, which would bring weight decay to the set.'
        for own in _schedulers(cfg)
        if (names := _decays(own, scope))
    ]


def _schedulers(cfg: Config) -> list[dict[str, Any]]:
    schedulers = cfg.get('param_scheduler') or []
    return [dict(own) for own in ([schedulers] if isinstance(schedulers, Mapping) else schedulers)]


def _decays(scheduler: Mapping[str, Any], scope: str | None) -> list[str]:
    """Return the keys of the numbers to which a scheduler would take a weight decay of 0."""
    if scheduler.get('param_name') != 'weight_decay':
        return []
    kind = type_name(scheduler.get('type') or '', PARAM_SCHEDULERS, scope)
    names = _ALL_LR_KEYS.get(kind.removesuffix('ParamScheduler') + 'LR', ())
    return [name for name in names if name != 'eps' and scheduler.get(name)]


def _schedule(cfg: Config, new_lr: float, flag: str) -> list[dict[str, Any]] | None:
    several = not isinstance(cfg.get('param_scheduler'), Mapping)
    before = _schedulers(cfg)
    lr = float(cfg.optim_wrapper.optimizer.lr)
    after = []
    for i, own in enumerate(before):
        key = f'param_scheduler[{i}]' if several else 'param_scheduler'
        scope = cfg.get('default_scope')
        if _decays(own, scope):
            continue
        kind = _kind(own, scope)
        after.append(dict(own) if kind is None else _scaled(own, kind, lr, key, new_lr, flag, scope))
    return None if after == before else after


def keys_of_lr(schedulers: Any, scope: str | None) -> list[str]:
    """List the dotted keys of a ``param_scheduler``'s numbers in units of the learning rate: ``search.linked_keys``.

    A number that is missing or 0 is the same in any unit. Of a scheduler that is unknown nothing is known.
    """
    several = not isinstance(schedulers, Mapping)
    keys = []
    for i, own in enumerate((schedulers or []) if several else [schedulers]):
        names = _ALL_LR_KEYS.get(_kind(own, scope) or '', ())
        prefix = f'param_scheduler.{i}' if several else 'param_scheduler'
        keys += [f'{prefix}.{name}' for name in names if own.get(name)]
    return keys


def has_warm_up(schedulers: Any, scope: str | None) -> bool:
    """Tell whether a ``param_scheduler`` raises the learning rate from the first step on."""
    for own in [schedulers] if isinstance(schedulers, Mapping) else schedulers or []:
        kind = _kind(own, scope)
        if own.get('begin', 0) == 0 and (
            kind in ('OneCycleLR', 'QuadraticWarmupLR')
            or (kind == 'LinearLR' and own.get('start_factor', 1 / 3) < own.get('end_factor', 1.0))
            or (kind == 'ConstantLR' and own.get('factor', 1 / 3) < 1)
        ):
            return True
    return False


def takes_no_lr(schedulers: Any, scope: str | None) -> bool:
    """Tell whether a ``param_scheduler`` sets the learning rate, whatever that of the optimizer is."""
    each = [schedulers] if isinstance(schedulers, Mapping) else schedulers or []
    return any(_kind(own, scope) == 'OneCycleLR' for own in each)


def _kind(scheduler: Mapping[str, Any], scope: str | None) -> str | None:
    """Return the name of a scheduler of the learning rate; None if it schedules something else."""
    kind = type_name(scheduler.get('type') or '', PARAM_SCHEDULERS, scope)
    if kind.endswith(_OTHER_VALUES):
        return None
    if kind.endswith('ParamScheduler'):
        return kind.removesuffix('ParamScheduler') + 'LR' if scheduler.get('param_name') == 'lr' else None
    return kind


def _scaled(
    scheduler: Mapping[str, Any], kind: str, lr: float, key: str, new_lr: float, flag: str, scope: str | None
) -> dict[str, Any]:
    by_angle = flag == _BY_ANGLE
    if kind not in _ALL_LR_KEYS:
        raise ConfigError(
            f'{key}.type: {kind!r} is unknown to {flag}, which cannot tell which of its numbers are in units '
            'of the learning rate; convert the config with another schedule'
        )
    scaled = dict(scheduler)
    for name in _ALL_LR_KEYS[kind]:
        value = scheduler.get(name)
        if not value:  # missing or 0, in any unit
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(f'{key}.{name}: must be a number to be changed by {flag}, got {value!r}')
        if kind == 'PolyLR' and by_angle and scope == 'mmseg':
            kind = scaled['type'] = 'PolyLRRatio'  # mmseg's own
            scaled.pop('param_name', None)
        if by_angle and (remedy := _FOR_ALL.get((kind, name))):
            raise ConfigError(
                f'{key}.{name}: {kind} gives it to all parameters, but those outside the set need another learning '
                f'rate than the angle; {remedy}'
            )
        if kind in _WITH_RATIO and by_angle:
            del scaled[name]
            scaled['eta_min_ratio'] = _tidy(value / lr)
        else:
            scaled[name] = _tidy(value / lr * new_lr)
    return scaled


def _tidy(value: float) -> float:
    return float(f'{value:.6g}')
