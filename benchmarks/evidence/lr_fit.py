"""Three trainings from no range: what ``LRFitSearch`` chooses on each task, on test data and with new seeds.

The config's own learning rate is that of the stock recipe of its toolbox, so nothing here knows the task; by angle it
is what the converter writes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.evidence.lab import Lab
from benchmarks.evidence.rotation import MORE_SEEDS, TASKS, TEST_SEEDS, trained_by
from mmfixnorm.convert.angle import ANGLE
from mmfixnorm.search import Point

#: Learning rates of mmpretrain's CIFAR-10 schedule, mmdet's schedule_1x for 8 images and mmseg's schedules, and of the
#: config with AdamW.
STOCK_LRS = {'digits': 0.1, 'bccd': 0.01, 'camvid': 0.01, 'residual': 0.1, 'mobile': 0.1, 'deit': 0.002}

#: Where the spread of what was chosen decides something, it has twice as many seeds.
SPREAD = ('bccd',)


def own_lr(task: str, update: str) -> float:
    """What a config has that no one has tuned: the stock recipe's learning rate, or the converter's angle."""
    return ANGLE if update == 'angle' else STOCK_LRS[task]


def task(name: str) -> Callable[[Lab], None]:
    """Searches with ``lr_range='auto'`` by both updates, their winners and the stock learning rate on test data."""

    def search(lab: Lab, update: str, group: str) -> tuple[str, dict[str, Any], float]:
        config, options = trained_by(TASKS[name], TASKS[name].converted if update == 'angle' else update)
        own = {**options, 'optim_wrapper.optimizer.lr': own_lr(name, update)}
        return config, options, lab.search(group, config, own, type='LRFitSearch', seed=0).lr

    def run(lab: Lab) -> None:
        seeds = (*TEST_SEEDS, *MORE_SEEDS) if name in SPREAD else TEST_SEEDS
        config, options, winner = search(lab, 'fixnorm', 'search')
        for group, lr in {'test': winner, 'stock-test': STOCK_LRS[name]}.items():
            if group == 'test' or lr != winner:  # the same trainings
                used = seeds if group == 'test' else TEST_SEEDS
                lab.finals(group, config, Point(lr, None, None), options=options, seeds=used)
        config, options, winner = search(lab, 'angle', 'angle-search')
        lab.finals('angle-test', config, Point(winner, None, None), options=options, seeds=seeds)

    return run
