"""What is said in the log about weights that do not qualify for the norm-fixing set."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from mmengine.logging import print_log
from torch import nn

from mmfixnorm.core.layer_kinds import is_plain_linear
from mmfixnorm.core.stored_statistics import stored_statistics_layers

_SHOWN = 5


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
            f'The norm-fixing set holds plain linear layers: {_shown(plain)}. Unless a normalisation follows, fixing '
            'their norm changes what the model can say: use a FixNorm head, lambda_fc (Algorithm 1), or exclude.'
        )
    stored = stored_statistics_layers(model)
    affine = [name for name in layers if name in stored]
    if affine:
        _warn(
            f'The norm-fixing set holds layers whose batch normalisation runs on stored statistics: {_shown(affine)}. '
            'It is an affine map there, so they are not scale-invariant: train it (norm_eval=False), or leave them '
            'out with exclude.'
        )


def _shown(names: list[str]) -> str:
    return f'{names[:_SHOWN]}{f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""}'


def _warn(text: str) -> None:
    print_log(text, logger='current', level=logging.WARNING)
