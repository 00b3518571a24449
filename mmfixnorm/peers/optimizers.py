"""SGDP and AdamP (Heo et al. 2021), Muon (Jordan et al. 2024) and AdamC (Defazio 2025) of pytorch_optimizer."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from mmengine.registry import OPTIMIZERS
from torch.optim import Optimizer

from mmfixnorm.core.membership import FLAG
from mmfixnorm.errors import ConfigError

__all__ = ['build_adamc', 'build_adamp', 'build_muon', 'build_sgdp']

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


# Replaces torch's class of this name, which refuses every model with a bias, a norm layer or a convolution.
@OPTIMIZERS.register_module(name='Muon', force=True)
def build_muon(params: Any, **options: Any) -> Optimizer:
    """Build a Muon that steps the norm-fixing set, and steps everything else by its AdamW part.

    The step of a weight is its momentum with all singular values brought near 1, by five Newton-Schulz iterations in
    bfloat16; a convolution kernel counts as a matrix with a row for each output channel. The groups that
    ``FixNormOptimWrapperConstructor`` flags are stepped so (``use_muon=True``). The others, with biases, norm layers,
    scales ``g`` and excluded weights, are AdamW's, with ``adamw_betas``, ``adamw_eps``, and ``adamw_wd`` where the
    constructor does not set a weight decay. Their learning rate is ``adamw_lr``, but the constructor's where it sets
    one: with ``update='angle'`` it is ``other_lr`` times the angle. AdamW needs a smaller factor than the default of
    20, which is meant for SGD: about 0.1.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024. Read: the documentation and the
    code of torch 2.11 and ``pytorch_optimizer`` 4.1. Torch's own class takes matrices only; it is still there as
    ``type='torch.optim.Muon'``.

    Args:
        params: Parameter groups, some of them flagged by the constructor.
        **options: Arguments of ``pytorch_optimizer.Muon``: ``lr``, ``momentum``, ``nesterov``, ``ns_steps``,
            ``adamw_lr``, ``adamw_betas`` ...

    Raises:
        ConfigError: If no group is flagged, the package is not installed, or an option is unknown to it.

    Example of a config:
        >>> custom_imports = dict(imports=['mmfixnorm.peers'])
        >>> optim_wrapper = dict(
        ...     type='FixNormOptimWrapper', update='angle', other_lr=0.1,
        ...     constructor='FixNormOptimWrapperConstructor',
        ...     optimizer=dict(type='Muon', lr=0.02))
    """
    groups = _as_groups(params)
    if not any(FLAG in group for group in groups):
        raise ConfigError(
            "optim_wrapper.optimizer.type='Muon' needs groups that say which weights are matrices to step: set "
            "optim_wrapper.constructor='FixNormOptimWrapperConstructor'"
        )
    optimizer = _build('Muon', [{'use_muon': FLAG in group, **group} for group in groups], options)
    # The class keeps it in the groups alone; mmengine logs and schedules the one in `defaults` as the base.
    optimizer.defaults['lr'] = next(group['lr'] for group in optimizer.param_groups if group['use_muon'])
    return optimizer


@OPTIMIZERS.register_module(name='AdamC')
def build_adamc(params: Any, **options: Any) -> Optimizer:
    r"""Build an AdamW whose weight decay follows the square of the schedule, for weights before a normalisation.

    Groups with ``normalized=True`` lose :math:`\lambda\, \eta_t^2 / \eta_{\max}` of their weights in a step, the others
    :math:`\lambda\, \eta_t` as in AdamW; :math:`\eta_{\max}` is ``lr``, before any schedule. So the ratio of gradient
    to weight, to which decay leads, does not depend on the schedule. Which groups count as normalised, the config says:
    ``norm_fixing`` of ``DecayedGroupsOptimWrapperConstructor`` are the convolutions, and linear layers too unless
    ``lambda_fc`` gives them a decay of their own. A group with another learning rate (``lr_mult``) has the same
    :math:`\eta_{\max}`; ``auto_scale_lr`` does not change it.

    Aaron Defazio, "Why Gradients Rapidly Increase Near the End of Training", arXiv:2506.02285, 2025. Read: the
    abstract, summaries with the formula, and the code of ``pytorch_optimizer`` 4.1.

    Args:
        params: Parameter groups, some of them with ``normalized=True``.
        **options: Arguments of ``pytorch_optimizer.AdamC``: ``lr``, ``betas``, ``eps``, ``weight_decay`` ...

    Raises:
        ConfigError: If no group is normalised, the package is not installed, or an option is unknown to it.

    Example of a config:
        >>> custom_imports = dict(imports=['mmfixnorm.peers'])
        >>> optim_wrapper = dict(
        ...     constructor='DecayedGroupsOptimWrapperConstructor',
        ...     optimizer=dict(type='AdamC', lr=2e-3, weight_decay=1e-2),
        ...     paramwise_cfg=dict(lambda_fc=1e-2, groups=dict(norm_fixing=dict(normalized=True))))
    """
    groups = _as_groups(params)
    if not any(group.get('normalized') for group in groups):
        raise ConfigError(
            "optim_wrapper.optimizer.type='AdamC' corrects the decay of groups with normalized=True, and there are "
            "none: set optim_wrapper.constructor='DecayedGroupsOptimWrapperConstructor' and "
            'optim_wrapper.paramwise_cfg.groups=dict(norm_fixing=dict(normalized=True))'
        )
    return _build('AdamC', groups, options)


def _as_groups(params: Any) -> list[dict[str, Any]]:
    """Copy parameter groups, which the library changes; a tensor is a group of its own."""
    return [dict(group) if isinstance(group, dict) else {'params': [group]} for group in params]


def _build(name: str, params: Any, options: dict[str, Any]) -> Optimizer:
    """Build ``pytorch_optimizer.<name>``.

    Raises:
        ConfigError: If the package is not installed, or an option is unknown to the class.
    """
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
