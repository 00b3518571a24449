"""Statistics for norm layers that run on stored ones, where nothing has computed any."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ['calibrate', 'draw']


def draw(like: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Draw a tensor of the shape and type of ``like`` from a uniform distribution."""
    values = torch.rand(like.shape, generator=generator, dtype=torch.float64)
    return (low + (high - low) * values).to(like)


@torch.no_grad()
def calibrate(model: nn.Module, forward: Callable[[], Any], seed: int = 0) -> list[str]:
    """Set the initial statistics of norm layers in evaluation mode to about those of a forward, in place.

    Frozen normalisations are trained on the statistics of pretrained weights. With means of 0 and variances of 1 they
    normalise nothing, so that signals grow from block to block: the losses of HTC with a recursive FPN are 1e83. Each
    layer gets the statistics of its first input, with a mean that is off by up to half a standard deviation and a
    variance by up to half of it, as no batch has the statistics of all.

    Args:
        model (nn.Module): The model. Statistics that are not the initial ones are left as they are.
        forward (Callable): Runs a forward of the model. It is not called if there is nothing to set.
        seed (int): Of what is added to the statistics.

    Returns:
        list[str]: The names of the buffers that were set.
    """
    generator = torch.Generator().manual_seed(seed)
    with ExitStack() as stack:
        waiting = {name: m for name, m in model.named_modules() if not m.training and _is_initial(m)}
        for module in waiting.values():
            stack.callback(module.register_forward_pre_hook(_setter(generator)).remove)
        if waiting:
            forward()
    done = [name for name, module in waiting.items() if not _is_initial(module)]
    return [f'{name}.{buffer}'.lstrip('.') for name in done for buffer in ('running_mean', 'running_var')]


def _is_initial(module: nn.Module) -> bool:
    mean, var = getattr(module, 'running_mean', None), getattr(module, 'running_var', None)
    return isinstance(mean, Tensor) and isinstance(var, Tensor) and not mean.any() and bool((var == 1).all())


def _setter(generator: torch.Generator) -> Callable[[nn.Module, Any], None]:
    def set_statistics(module: Any, args: Any) -> None:
        if not _is_initial(module):  # a layer that runs twice
            return
        x = args[0].detach()
        var, mean = torch.var_mean(x, [dim for dim in range(x.ndim) if dim != 1], correction=0)
        var = torch.where(var > 0, var, 1.0)
        module.running_mean.copy_(mean + var.sqrt() * draw(mean, -0.5, 0.5, generator))
        module.running_var.copy_(var * draw(var, 0.5, 1.5, generator))

    return set_statistics
