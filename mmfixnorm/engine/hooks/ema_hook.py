"""An EMA whose weights are evaluated and saved at their target norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.hooks import EMAHook
from mmengine.optim import OptimWrapper
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
    Takes the arguments of the base class, and two of mmpretrain's hook.

    Args:
        evaluate_on_ema (bool): Whether validation and test use the average. Defaults to True; False means the trained
            weights.
        evaluate_on_origin (bool): Whether to evaluate the trained weights after the average, as ``val/NAME_origin`` and
            ``test/NAME_origin`` of the log. Defaults to False.
    """

    _averages: Sequence[tuple[Tensor, Tensor]] = ()

    def __init__(
        self, *args: Any, evaluate_on_ema: bool = True, evaluate_on_origin: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.evaluate_on_ema = evaluate_on_ema
        self.evaluate_on_origin = evaluate_on_origin

    def before_val_epoch(self, runner: Runner) -> None:
        self._to_average(runner)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._from_average(runner, 'val')

    def before_test_epoch(self, runner: Runner) -> None:
        self._to_average(runner)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._from_average(runner, 'test')

    def _to_average(self, runner: Runner) -> None:
        if self.evaluate_on_ema:
            self._swap_ema_parameters()
            self._rescale(runner)

    def _from_average(self, runner: Runner, mode: str) -> None:
        if not self.evaluate_on_ema:
            return
        self._restore(runner)
        self._swap_ema_parameters()
        if not self.evaluate_on_origin:
            return
        loop = getattr(runner, f'{mode}_loop')
        runner.model.eval()
        for i, batch in enumerate(loop.dataloader):
            loop.run_iter(i, batch)
        for name, value in loop.evaluator.evaluate(len(loop.dataloader.dataset)).items():
            runner.message_hub.update_scalar(f'{mode}/{name}_origin', value)

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
        is_test = not isinstance(runner.optim_wrapper, OptimWrapper)
        if is_test and 'ema_state_dict' in checkpoint and (self.evaluate_on_origin or not self.evaluate_on_ema):
            # The average is the model that was saved; the trained weights lie under its name.
            self._swap_ema_state_dict(checkpoint)

    def _names(self, tensors: list[Tensor]) -> list[str]:
        in_set = {id(t) for t in tensors}
        return [name for name, param in self.src_model.named_parameters() if id(param) in in_set]

    @staticmethod
    def _sets(runner: Runner) -> list[tuple[float, list[Tensor]]]:
        """Return target and tensors of each norm-fixing set; none before the first step, and without a training."""
        return [(f.target, flagged(o)) for f, o in norm_fixers_of(runner) if f.target is not None]

    @torch.no_grad()
    def _rescale(self, runner: Runner) -> None:
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
