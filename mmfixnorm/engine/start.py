"""The steps that start norm fixing, in the order that the optim wrapper and :class:`FixNormHook` follow.

1. :func:`prepare_model`: mark the shards, and set the scales of weight-normalised layers.
2. :func:`choose_set`: pick the weights, and refuse an empty set.
3. Flag them in the optimizer: the hook in the groups that it finds, the constructor in groups that it makes.
4. :func:`warn_of_set`: warn of weights that do not belong in the set, and of weight decay on it.
5. Hook into ``optimizer.step``: :meth:`NormFixer.install`.

The hook takes all of them before training. The constructor takes 1 to 4 when the optimizer is built; the wrapper sets
the scales once more when weights are initialised and loaded, and takes step 5 before each step of the optimizer, which
may have been replaced.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from mmengine.logging import print_log
from torch import nn
from torch.optim import Optimizer

from mmfixnorm.core.layer_kinds import describe_unfixed_weights, is_plain_linear, stored_statistics_layers
from mmfixnorm.core.layers import WeightNormalized, fill_scales
from mmfixnorm.core.membership import flagged
from mmfixnorm.core.norm_fixing import NormFixer, norm_fixing_parameters, warn_of_decay
from mmfixnorm.core.norms import global_norm
from mmfixnorm.core.sharding import mark_shards, whole_parameters
from mmfixnorm.errors import ConfigError

__all__ = [
    'check_norm',
    'choose_set',
    'config_errors',
    'fill_scales_of_run',
    'log_membership',
    'prepare_model',
    'warn_of_clipped_scales',
    'warn_of_negative_scales',
    'warn_of_set',
]

_SHOWN = 5


@contextmanager
def config_errors(named_by: str) -> Iterator[None]:
    """Turn a ``ValueError`` of the core into a :class:`ConfigError` that begins with ``named_by``."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as err:
        raise ConfigError(f'{named_by}{err}') from err


def prepare_model(model: nn.Module, *, initialised: bool = True) -> None:
    """Mark sharded parameters, and set the scales of weight-normalised layers.

    Args:
        model (nn.Module): The model as the run has it, wrapped or not.
        initialised (bool): Whether its weights are initialised; only then are scales set. Defaults to True.

    Raises:
        ConfigError: If sharding hides the weights, or a weight has no direction.
    """
    with config_errors(''):
        mark_shards(model)
    if initialised:
        fill_scales_of_run(model)


def fill_scales_of_run(model: nn.Module) -> None:
    """Call :func:`fill_scales` on the model of a run, which may be sharded.

    Raises:
        ConfigError: If a weight is all zero or not finite.
    """
    with config_errors('model: '), whole_parameters(model):
        fill_scales(model)


def choose_set(model: nn.Module, *, fc: bool, exclude: Sequence[str], named_by: str) -> dict[str, nn.Parameter]:
    """Pick the weights of the norm-fixing set, by name; frozen ones too, which join it when they are thawed.

    Args:
        model (nn.Module): The model, without a wrapper.
        fc (bool): Whether weights of linear layers belong to the set.
        exclude (Sequence[str]): Regular expressions of weight names to leave out.
        named_by (str): The config key or the hook that has ``fc`` and ``exclude``, for messages.

    Raises:
        ConfigError: If the set is empty, or a pattern matches no weight.
    """
    with config_errors(f'{named_by}: '):
        in_set = norm_fixing_parameters(model, fc=fc, exclude=exclude, frozen=True)
    if not any(weight.requires_grad for weight in in_set.values()):
        raise ConfigError(
            f'{named_by}: the norm-fixing set is empty: the model has no trainable conv{" or FC" if fc else ""} weight '
            f'that its option exclude leaves in; there is nothing to fix'
            + (
                f' ({len(in_set)} are frozen; freeze them in a hook before training to thaw them later)'
                if in_set
                else ''
            )
        )
    return in_set


def warn_of_set(model: nn.Module, optimizer: Optimizer) -> None:
    """Warn of weights of the set that are known not to be scale-invariant, and of weight decay; name those left out.

    Args:
        model (nn.Module): The model, without a wrapper.
        optimizer (Optimizer): With the set flagged in its groups.
    """
    names = {id(param): name for name, param in model.named_parameters()}
    warn_of_unfit_weights(model, [names[id(weight)] for weight in flagged(optimizer)])
    if text := describe_unfixed_weights(model):
        print_log(text, logger='current')
    warn_of_decay(optimizer)


def check_norm(norm_fixer: NormFixer, optimizer: Optimizer) -> None:
    """Log an error if the norm of the set is not its target, when a checkpoint is saved.

    Args:
        norm_fixer (NormFixer): Has the target.
        optimizer (Optimizer): With the set flagged in its groups.
    """
    if norm_fixer.target is None:
        return
    # Saving a checkpoint synchronises with the host anyway.
    norm = global_norm(flagged(optimizer)).item()
    # Rounding moves the norm of bfloat16 weights by some 0.2 %.
    rel_tol = max(1e-3, *(2 * torch.finfo(t.dtype).eps for t in flagged(optimizer)))
    if not math.isclose(norm, norm_fixer.target, rel_tol=rel_tol):
        print_log(
            f'The norm of the weights to fix is {norm}, its target {norm_fixer.target}: '
            'the training has diverged, or other code writes to these weights.',
            logger='current',
            level=logging.ERROR,
        )


@torch.no_grad()
def warn_of_clipped_scales(model: nn.Module) -> None:
    """Warn, naming the layers, of scales ``g`` that are above their bound when a training starts.

    Such a layer computes less than the plain layer with the same weights, as a checkpoint may have been trained with.

    Args:
        model (nn.Module): The model, wrapped or not, with its weights.
    """
    clipped = {}
    for name, module in model.named_modules():
        if isinstance(module, WeightNormalized) and math.isfinite(module.scale_bound) and module.g.numel() == 1:
            factor = abs(module.g.item()) / module.scale_bound
            if factor > 1:
                clipped[name] = f'{name} (1 / {factor:.3g})'
    if clipped:
        _warn(
            f'The scale g of {_shown([*clipped.values()])} is above its bound alpha * sqrt(outputs) at the start, so '
            'the outputs are those of the plain layer with these weights times the number in brackets, and g gets no '
            'gradient. To start as a loaded model was trained, raise alpha by that factor.'
        )


@torch.no_grad()
def warn_of_negative_scales(model: nn.Module, known: set[str]) -> None:
    """Warn, naming the layers, of scales ``g`` that have crossed 0; each layer once.

    Args:
        model (nn.Module): The model, wrapped or not.
        known (set[str]): Names of the layers that were warned of; they are added.
    """
    layers = {name: m.g for name, m in model.named_modules() if isinstance(m, WeightNormalized) and m.g.numel() == 1}
    signs = torch.stack([g.detach().float().cpu().reshape(()) for g in layers.values()]) if layers else torch.empty(0)
    crossed = [name for name, sign in zip(layers, (signs < 0).tolist(), strict=True) if sign and name not in known]
    known.update(crossed)
    if crossed:
        _warn(
            f'The scale g of {_shown(crossed)} is below 0: its outputs have changed sign, as under a high learning '
            'rate without a warm-up. The bound holds for |g|; begin param_scheduler with a warm-up (LinearLR), or '
            'lower the learning rate.'
        )


def warn_of_unfit_weights(model: nn.Module, in_set: Iterable[str]) -> None:
    """Warn, naming the layers, of weights in the set that are known not to be scale-invariant.

    Args:
        model (nn.Module): The model, without a wrapper.
        in_set (Iterable[str]): Names of the parameters in the norm-fixing set.
    """
    layers = [name.rpartition('.')[0] for name in in_set]
    modules = dict(model.named_modules())
    plain = [name for name in layers if is_plain_linear(modules[name])]
    if plain:
        _warn(
            f'The norm-fixing set contains plain linear layers: {_shown(plain)}. Unless a normalisation follows, '
            'fixing their norm restricts what the model can represent: use a FixNorm head, lambda_fc (Algorithm 1), '
            'or exclude.'
        )
    stored = stored_statistics_layers(model)
    affine = [name for name in layers if name in stored]
    if affine:
        _warn(
            'The norm-fixing set contains layers whose batch normalisation runs on stored statistics: '
            f'{_shown(affine)}. It is an affine map, so these layers are not scale-invariant: weight-normalise them '
            "with their scale held (dict(type='WNConv2d', train_scale=False) as conv_cfg or in model.fixnorm.swap), "
            'train the normalisation (norm_eval=False), or leave the layers out with exclude.'
        )


def log_membership(text: str) -> None:
    """Log a line of :class:`~mmfixnorm.core.membership.MembershipReport`."""
    print_log(text, logger='current')


def _shown(names: list[str]) -> str:
    return f'{names[:_SHOWN]}{f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""}'


def _warn(text: str) -> None:
    print_log(text, logger='current', level=logging.WARNING)
