"""Does fine-tuning gain? A pretrained backbone with BN on stored statistics, by weight decay, by FixNorm and by angle.

As in ``rotation``: seven learning rates a factor of 2 apart for each method, and what each chooses on test data with
new seeds. The weight decay is what its search from scratch has found best on the task.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.evidence import rotation
from benchmarks.evidence.lab import Lab, config_file
from mmfixnorm.launch import load_config

METHODS: rotation.Methods = {
    'wd': ('wd', {}),
    **{name: rotation.METHODS[name] for name in ('wd-clip', 'fixnorm', 'angle')},
}
TASKS = {
    'bccd': rotation.Task('bccd-frozen_{method}.py', dict(fixnorm=0.005, wd=0.005), 1e-5, methods=METHODS),
    'camvid': rotation.Task('camvid-frozen_{method}.py', dict(fixnorm=0.025, wd=0.0125), 0.01, methods=METHODS),
}


def task(name: str) -> Callable[[Lab], None]:
    """The scan of each method with one seed, and its best on test data with seeds that no scan has."""
    of = TASKS[name]

    def run(lab: Lab) -> None:
        trained = load_config(config_file(of.configs.format(method='wd'))).model.backbone.init_cfg.checkpoint
        if not Path(trained).is_file():
            raise SystemExit(
                f'{trained}: no such checkpoint; the backbone of fine-tune-{name} is trained by '
                f'python tools/train.py benchmarks/evidence/configs/pretrain_{name}.py '
                f'--work-dir {Path(trained).parent}'
            )
        for method in of.methods:
            rotation.finals(lab, of, method)

    return run
