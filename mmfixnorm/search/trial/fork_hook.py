"""Keeps checkpoints for trainings at other alphas, and checks that a training that continues another one repeats it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmfixnorm.search.trial.forks import ForkPoint, keep_point, refuse_start, start_of
from mmfixnorm.search.trial.scales import LargestScale


class NotRepeatedError(RuntimeError):
    """A training that continues another one does not repeat it to the last bit."""


class ForkHook(Hook):
    """Keeps a checkpoint when the iteration after it has told its loss; compares that loss in a training that forks.

    The state in which that iteration begins has met no bound, so a training at another alpha that continues from it has
    the same loss, unless something is not restored: then the trial ends, and its next attempt starts from the
    beginning.

    To be registered after the hook that measures the scales, with the same priority. Changes nothing.

    Args:
        trial_dir (Path): The trial's folder.
        task (dict): The content of ``spec.json``.
        scales (LargestScale): Of this training.
    """

    priority = 'LOWEST'

    def __init__(self, trial_dir: Path, task: Mapping[str, Any], scales: LargestScale) -> None:
        self._trial_dir = trial_dir
        self._task = task
        self._scales = scales
        self._bounds = sorted({min(alpha, task['alpha']) for alpha in task.get('fork_alphas', ())})
        self._expected: ForkPoint | None = None
        self._has_saved = False
        self._checkpoint: Path | None = None
        self._scale: float | None = None
        self.why_off = ''

    def before_train(self, runner: Runner) -> None:
        """Find out whether this training forks, and whether others can fork from it."""
        start = start_of(self._trial_dir)
        if start is not None and start.iteration == runner.iter:
            self._expected = start
            print_log(f'continues {start.key} from iteration {start.iteration}')
        if self._bounds and get_device() != 'cpu' and not runner._randomness_cfg.get('deterministic', False):
            self.why_off = f'randomness.deterministic is False, and the trainings run on {get_device()}'

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Note that there will be one at the end of this epoch."""
        self._has_saved = True

    def after_train_epoch(self, runner: Runner) -> None:
        """Note where it is."""
        self._checkpoint = None
        if self._has_saved and self._bounds and not self.why_off:
            self._checkpoint = Path(runner.message_hub.get_info('last_ckpt'))

    def before_train_epoch(self, runner: Runner) -> None:
        """Note the largest scale before the next step."""
        self._has_saved = False
        self._scale = self._scales.largest()

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep the last checkpoint, or compare the loss, in the first iteration after it."""
        if self._checkpoint is None and self._expected is None:
            return
        loss = float((outputs or {}).get('loss', 0.0))
        if self._expected is not None and loss != self._expected.next_loss:
            self._refuse(self._expected, loss)
        self._expected = None
        if self._checkpoint is not None and self._scale is not None:
            key, fingerprint = self._task['key'], self._task['fingerprint']
            done = ForkPoint(key, fingerprint, runner.iter, runner.max_iters, runner.epoch, self._scale, loss)
            keep_point(self._trial_dir, self._checkpoint, done, self._bounds)
        self._checkpoint = None

    def _refuse(self, start: ForkPoint, loss: float) -> None:
        why = (
            f'the loss after iteration {start.iteration} of {start.key} is {loss!r}, and {start.next_loss!r} there; '
            'something is not restored from checkpoints'
        )
        print_log(why, level=logging.WARNING)
        refuse_start(self._trial_dir, why)
        raise NotRepeatedError(why)
