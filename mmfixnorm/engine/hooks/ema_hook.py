"""An EMA whose weights are evaluated and saved at their target norm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.hooks import EMAHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from mmfixnorm.core.membership import flagged
from mmfixnorm.core.norms import global_norm, scale_
from mmfixnorm.engine.hooks.fix_norm_hook import norm_fixers_of


@HOOKS.register_module()
class FixNormEMAHook(EMAHook):
    """:class:`mmengine.hooks.EMAHook` that rescales the averaged norm-fixing set to its target.

    The mean of weights on a sphere is shorter than the radius, while the statistics of batch normalisation, by default
    copied from the source model, belong to weights of full length. So the set is rescaled wherever the average replaces
    the weights: during validation and testing, and in the ``state_dict`` of a checkpoint. The average itself continues
    without the rescaling; a checkpoint has it under ``'fix_norm_ema'``, so that a resumed run has the same bits.
    Takes the arguments of the base class.
    """

    _averages: Sequence[tuple[Tensor, Tensor]] = ()

    def before_val_epoch(self, runner: Runner) -> None:
        super().before_val_epoch(runner)
        self._rescale(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._restore(runner)
        super().after_val_epoch(runner, metrics)

    def before_test_epoch(self, runner: Runner) -> None:
        super().before_test_epoch(runner)
        self._rescale(runner)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._restore(runner)
        super().after_test_epoch(runner, metrics)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        super().before_save_checkpoint(runner, checkpoint)
        state = checkpoint['state_dict']
        saved: dict[str, Tensor] = {}
        for target, tensors in self._sets(runner):
            averages = {name: state[name] for name in self._names(tensors)}
            scale = target / global_norm([*averages.values()])
            state.update({name: average * scale.to(average.dtype) for name, average in averages.items()})
            saved.update(averages)
        if saved:
            checkpoint['fix_norm_ema'] = {'averages': saved}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if 'fix_norm_ema' in checkpoint and runner._resume:
            checkpoint['state_dict'].update(_averages(checkpoint))
        super().after_load_checkpoint(runner, checkpoint)

    def _names(self, tensors: list[Tensor]) -> list[str]:
        in_set = {id(t) for t in tensors}
        return [name for name, param in self.src_model.named_parameters() if id(param) in in_set]

    @staticmethod
    def _sets(runner: Runner) -> list[tuple[float, list[Tensor]]]:
        """Return target and tensors of each norm-fixing set; none before the first step, and without a training."""
        return [(f.target, flagged(o)) for f, o in norm_fixers_of(runner) if f.target is not None]

    @torch.no_grad()
    def _rescale(self, runner: Runner) -> None:
        if runner.optim_wrapper is None:  # not a training
            return
        self._averages = []
        for target, tensors in self._sets(runner):
            self._averages += [(t, t.detach().clone()) for t in tensors]  # dividing again would not be exact
            scale_(tensors, target / global_norm(tensors))

    @torch.no_grad()
    def _restore(self, runner: Runner) -> None:
        for tensor, average in self._averages:
            tensor.copy_(average)
        self._averages = []


def _averages(checkpoint: dict) -> dict[str, Tensor]:
    saved, state = checkpoint['fix_norm_ema'], checkpoint['state_dict']
    if 'averages' in saved:
        return saved['averages']
    # The first version saved the scale alone; dividing by it gives the average up to its rounding.
    return {name: state[name] / saved['scale'].to(state[name]) for name in saved['names']}
