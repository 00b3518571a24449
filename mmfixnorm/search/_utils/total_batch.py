"""The total batch of a training: what its config is meant for, and what its processes make of it.

A learning rate belongs to the total batch: that of one update of the weights, over all processes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mmfixnorm.errors import ConfigError
from mmfixnorm.type_names import type_name

#: As in ``resnet50-d_fixnorm_16xb64-120e_imagenet``: devices and the batch of each.
_IN_NAME = re.compile(r'(?:^|[_-])(\d+)xb(\d+)(?=[_.-]|$)')


class TotalBatch(NamedTuple):
    """The total batch of a config, meant and real.

    Attributes:
        named: The one that the config is meant for.
        source: Where that is said.
        processes: Processes that train together.
        batch_size: Of each process, in each iteration.
        counts: Iterations of which one update is made (``optim_wrapper.accumulative_counts``).
    """

    named: int
    source: str
    processes: int
    batch_size: int
    counts: int

    @property
    def real(self) -> int:
        """The one that the processes have."""
        return self.processes * self.batch_size * self.counts

    @property
    def factor(self) -> int | None:
        """Times as many iterations to an update make up for it; None if no whole number does."""
        return None if self.named % self.real else self.named // self.real

    def __str__(self) -> str:
        counts = f' x accumulative_counts {self.counts}' if self.counts > 1 else ''
        processes = f'{self.processes} process{"es" * (self.processes > 1)}'
        return (
            f'{processes} x batch_size {self.batch_size}{counts} make a total batch of {self.real}, '
            f'and {self.source} says {self.named}'
        )


def total_batch(cfg: Mapping[str, Any], filename: str, processes: int) -> TotalBatch | None:
    """Read what a config says of its total batch: in its name, or else in ``auto_scale_lr.base_batch_size``.

    Args:
        cfg (Config): A resolved config.
        filename (str): The config's file.
        processes (int): Processes of a training.

    Returns:
        TotalBatch | None: None if neither says it, or the batch of a process is not a number in the config.

    Example:
        >>> cfg = dict(train_dataloader=dict(batch_size=64))
        >>> total_batch(cfg, 'resnet50_16xb64_imagenet.py', 8).factor
        2
    """
    batch_size = (cfg.get('train_dataloader') or {}).get('batch_size')
    counts = (cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)
    if not isinstance(batch_size, int) or not isinstance(counts, int):
        return None
    match = _IN_NAME.search(os.path.basename(filename))
    base = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    if match:
        return TotalBatch(
            int(match[1]) * int(match[2]), f"the config's name ({match[1]}xb{match[2]})", processes, batch_size, counts
        )
    if isinstance(base, int):
        return TotalBatch(base, 'auto_scale_lr.base_batch_size', processes, batch_size, counts)
    return None


def counts_to_keep(cfg: Mapping[str, Any], filename: str, processes: int) -> int:
    """Return the ``accumulative_counts`` with which a training has the total batch that its config is meant for.

    Raises:
        ConfigError: None does, the config does not say for which it is meant, or something in it counts iterations.
    """
    total = total_batch(cfg, filename, processes)
    if total is None:
        raise ConfigError(
            'search.keep_total_batch: the config says no total batch: it has no auto_scale_lr.base_batch_size, no name '
            'with devices and batch such as 16xb64, or no train_dataloader.batch_size; set auto_scale_lr = '
            'dict(base_batch_size=...)'
        )
    if total.factor is None:
        raise ConfigError(
            f'search.keep_total_batch: {total}, which is no multiple of it; use a number of GPUs (gpus_per_trial) or a '
            'train_dataloader.batch_size that divides it'
        )
    if total.factor > 1 and (obstacle := next(_counting_iterations(cfg), '')):
        raise ConfigError(
            f'search.keep_total_batch: {total}, and with accumulative_counts={total.factor * total.counts} {obstacle}; '
            'train with as many GPUs as that total needs'
        )
    return total.factor * total.counts


def _counting_iterations(cfg: Mapping[str, Any]) -> Iterator[str]:
    if 'constructor' in (cfg.get('optim_wrapper') or {}) and 'optimizer' not in cfg['optim_wrapper']:
        yield 'an optim_wrapper of several optimizers has no one number'
    hooks = [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or ())]
    for hook in hooks:
        if hook and 'EMA' in type_name(hook.get('type', '')):
            yield f'{type_name(hook["type"])} would average the weights of each iteration, not of each update'
    scheduler = (cfg.get('default_hooks') or {}).get('param_scheduler') or {}
    if type_name(scheduler.get('type', 'ParamSchedulerHook')) != 'ParamSchedulerHook':
        yield f'default_hooks.param_scheduler, {type_name(scheduler["type"])}, steps its schedules by iterations'
