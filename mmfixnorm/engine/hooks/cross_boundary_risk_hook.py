"""Logs of the final classifier: cross-boundary risk, scale and its bound."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks.hook import DATA_BATCH
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from mmfixnorm.core.cross_boundary_risk import cross_boundary_risk
from mmfixnorm.core.layers import WeightNormalized
from mmfixnorm.core.norms import tensor_norm
from mmfixnorm.engine.hooks.fix_norm_hook import unwrapped_model
from mmfixnorm.engine.hooks.measuring_hook import MeasuringHook
from mmfixnorm.errors import ConfigError


@HOOKS.register_module()
class CrossBoundaryRiskHook(MeasuringHook):
    """Logs MCBR (eq. 9), ``g`` and its bound on training and validation data (Fig. 2 right).

    Works for any classifier with a final linear layer and one label per image. ``train/mcbr``, ``train/g`` and
    ``train/g_bound`` belong to the current batch (its features, the weights after its step), every ``interval``
    iterations and at the end of an epoch; no other line of the log has them. ``val/mcbr`` (``test/mcbr``) is the mean
    over the whole data set, logged with the ``g`` used in evaluation: of averaged weights, if EMAHook puts them there.
    For a plain layer ``g`` is ``||W||_F``, which it corresponds to. Runs before LoggerHook. Changes nothing.

    Args:
        layer (str, optional): Name of the final linear layer in the model. Defaults to None: the model's last
            :class:`torch.nn.Linear`.
        interval (int): Training iterations between two measurements. Defaults to 50.

    Raises:
        ConfigError: If there is no such layer.
        ValueError: If the input of the layer is not (N, D).
    """

    priority = 'NORMAL'
    measured = ('mcbr', 'g', 'g_bound')

    def __init__(self, layer: str | None = None, interval: int = 50) -> None:
        self.layer = layer
        self.interval = interval
        self._classifier: nn.Linear | None = None
        self._features: Tensor | None = None
        self._sum_and_count: Tensor | None = None
        self._num_batches = 0
        self._scale: dict[str, float] = {}

    def before_train(self, runner: Runner) -> None:
        self._attach(runner)
        augments = getattr(getattr(unwrapped_model(runner), 'data_preprocessor', None), 'batch_augments', None)
        self._mixes_labels = augments is not None
        if self._mixes_labels:
            runner.logger.log(
                logging.WARNING,
                'CrossBoundaryRiskHook: batch augmentations mix the labels of a batch, so the risk is measured on '
                'validation data only.',
            )

    def before_val_epoch(self, runner: Runner) -> None:
        self._before_evaluation(runner)

    def before_test_epoch(self, runner: Runner) -> None:
        self._before_evaluation(runner)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: DATA_BATCH = None, outputs: dict | None = None
    ) -> None:
        due = self.every_n_inner_iters(batch_idx, self.interval)
        if not (due or self.end_of_epoch(runner.train_dataloader, batch_idx)):
            return
        assert self._classifier is not None
        scalars = scale_report(self._classifier)
        if not self._mixes_labels:
            assert isinstance(data_batch, dict)
            scalars['mcbr'] = self._risks(data_batch['data_samples']).mean().item()
        self.log_measured(runner, scalars)

    def _after_iter(  # for validation and testing, as in mmengine's IterTimerHook
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: DATA_BATCH = None,
        outputs: Sequence | dict | None = None,
        mode: str = 'val',
    ) -> None:
        if batch_idx != self._num_batches:
            return  # a second pass over the data, as EMAHook makes it of the weights without averaging
        self._num_batches += 1
        assert self._sum_and_count is not None
        assert self._classifier is not None
        assert not isinstance(outputs, dict)
        if not self._scale:  # as long as the weights are those of the evaluation, which EMAHook exchanges
            self._scale = scale_report(self._classifier)
        risks = self._risks(outputs or ())
        self._sum_and_count += torch.stack([risks.sum(), risks.new_tensor(len(risks))])

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._report(runner, 'val')

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._report(runner, 'test')

    def _attach(self, runner: Runner) -> None:
        # Not in before_run: EMAHook copies the model there, hooks included.
        if self._classifier is None:
            self._classifier = find_classifier(unwrapped_model(runner), self.layer)
            self._classifier.register_forward_pre_hook(self._capture)

    def _capture(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._features = args[0].detach()

    def _before_evaluation(self, runner: Runner) -> None:
        self._attach(runner)
        assert self._classifier is not None
        self._sum_and_count = torch.zeros(2, device=self._classifier.weight.device)
        self._num_batches = 0
        self._scale = {}

    def _report(self, runner: Runner, mode: str) -> None:
        assert self._sum_and_count is not None
        all_reduce(self._sum_and_count)
        total, count = self._sum_and_count.tolist()
        assert self._classifier is not None
        scalars = self._scale or scale_report(self._classifier)  # a process without data has not read it
        if count:
            scalars['mcbr'] = total / count
        for name, value in scalars.items():
            runner.message_hub.update_scalar(f'{mode}/{name}', value)

    def _risks(self, data_samples: Sequence[Any]) -> Tensor:
        assert self._classifier is not None
        assert self._features is not None
        labels = torch.cat([sample.gt_label.reshape(-1) for sample in data_samples])
        return cross_boundary_risk(
            self._features, labels.to(self._features.device), self._classifier.weight, reduction='none'
        )


def find_classifier(model: nn.Module, layer: str | None = None) -> nn.Linear:
    """Find the final linear layer of a classifier: ``layer`` by name, or the model's last ``nn.Linear``.

    Raises:
        ConfigError: If there is none, or if ``layer`` is another kind of module.
    """
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if layer is None and linears:
        return list(linears.values())[-1]
    if layer not in linears:
        raise ConfigError(
            f'layer={layer!r} is not a linear layer of the model '
            f'(its last ones: {list(linears)[-3:]}); the risk is defined for a final linear layer only'
        )
    return linears[layer]


def scale_report(classifier: nn.Module) -> dict[str, float]:
    """Read ``g`` of the layer, or ``||W||_F`` of a plain one, and ``g_bound`` if it has a bound."""
    if not isinstance(classifier, WeightNormalized):
        assert isinstance(classifier, nn.Linear)
        return {'g': tensor_norm(classifier.weight.detach()).item()}
    report = {'g': classifier.g.item()}
    if math.isfinite(classifier.scale_bound):
        report['g_bound'] = classifier.scale_bound
    return report
