"""Learning rates of single parameters, as another constructor gives them: layer-wise decay of the learning rate."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from mmfixnorm.errors import ConfigError

__all__ = ['check_lr_constructor', 'lr_factors']

_KEY = 'optim_wrapper.paramwise_cfg.lr_constructor'
_SHOWN = 3
# What constructors raise at a model or an option that they do not know; mmseg's leaves a variable without a value.
_DOES_NOT_FIT = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    RuntimeError,
    TypeError,
    ValueError,
)


def check_lr_constructor(settings: Any) -> None:
    """Check that ``paramwise_cfg.lr_constructor`` names a constructor.

    Raises:
        ConfigError: If it is no dict, or its ``type`` is missing, unknown, or a constructor of this package.
    """
    if not isinstance(settings, Mapping) or not settings.get('type'):
        raise ConfigError(
            f"{_KEY}: must be a dict with type, as dict(type='LearningRateDecayOptimWrapperConstructor', "
            f'layer_decay_rate=0.75), got {settings!r}'
        )
    kind = settings['type']
    with OPTIM_WRAPPER_CONSTRUCTORS.switch_scope_and_registry(None) as registry:
        found = registry.get(kind) if isinstance(kind, str) else kind
    if found is None:
        raise ConfigError(
            f'{_KEY}.type: no constructor {kind!r} is registered; check its name, and that default_scope or '
            'custom_imports of the config names the package that has it'
        )
    if hasattr(found, 'takes_lr_constructor'):
        raise ConfigError(
            f'{_KEY}.type: {kind!r} is a constructor with norm fixing itself; name the one whose learning rates to '
            'take, of a toolbox or of mmengine'
        )


def lr_factors(
    model: nn.Module, settings: Mapping[str, Any], *, lr: float, weight_decay: float | None = None
) -> dict[int, float]:
    """Ask a constructor for the learning rate of each parameter.

    It builds a plain SGD, of which only the learning rates are read. Frozen parameters count as trained meanwhile, so
    that they have their learning rate when they are thawed.

    Args:
        model (nn.Module): The model, without a wrapper.
        settings (Mapping): ``type`` of the constructor, and its options: what would be in ``paramwise_cfg`` with it.
        lr (float): The learning rate of the config, > 0.
        weight_decay (float, optional): That of the optimizer. Constructors multiply it; nothing of it is read.

    Returns:
        dict[int, float]: ``id`` of each parameter to its learning rate, in multiples of ``lr``.

    Raises:
        ConfigError: If the constructor does not fit the model, leaves out a parameter, or gives one a learning rate
            that is not a finite number >= 0.
    """
    options = {key: value for key, value in settings.items() if key not in ('type', '_scope_')}
    optimizer = dict(type='SGD', lr=lr, weight_decay=weight_decay or 0.0)
    kind = f'{_KEY}: {settings["type"]}'
    # mmdet's and mmseg's print their groups, with a decay that is not the one in use.
    with _all_trained(model), redirect_stdout(io.StringIO()):
        try:
            constructor = OPTIM_WRAPPER_CONSTRUCTORS.build(
                dict(
                    type=settings['type'],
                    optim_wrapper_cfg=dict(type='OptimWrapper', optimizer=optimizer),
                    paramwise_cfg=options,
                )
            )
            groups = constructor(model).optimizer.param_groups
        except _DOES_NOT_FIT as err:
            raise ConfigError(
                f'{kind} cannot group the parameters of {type(model).__name__} with the options {options}: '
                f'{type(err).__name__}: {err}. It must know the layers of this model (mmpretrain: get_layer_depth of '
                'its backbone); change the options, or drop lr_constructor'
            ) from err
    factors = {id(param): float(group['lr']) / lr for group in groups for param in group['params']}
    named = {name: param for name, param in model.named_parameters() if param.is_floating_point()}
    if missing := [key for key, param in named.items() if id(param) not in factors]:
        raise ConfigError(
            f'{kind} leaves out {len(missing)} parameters ({", ".join(missing[:_SHOWN])}, ...), so they have no '
            'learning rate; freeze them in the model, or take a constructor that groups every parameter'
        )
    for key, param in named.items():
        if not 0 <= (factor := factors[id(param)]) < math.inf:
            raise ConfigError(f'{kind} gives {key} {factor} times the learning rate; it must be a finite number >= 0')
    return factors


@contextmanager
def _all_trained(model: nn.Module) -> Iterator[None]:
    frozen = [param for param in model.parameters() if not param.requires_grad and param.is_floating_point()]
    try:
        for param in frozen:
            param.requires_grad = True
        yield
    finally:
        for param in frozen:
            param.requires_grad = False
