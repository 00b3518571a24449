"""One training of a search: ``python -m mmfixnorm.search.trial TRIAL_DIR``.

Trains the folder's ``config.py`` as ``spec.json`` says and leaves ``result.json`` there. An error
of the training itself is not caught: the process fails, its log has the traceback, and the driver
makes another attempt, which goes on from the newest checkpoint that can be loaded.
"""

from __future__ import annotations

import json
import logging
import math
import pickle
import sys
import time
import traceback
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import CheckpointLoader, Runner

from mmfixnorm.errors import ConfigError
from mmfixnorm.launch import build_runner, build_training, load_config
from mmfixnorm.search.result import CONFIG_FILE, SPEC_FILE, TrialResult

CURVE_FILE = 'curve.jsonl'
_RESUMABLE = {'meta', 'state_dict', 'message_hub', 'optimizer'}
# What torch.load raises for a file that was cut off, by the place of the cut.
_TORN = (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile, KeyError, OSError)
# What a wrong config raises when the first batch meets what was built.
_CONFIG_ERRORS = (ValueError, TypeError, KeyError, AttributeError, ImportError, AssertionError)


class DivergedError(ArithmeticError):
    """The loss is not finite any more."""


class TrialHook(Hook):
    """Proves what was built, stops a diverged training and collects the validation curve.

    Runs after all other hooks of its moment. Changes nothing.

    Args:
        task (dict): The content of ``spec.json``.
        curve_file (Path): Gets a line for each validation; lines of earlier attempts are kept.
        interval (int): Iterations between two looks at the loss, each of which waits for the GPU.
    """

    priority = 'LOWEST'

    def __init__(self, task: Mapping[str, Any], curve_file: Path, interval: int = 10) -> None:
        self._task = task
        self._curve_file = curve_file
        self._interval = interval
        self._loss: Any = 0.0
        self._loss_iter = 0
        self.curve: dict[int, float] = {}
        self.iterations = 0
        self.built_lrs: list[float] = []
        self.built_alphas: list[float] = []

    def before_train(self, runner: Runner) -> None:
        """Read lr and alpha back from what was built; by now a checkpoint is loaded as well."""
        self.built_lrs = built_lrs(runner.optim_wrapper)
        self.built_alphas = [built_value(runner.model, key) for key in self._task['alpha_keys']]
        check_built(self._task, self.built_lrs, self.built_alphas)
        self.curve = read_curve(self._curve_file, up_to=training_step(runner))

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        """Note the loss; look at it every ``interval`` iterations."""
        self.iterations += 1
        self._loss, self._loss_iter = (outputs or {}).get('loss', 0.0), runner.iter + 1
        if self.every_n_train_iters(runner, self._interval):
            self._check_loss()

    def after_train_epoch(self, runner: Runner) -> None:
        """Look at the last loss before it is validated."""
        self._check_loss()

    def before_val_epoch(self, runner: Runner) -> None:
        """The same in a training by iterations, whose epoch ends with the training."""
        self._check_loss()

    def after_val_epoch(self, runner: Runner, metrics: Mapping[str, float] | None = None) -> None:
        """Note the metric."""
        step = training_step(runner)
        self.curve[step] = metric_value(metrics or {}, self._task['metric'])
        if is_main_process():
            with open(self._curve_file, 'a', encoding='utf-8') as f:
                f.write(json.dumps([step, self.curve[step]]) + '\n')

    def _check_loss(self) -> None:
        loss = float(torch.as_tensor(self._loss).detach())
        if not math.isfinite(loss):
            raise DivergedError(f'the loss is {loss} at iteration {self._loss_iter}')


def training_step(runner: Runner) -> int:
    """Epochs done in an epoch-based training, iterations done in another."""
    by_epoch = runner.cfg.train_cfg.get('max_epochs') is not None
    return runner.epoch if by_epoch else runner.iter


def built_lrs(optim_wrapper: Any) -> list[float]:
    """The learning rates that the parameter groups start from, rising."""
    wrappers = getattr(optim_wrapper, 'optim_wrappers', None)  # of an OptimWrapperDict
    # The optimizers' own groups: a wrapper's `param_groups` can hold one more, the settings from
    # which a constructor with paramwise_cfg started.
    optimizers = [w.optimizer for w in (wrappers or {'': optim_wrapper}).values()]
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    # A scheduler has set `lr` already and keeps what it was in `initial_lr`.
    return sorted({float(group.get('initial_lr', group['lr'])) for group in groups})


def built_value(model: Any, key: str) -> float:
    """Follow a config key such as ``model.head.alpha`` on the built model.

    Raises:
        ConfigError: The model has no such attribute.
    """
    node = model.module if is_model_wrapper(model) else model
    for name in key.split('.')[1:]:
        if name.isdigit():
            node = node[int(name)]
        elif hasattr(node, name):
            node = getattr(node, name)
        else:
            raise ConfigError(
                f'search.alpha_key: {key!r} cannot be read back: the built '
                f'{type(node).__name__} has no attribute {name!r}; use a layer that has it '
                '(FixNormLinearClsHead has alpha), or tune the learning rate alone'
            )
    return float(node)


def check_built(task: Mapping[str, Any], lrs: Sequence[float], alphas: Sequence[float]) -> None:
    """Check that the values of a trial took effect.

    Raises:
        ConfigError: They did not.
    """
    if not any(math.isclose(lr, task['lr'], rel_tol=1e-6) for lr in lrs):
        raise ConfigError(
            f'search.lr_key: the trial asks for lr {task["lr"]:g}, but the built optimizer has '
            f'{lrs}; something else sets it (auto_scale_lr? lr_mult for every parameter?)'
        )
    for key, alpha in zip(task['alpha_keys'], alphas, strict=True):
        if not math.isclose(alpha, task['alpha'], rel_tol=1e-6):
            raise ConfigError(
                f'search.alpha_key: the trial asks for alpha {task["alpha"]:g}, but {key} of the '
                f'built model is {alpha:g}; something else sets it'
            )


def metric_value(metrics: Mapping[str, float], name: str) -> float:
    """Pick the metric that is tuned for; nan if there is none at all.

    A detector that finds no box in any image has no metrics: CocoMetric then reports nothing.

    Raises:
        ConfigError: The evaluator does not report it; the message lists what it reports.
    """
    if not metrics:
        print_log(f'the validation reported nothing, so {name} is nan', level=logging.WARNING)
        return math.nan
    if name not in metrics:
        raise ConfigError(
            f'search.metric: the evaluator does not report {name!r}; it reports {", ".join(map(repr, sorted(metrics)))}'
        )
    return float(metrics[name])


def read_curve(path: Path, *, up_to: int) -> dict[int, float]:
    """The validations of earlier attempts, up to where training goes on."""
    curve: dict[int, float] = {}
    if not path.exists():
        return curve
    for line in path.read_text(encoding='utf-8').splitlines():
        try:
            step, value = json.loads(line)
        except ValueError:
            continue  # the line that was being written when an attempt was killed
        if step <= up_to:
            curve[step] = value
    return curve


def newest_loadable(work_dir: Path) -> Path | None:
    """The newest checkpoint that a training can go on from.

    mmengine writes checkpoints and ``last_checkpoint`` in place, so a kill can leave both torn.
    """
    found = [p for p in work_dir.glob('*.pth') if not p.name.startswith('best_')]
    for path in sorted(found, key=lambda p: p.stat().st_mtime_ns, reverse=True):
        try:
            checkpoint = CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
        except _TORN as err:
            print_log(f'{path} cannot be loaded ({err}), trying an older one', level=logging.WARNING)
            continue
        if set(checkpoint) >= _RESUMABLE:
            return path
    return None


def train(trial_dir: Path, task: Mapping[str, Any], hook: TrialHook) -> Runner:
    """Build the folder's config, go on from an earlier attempt if there was one, and train."""
    cfg = load_config(trial_dir / CONFIG_FILE)
    checkpoint = newest_loadable(Path(cfg.work_dir))
    if checkpoint is not None:
        cfg.load_from, cfg.resume = str(checkpoint), True
    runner = build_runner(cfg)
    build_training(runner)
    runner.register_hook(hook)
    runner.train()
    if training_step(runner) not in hook.curve:  # the earlier attempt ended between the two
        runner.val_loop.run()
    return runner


def summarise(curve: Mapping[int, float], *, select: str, rule: str) -> float:
    """The value of a training: its last validation, or its best finite one."""
    if select == 'last':
        return curve[max(curve)]
    finite = [v for v in curve.values() if math.isfinite(v)]
    pick = max if rule == 'greater' else min
    return pick(finite) if finite else math.nan


def run_trial(trial_dir: Path) -> TrialResult:
    """Train and say how it ended: done, diverged or broken; anything else raises."""
    task = json.loads((trial_dir / SPEC_FILE).read_text(encoding='utf-8'))
    hook = TrialHook(task, trial_dir / CURVE_FILE)
    begin, length, value = time.monotonic(), 0, None
    outcome, message = 'done', ''
    try:
        runner = train(trial_dir, task, hook)
        length = training_step(runner)
        value = summarise(hook.curve, select=task['select'], rule=task['rule'])
        if not math.isfinite(value):
            outcome, message, value = 'diverged', f'{task["metric"]} is {value} (see its log)', None
    except DivergedError as err:
        outcome, message = 'diverged', str(err)
    except ConfigError as err:
        outcome, message = 'broken', str(err)
    except _CONFIG_ERRORS as err:
        if hook.iterations:
            raise
        traceback.print_exc()
        outcome, message = 'broken', f'{type(err).__name__}: {err}'
    return TrialResult(
        key=task['key'],
        attempt=task['attempt'],
        fingerprint=task['fingerprint'],
        outcome=outcome,
        value=value,
        message=message,
        built_lrs=hook.built_lrs,
        built_alphas=hook.built_alphas,
        curve=[[s, v if math.isfinite(v) else None] for s, v in sorted(hook.curve.items())],
        length=length,
        seconds=round(time.monotonic() - begin, 3),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trial in the folder given as the one argument."""
    (folder,) = sys.argv[1:] if argv is None else argv
    print_log(f'trial in {folder}, {torch.get_num_threads()} threads')
    result = run_trial(Path(folder))
    if is_main_process():
        result.write(Path(folder))
    print_log(f'{result.outcome} {result.message or result.value}')
    return {'done': 0, 'diverged': 0}.get(result.outcome, 2)


if __name__ == '__main__':
    sys.exit(main())
