"""Random numbers that depend only on the epoch, so that a resumed run draws the same ones."""

from __future__ import annotations

import random

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seeds ``random``, NumPy and torch at the start of every training epoch, from the run's seed and the epoch.

    mmengine seeds once and saves no random state, so a resumed run gets different crops and dropout than an
    uninterrupted one. With this hook both are identical bit for bit on a CPU, provided no worker process keeps its own
    random state (``num_workers=0``, or ``persistent_workers=False``). All ranks draw the same numbers unless
    ``randomness.diff_rank_seed`` is set, as in mmengine. For loops by epoch.
    """

    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner: Runner) -> None:
        rank = get_rank() if runner._randomness_cfg.get('diff_rank_seed', False) else 0
        (seed,) = np.random.SeedSequence([runner.seed, runner.epoch, rank]).generate_state(1)
        random.seed(int(seed))
        np.random.seed(seed)
        torch.manual_seed(int(seed))
