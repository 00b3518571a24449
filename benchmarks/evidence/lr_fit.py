"""Three trainings from no range: what ``LRFitSearch`` chooses on each task, on test data and with new seeds.

The config's own learning rate is that of the stock recipe of its toolbox, so nothing here knows the task.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.evidence.lab import Lab
from benchmarks.evidence.rotation import TASKS, TEST_SEEDS
from mmfixnorm.search import Point

#: Learning rates of mmpretrain's CIFAR-10 schedule, mmdet's schedule_1x for 8 images and mmseg's schedules.
STOCK_LRS = {'digits': 0.1, 'bccd': 0.01, 'camvid': 0.01, 'residual': 0.1, 'mobile': 0.1}


def task(name: str) -> Callable[[Lab], None]:
    """One search with ``lr_range='auto'``, its winner and the stock learning rate on test data."""
    config = TASKS[name].configs.format(method='fixnorm')
    options = {'optim_wrapper.optimizer.lr': STOCK_LRS[name]}

    def run(lab: Lab) -> None:
        winner = lab.search('search', config, options, type='LRFitSearch', seed=0)
        for group, lr in (('test', winner.lr), ('stock-test', STOCK_LRS[name])):
            lab.finals(group, config, Point(lr, None, None), seeds=TEST_SEEDS)

    return run
