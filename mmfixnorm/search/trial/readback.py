"""Read the tuned numbers back from what was built, and stop a trial whose numbers did not take effect."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.model import is_model_wrapper

from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils.keys import get_key

# Parts of a config whose points of time a shorter training has earlier, see `schedule.py`.
_SHORTENED = ('train_cfg', 'param_scheduler', 'default_hooks', 'custom_hooks')


def _groups(optim_wrapper: Any) -> list[dict[str, Any]]:
    wrappers = getattr(optim_wrapper, 'optim_wrappers', None)  # of an OptimWrapperDict
    # The optimizers' own groups: a wrapper's `param_groups` can hold one more, the settings from
    # which a constructor with paramwise_cfg started.
    optimizers = [w.optimizer for w in (wrappers or {'': optim_wrapper}).values()]
    return [group for optimizer in optimizers for group in optimizer.param_groups]


def built_lrs(optim_wrapper: Any) -> list[float]:
    """Return the learning rates that the parameter groups start from, rising."""
    # A scheduler has set `lr` already and keeps what it was in `initial_lr`.
    return sorted({float(group.get('initial_lr', group['lr'])) for group in _groups(optim_wrapper)})


def built_weight_decays(optim_wrapper: Any) -> list[float]:
    """Return the weight decays of the parameter groups that are trained, rising."""
    return sorted({float(group['weight_decay']) for group in _trained(optim_wrapper) if 'weight_decay' in group})


def _trained(optim_wrapper: Any) -> list[dict[str, Any]]:
    # A group of frozen parameters alone proves nothing: what it has is never applied.
    return [g for g in _groups(optim_wrapper) if any(p.requires_grad for p in g['params'])]


def built_value(model: Any, key: str) -> float:
    """Follow a config key such as ``model.head.alpha`` on the built model.

    Raises:
        ConfigError: The model has no such attribute.
    """
    return float(_built(model, key, key.split('.')[1:]))


def built_owner(model: Any, key: str) -> Any:
    """Return what has the value at a key: of ``model.head.alpha`` the head.

    Raises:
        ConfigError: The model has no such attribute.
    """
    return _built(model, key, key.split('.')[1:-1])


def _built(model: Any, key: str, names: Sequence[str]) -> Any:
    node, missing = _follow(_unwrapped(model), names)
    if missing:
        raise ConfigError(
            f'search.alpha_key: {key!r} cannot be read back: the built '
            f'{type(node).__name__} has no attribute {missing!r}; use a layer that has it '
            '(FixNormLinearClsHead has alpha), or tune the learning rate alone'
        )
    return node


def _unwrapped(model: Any) -> Any:
    return model.module if is_model_wrapper(model) else model


def _follow(node: Any, names: Sequence[str]) -> tuple[Any, str]:
    """Follow attributes, entries and indices; return what they lead to, and the name that is not there, or ''."""
    for name in names:
        if isinstance(node, Mapping) and name in node:
            node = node[name]
        elif name.isdigit():
            try:
                node = node[int(name)]
            except (TypeError, IndexError, KeyError):
                return node, name
        elif hasattr(node, name):
            node = getattr(node, name)
        else:
            return node, name
    return node, ''


def built_numbers(runner: Any, key: str) -> list[float]:
    """Return the numbers that what was built has at a config key; empty if none can be read back there.

    Those of the model's attribute, or of the parameter groups that are trained: before a scheduler has changed them.
    """
    root, *names = key.split('.')
    if root == 'model':
        found = [_follow(_unwrapped(runner.model), names)]
    elif root == 'optim_wrapper' and 'optimizer' in names:
        name, *inner = names[names.index('optimizer') + 1 :]
        groups = [{name: g.get(f'initial_{name}', g.get(name))} for g in _trained(runner.optim_wrapper)]
        found = [_follow(group, [name, *inner]) for group in groups]
    else:
        found = []
    return [value for value, missing in found if not missing and _is_number(value)]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_among(value: float, built: Sequence[float]) -> bool:
    return any(math.isclose(b, value, rel_tol=1e-6) for b in built)


def check_built(
    task: Mapping[str, Any], lrs: Sequence[float], alphas: Sequence[float], weight_decays: Sequence[float]
) -> None:
    """Check that the values of a trial took effect.

    Args:
        task (Mapping): The content of ``spec.json``.
        lrs (Sequence[float]): Of the built groups; one of them must have the trial's.
        alphas (Sequence[float]): Of the built layers; each must have the trial's.
        weight_decays (Sequence[float]): Of the built groups that are trained; one must have
            the trial's, because paramwise_cfg takes it from some.

    Raises:
        ConfigError: A value did not take effect; the message names its key.
    """
    if not _is_among(task['lr'], lrs):
        raise ConfigError(
            f'search.lr_key: the trial asks for lr {task["lr"]:g}, but the built optimizer has '
            f'{lrs}; something else sets it (auto_scale_lr? lr_mult for every parameter?)'
        )
    weight_decay = task.get('weight_decay')
    if weight_decay is not None and not _is_among(weight_decay, weight_decays):
        raise ConfigError(
            f'search.weight_decay_key: the trial asks for weight decay {weight_decay:g}, but the trained parameters '
            f'of the built optimizer have {list(weight_decays)}; something else sets it (paramwise_cfg with '
            'decay_mult=0 for every parameter? a FixNorm set, which has none?)'
        )
    for key, alpha in zip(task['alpha_keys'], alphas, strict=True):
        if not math.isclose(alpha, task['alpha'], rel_tol=1e-6):
            raise ConfigError(
                f'search.alpha_key: the trial asks for alpha {task["alpha"]:g}, but {key} of the '
                f'built model is {alpha:g}; something else sets it'
            )


def check_space(task: Mapping[str, Any], runner: Any) -> list[str]:
    """Check that the numbers of ``search.space`` took effect: in what was built, or at least in its config.

    Args:
        task (Mapping): The content of ``spec.json``.
        runner (Runner): With all parts built.

    Returns:
        list[str]: The keys of the numbers that could not be read back from what was built.

    Raises:
        ConfigError: A number did not take effect; the message names its key.
    """
    unread = []
    for key, value in task.get('others', {}).items():
        numbers, source = built_numbers(runner, key), 'what was built has'
        if not numbers:
            unread.append(key)
            if key.split('.')[0] in _SHORTENED and task.get('fraction', 1) < 1:
                continue  # it can be a point of time, which is another one in a shorter training
            numbers, source = [get_key(runner.cfg.to_dict(), key, named_by=f'search.space.{key}')], 'its config has'
        if not _is_among(value, numbers):
            raise ConfigError(
                f'search.space.{key}: the trial asks for {value:g}, but {source} {sorted(set(numbers))}; something '
                'else sets it; take it out of the space if it is not used as it is given'
            )
    return unread
