"""SGDP and AdamP (Heo et al. 2021) from the package pytorch_optimizer."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from mmengine.registry import OPTIMIZERS
from torch.optim import Optimizer

from mmfixnorm.errors import ConfigError

__all__ = ['build_adamp', 'build_sgdp']

_LIBRARY = 'pytorch_optimizer'


@OPTIMIZERS.register_module(name='SGDP')
def build_sgdp(params: Any, **options: Any) -> Optimizer:
    r"""Build an SGD without the radial part of the step, for weights detected as scale-invariant.

    The step :math:`p` (momentum included) loses its part along the weight,
    :math:`p - (\hat w \cdot p)\,\hat w`, where :math:`|\cos(w, \nabla f)| < \delta / \sqrt{\dim w}` holds: tested
    first for every output channel, with :math:`w` one channel, then for the whole tensor. Such weights decay at
    ``wd_ratio`` times the rate of the others. Decay is decoupled from the gradient:
    ``lr * weight_decay / (1 - momentum)`` per step, which equals the total effect of decay in SGD.

    Heo et al., "AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant Weights", ICLR 2021.
    Read: the abstract and the authors' code (clovaai/AdamP); not the text of the paper.

    Args:
        params: Tensors or parameter groups.
        **options: Arguments of ``pytorch_optimizer.SGDP``: ``lr``, ``momentum``, ``nesterov``, ``weight_decay``,
            ``delta``, ``wd_ratio`` ...

    Raises:
        ConfigError: If the package is not installed, or an option is unknown to it.

    Example of a config:
        >>> custom_imports = dict(imports=['mmfixnorm.peers'])
        >>> optim_wrapper = dict(optimizer=dict(type='SGDP', lr=0.1, momentum=0.9, weight_decay=1e-4))
    """
    return _build('SGDP', params, options)


@OPTIMIZERS.register_module(name='AdamP')
def build_adamp(params: Any, **options: Any) -> Optimizer:
    """Build an Adam without the radial part of the step; the same rule, paper and sources as :func:`build_sgdp`.

    Args:
        params: Tensors or parameter groups.
        **options: Arguments of ``pytorch_optimizer.AdamP``: ``lr``, ``betas``, ``weight_decay``, ``delta``,
            ``wd_ratio`` ...

    Raises:
        ConfigError: If the package is not installed, or an option is unknown to it.
    """
    return _build('AdamP', params, options)


def _build(name: str, params: Any, options: dict[str, Any]) -> Optimizer:
    try:
        library = importlib.import_module(_LIBRARY)  # late: it takes seconds, and the other peers do not need it
    except ModuleNotFoundError as err:
        if err.name != _LIBRARY:
            raise
        raise ConfigError(
            f"optim_wrapper.optimizer.type='{name}' needs {_LIBRARY}: pip install 'mmfixnorm[peers]'"
        ) from err
    optimizer_type = getattr(library, name)
    known = [key for key in inspect.signature(optimizer_type).parameters if key not in ('params', 'kwargs')]
    unknown = sorted(set(options) - set(known))
    if unknown:  # the class silently accepts any keyword
        raise ConfigError(f'optim_wrapper.optimizer: {name} does not know {unknown}; it takes {known}')
    return optimizer_type(params, **options)
