"""Scans of the learning rate: by angle, of FixNorm and of its rivals, on tasks that need very different ones.

Seven learning rates a factor of 2 apart for each method and task, ranked on validation data. What of a rival is not
scanned, the weight decay, is what its own search has found on that task (``results``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.evidence.lab import Lab

ANGLES = 0.0025  # the lowest of seven, everywhere: 0.0025 to 0.16 rad
SEEDS = (0, 1, 2)


def seven(lowest: float) -> list[float]:
    """Seven learning rates, each twice the one before."""
    return [float(f'{lowest * 2**k:.6g}') for k in range(7)]


@dataclass(frozen=True)
class Task:
    """Configs of one task.

    Attributes:
        configs (str): Their path, with ``{method}`` for ``fixnorm`` and ``wd``.
        fixnorm (float): The lowest of FixNorm's learning rates.
        wd (float): The lowest of those of SGD with weight decay.
        decay (float): Its weight decay, the best of 11 or 25 trainings.
        adamw (float): The lowest of AdamW's.
        lars (float): The lowest of LARS's.
        options (dict): Dotted keys of the configs to change for all methods.
    """

    configs: str
    fixnorm: float
    wd: float
    decay: float
    adamw: float = 2.5e-4
    lars: float = 0.5
    options: dict[str, Any] = field(default_factory=dict)


TASKS = {
    'residual': Task('residual_{method}.py', 0.1, 0.05, 3.9e-4, adamw=5e-4),
    'mobile': Task('mobile_{method}.py', 0.05, 0.0125, 0.0137),
    'bccd': Task('bccd_{method}.py', 0.005, 0.005, 1e-5),
    'camvid': Task('camvid_{method}.py', 0.05, 0.0125, 0.01),
    'digits': Task('configs/digits/resnet8_{method}_1xb64-20e_digits.py', 0.1, 0.1, 4.7e-4),
}


def _angle(per: str) -> tuple[str, dict[str, Any]]:
    return 'fixnorm', {'optim_wrapper.update': 'angle', 'optim_wrapper.per': per}


def _rival(**optimizer: Any) -> dict[str, Any]:
    return {'optim_wrapper.optimizer': dict(_delete_=True, lr=1.0, **optimizer)}


# Norm layers and biases, which LARS leaves out, have a learning rate of their own, as in its config for ResNet-20.
_LARS = {
    **_rival(type='mmpretrain.LARS', momentum=0.9, weight_decay=1e-4),
    'optim_wrapper.constructor': 'mmfixnorm.peers.DecayedGroupsOptimWrapperConstructor',
    'optim_wrapper.paramwise_cfg': dict(_delete_=True, groups=dict(no_decay=dict(lr_mult=0.025, lars_exclude=True))),
}
_CLIP = {'optim_wrapper.clip_grad': dict(max_norm=5.0)}

#: Which config a method starts from, and what it changes there.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    'angle': _angle('layer'),
    'fixnorm': ('fixnorm', {}),
    'wd': ('wd', {}),
    'adamw': ('wd', _rival(type='AdamW', weight_decay=0.05)),
    'lars': ('wd', _LARS),
    'angle-set': _angle('set'),
    'angle-filter': _angle('filter'),
    'wd-clip': ('wd', _CLIP),
    'fixnorm-clip': ('fixnorm', _CLIP),
}


def lowest(task: Task, method: str) -> float:
    """The lowest learning rate of a scan."""
    name = method.split('-')[0]
    return ANGLES if name == 'angle' else getattr(task, name)


def scan(seed: int) -> Callable[[Lab], None]:
    """All methods on all tasks with one seed; the methods that matter most first."""

    def run(lab: Lab) -> None:
        for method, (base, changes) in METHODS.items():
            for name, task in TASKS.items():
                options = {**task.options, **changes}
                if base == 'wd' and method.startswith('wd'):
                    options['optim_wrapper.optimizer.weight_decay'] = task.decay
                lab.search(
                    f'{name}/{method}', task.configs.format(method=base), options,
                    type='GridSearch', lrs=seven(lowest(task, method)), seed=seed,
                )  # fmt: skip

    return run
