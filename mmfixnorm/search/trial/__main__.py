"""One training of a search: ``python -m mmfixnorm.search.trial TRIAL_DIR``.

Trains the folder's ``config.py`` as ``spec.json`` says and leaves ``result.json`` there. An error
of the training itself, or of a file, is not caught: the process fails, its log has the traceback, and
the driver makes another attempt, which continues from the newest checkpoint that can be loaded.
"""

from __future__ import annotations

import ctypes
import json
import logging
import math
import os
import pickle
import signal
import sys
import time
import traceback
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.dist import all_reduce, broadcast_object_list, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader, Runner

from mmfixnorm.data_checks.paths import data_paths
from mmfixnorm.errors import ConfigError, RaisedError
from mmfixnorm.failures import explain_failure, explain_missing, failed_download
from mmfixnorm.fold import FoldCheckHook
from mmfixnorm.launch import build_runner, build_training, load_config
from mmfixnorm.launch import train as train_model
from mmfixnorm.lr_range import measure_lr_range
from mmfixnorm.search.trial.folder import (
    CONFIG_FILE,
    CURVE_FILE,
    LATE_S,
    SPEC_FILE,
    TrainingProgress,
    TrialResult,
    add_to_curve,
    read_curve,
    read_progress,
    saved_file,
    write_progress,
)
from mmfixnorm.search.trial.fork_hook import ForkHook, NotRepeatedError
from mmfixnorm.search.trial.forks import (
    ForkPoint,
    checkpoint_to_start_from,
    kept_points,
    start_of,
    why_from_the_beginning,
)
from mmfixnorm.search.trial.notice import Notice, SavedForLaterError, delete_notices, save_for_later, skip_what_is_done
from mmfixnorm.search.trial.readback import (
    built_lrs,
    built_owner,
    built_value,
    built_weight_decays,
    check_built,
    check_space,
)
from mmfixnorm.search.trial.scales import LargestScale
from mmfixnorm.search.trial.warning_log import WarningLog

_RESUMABLE = {'meta', 'state_dict', 'message_hub', 'optimizer'}
# What torch.load raises for a file that was cut off, by the place of the cut.
_TORN = (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile, KeyError, OSError)
_REPORT_S = 1.0
_T = TypeVar('_T')
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
# What a wrong config raises when the first batch meets what was built.
_CONFIG_ERRORS = (ValueError, TypeError, KeyError, AttributeError, ImportError, AssertionError)


class DivergedError(ArithmeticError):
    """The loss is no longer finite."""


class TrialHook(Hook):
    """Checks what was built, stops a diverged training and collects the validation curve.

    Runs after all other hooks of its moment. Changes nothing.

    Args:
        task (dict): The content of ``spec.json``.
        curve_file (Path): Gets a line for each validation; lines of earlier attempts are kept.
        interval (int): Check the loss every ``interval`` iterations; each check synchronises with the device.
        notice (Notice, optional): Whether this process was told to end, which all processes ask with the loss.
        seconds (float): Time of earlier runs of this attempt.
    """

    priority = 'LOWEST'

    def __init__(
        self,
        task: Mapping[str, Any],
        curve_file: Path,
        interval: int = 10,
        notice: Notice | None = None,
        seconds: float = 0.0,
    ) -> None:
        self._begin = time.monotonic() - seconds
        self._task = task
        self._notice = notice or Notice('')
        self._is_told = False
        self._curve_file = curve_file
        self._interval = interval
        self._loss: Any = 0.0
        self._loss_iter = 0
        self._reported = -math.inf
        self.curve: dict[int, float] = {}
        self.iterations = 0
        self.built_lrs: list[float] = []
        self.built_alphas: list[float] = []
        self.built_weight_decays: list[float] = []
        self.scales = LargestScale()
        self._scale_before: float | None = None

    @property
    def seconds(self) -> float:
        """Time of this attempt so far, in seconds."""
        return round(time.monotonic() - self._begin, 3)

    def before_train(self, runner: Runner) -> None:
        """Read the tuned numbers back from what was built; by now a checkpoint is loaded as well."""
        self.built_lrs = built_lrs(runner.optim_wrapper)
        self.built_alphas = [built_value(runner.model, key) for key in self._task['alpha_keys']]
        self.built_weight_decays = built_weight_decays(runner.optim_wrapper)
        check_built(self._task, self.built_lrs, self.built_alphas, self.built_weight_decays)
        if unread := check_space(self._task, runner):
            text = 'search.space: cannot be read back from what was built, only from its config: ' + ', '.join(unread)
            print_log(text, logger='current')
        # Processes on other machines may see a file late, and all of them must take the same way from here.
        skip_what_is_done(runner)
        self.curve = from_first_process(lambda: read_curve(self._curve_file, up_to=training_step(runner)))
        before = 0.0  # of a training from its start; a checkpoint to start from says nothing about it
        if training_step(runner):
            before = math.nan if self._scale_before is None else self._scale_before
        self.scales.begin(runner.model, before, [built_owner(runner.model, key) for key in self._task['alpha_keys']])
        if training_step(runner) not in self.curve and _has_validation_due(runner):
            runner.val_loop.run()  # the earlier attempt ended between its checkpoint and this

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        """Note the loss; check it every ``interval`` iterations."""
        self.iterations += 1
        self.scales.update()
        self._loss, self._loss_iter = (outputs or {}).get('loss', 0.0), runner.iter + 1
        if self.every_n_train_iters(runner, self._interval):
            self._report_progress(runner, self._check_loss())
        if get_world_size() == 1:
            self._is_told = self._notice.is_given
        # Not while gradients accumulate, which no checkpoint has, and not in the last iteration.
        counts = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        if self._is_told and (runner.iter + 1) % counts == 0 and runner.iter + 1 < runner.max_iters:
            self._reported = -math.inf  # the time up to here must not be lost
            self._report_progress(runner, self._check_loss())
            save_for_later(runner, saved_file(self._curve_file.parent, self._task['attempt']))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep the largest scale so far, for a later attempt."""
        checkpoint['largest_scale'] = self.scales.largest()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Take over the largest scale of an earlier attempt."""
        self._scale_before = checkpoint.get('largest_scale')

    def after_train_epoch(self, runner: Runner) -> None:
        """Check the last loss before the model is validated."""
        self._check_loss()

    def before_val_epoch(self, runner: Runner) -> None:
        """Check the last loss in a training by iterations too, whose epoch ends with the training."""
        self._check_loss()

    def after_val_epoch(self, runner: Runner, metrics: Mapping[str, float] | None = None) -> None:
        """Note the metric."""
        step = training_step(runner)
        self.curve[step] = metric_value(metrics or {}, self._task['metric'])
        if is_main_process():
            add_to_curve(self._curve_file, step, self.curve[step])

    def _report_progress(self, runner: Runner, loss: float) -> None:
        now = time.monotonic()
        if is_main_process() and now - self._reported >= _REPORT_S:
            progress = TrainingProgress(runner.iter + 1, runner.max_iters, loss, self.scales.largest(), self.seconds)
            write_progress(self._curve_file.parent, progress, attempt=self._task['attempt'])
            self._reported = now

    def _check_loss(self) -> float:
        everywhere = torch.as_tensor(self._loss).detach().float().reshape(1)
        everywhere = torch.cat([everywhere, everywhere.new_tensor([float(self._notice.is_given)])])
        all_reduce(everywhere, 'mean')  # all processes stop, or none: one alone would leave the others waiting
        loss, told = everywhere.tolist()
        self._is_told = told > 0
        if not math.isfinite(loss):
            raise DivergedError(f'the loss is {loss} at iteration {self._loss_iter}')
        return loss


def training_step(runner: Runner) -> int:
    """Return the epochs done in an epoch-based training, the iterations done in another."""
    by_epoch = runner.cfg.train_cfg.get('max_epochs') is not None
    return runner.epoch if by_epoch else runner.iter


def _has_validation_due(runner: Runner) -> bool:
    """Return whether a training that continues has to be validated before its next step; its end is not asked for."""
    loop, step = runner.train_loop, training_step(runner)
    loop._decide_current_val_interval()
    is_inside = 0 < runner.iter < runner.max_iters
    return bool(is_inside and step >= loop.val_begin and step % loop.val_interval == 0)


def metric_value(metrics: Mapping[str, float], name: str) -> float:
    """Pick the metric that is tuned for; nan if the validation reported nothing.

    A detector that finds no box in any image has no metrics: CocoMetric then reports nothing.

    Raises:
        ConfigError: The evaluator does not report this metric; the message lists what it reports.
    """
    if not metrics:
        print_log(f'the validation reported nothing, so {name} is nan', level=logging.WARNING)
        return math.nan
    check_reported(name, metrics)
    return float(metrics[name])


def check_reported(name: str, reported: Iterable[str]) -> None:
    """Check that the metric that is tuned for is among the reported ones.

    Raises:
        ConfigError: The evaluator does not report it; the message lists what it reports.
    """
    if name not in reported:
        raise ConfigError(
            f'search.metric: the evaluator does not report {name!r}; it reports '
            f'{", ".join(map(repr, sorted(reported)))}'
        )


def newest_loadable(work_dir: Path) -> Path | None:
    """Find the newest checkpoint from which a training can continue.

    mmengine writes checkpoints and ``last_checkpoint`` in place, so a kill can leave both torn.
    """
    checkpoints = [p for p in work_dir.glob('*.pth') if not p.name.startswith('best_')]
    for path in sorted(checkpoints, key=lambda p: p.stat().st_mtime_ns, reverse=True):
        try:
            checkpoint = CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
        except _TORN as err:
            print_log(f'{path} cannot be loaded ({err}), trying an older one', level=logging.WARNING)
            continue
        if set(checkpoint) >= _RESUMABLE:
            return path
    return None


def from_first_process(make: Callable[[], _T]) -> _T:
    """Make something in the first of the processes that train together, and return it in all of them."""
    made = [make() if is_main_process() else None]
    broadcast_object_list(made)
    return cast(_T, made[0])


def wait_for_file(path: Path, late_s: float = LATE_S) -> None:
    """Wait until this machine sees a file that another one sees.

    Raises:
        FileNotFoundError: It does not, within ``late_s`` seconds.
    """
    give_up = time.monotonic() + late_s
    while not path.exists():
        if time.monotonic() > give_up:
            raise FileNotFoundError(
                f'{os.uname().nodename}: does not see {path} after {late_s:g} s, which the first process of the trial '
                'sees; all nodes must see the work dir under the same path'
            )
        time.sleep(0.2)


def train(
    trial_dir: Path, task: Mapping[str, Any], hook: TrialHook, fork_hook: ForkHook, warnings: WarningLog
) -> Runner:
    """Build the folder's config, continue from an earlier attempt or another trial if there is one, and train."""
    cfg = _config(trial_dir)
    run_dir = Path(cfg.work_dir)
    runner = build_runner(cfg)  # joins the processes
    checkpoint = from_first_process(
        lambda: (
            newest_loadable(run_dir)
            or checkpoint_to_start_from(trial_dir, run_dir, newest_loadable, fingerprint=task['fingerprint'])
        )
    )
    if checkpoint is not None:
        wait_for_file(checkpoint)
        runner._load_from, runner._resume = str(checkpoint), True
    with warnings.listening(runner.logger, logging.getLogger('mmfixnorm')):
        reported = build_training(runner)
        if reported is not None:
            check_reported(task['metric'], reported)
        runner.register_hook(FoldCheckHook(refuse=False))
        runner.register_hook(hook)
        runner.register_hook(fork_hook)
        train_model(runner)
        delete_notices(run_dir)
        if training_step(runner) not in hook.curve:  # the earlier attempt ended between the two
            runner.val_loop.run()
    return runner


def _config(trial_dir: Path) -> Config:
    cfg = load_config(trial_dir / CONFIG_FILE)
    cfg.work_dir = str(trial_dir.absolute() / 'run')  # the search may have been moved since the config was written
    if dist.is_torchelastic_launched():
        cfg.launcher = 'pytorch'
    return cfg


def summarise(curve: Mapping[int, float], *, select: str, rule: str) -> float:
    """Reduce a training to its value: its last validation, or its best finite one."""
    if select == 'last':
        return curve[max(curve)]
    finite = [v for v in curve.values() if math.isfinite(v)]
    pick = max if rule == 'greater' else min
    return pick(finite) if finite else math.nan


def valued(hook: TrialHook, task: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a training ended that came to its end: done, or diverged without a finite value."""
    value = summarise(hook.curve, select=task['select'], rule=task['rule'])
    if math.isfinite(value):
        return {'outcome': 'done', 'value': value}
    if task['rule'] == 'greater' and not any(value < 0 for value in hook.curve.values()):
        # The loss is finite, or the training would have ended: the model finds nothing yet (no boxes, say).
        message = f'{task["metric"]} is {value}, which counts as 0: the loss is finite'
        print_log(message, level=logging.WARNING)
        return {'outcome': 'done', 'value': 0.0, 'message': message}
    return {'outcome': 'diverged', 'message': f'{task["metric"]} is {value} (see its log)'}


def write_hparams(runner: Runner, trial_dir: Path, task: Mapping[str, Any], value: float | None) -> None:
    """Write the tuned numbers and the metric for the table of TensorBoard, if the config has its backend."""
    backend = runner.visualizer.get_backend('TensorboardVisBackend')
    if backend is None or not is_main_process():
        return
    numbers = {'lr': task['lr'], 'alpha': task['alpha'], 'weight_decay': task['weight_decay'], **task.get('others', {})}
    tuned = {name: number for name, number in numbers.items() if number is not None}
    names = {'search': trial_dir.absolute().parents[1].name, 'trial': task['key'], 'stage': task.get('stage', '')}
    metrics = {task['metric']: math.nan if value is None else value}
    backend.experiment.add_hparams({**tuned, **names}, metrics, run_name='.')  # beside the curves of the training


def ramp_lr(trial_dir: Path, task: Mapping[str, Any]) -> dict[str, Any]:
    """Measure a range of the learning rate, and return how that ended."""
    ramp = measure_lr_range(_config(trial_dir), task['lr'])
    message = str(ramp)
    print_log(message)
    return {'outcome': 'measured', 'message': message, 'ramp': ramp.to_dict()}


def is_of_files(err: Exception, trial_dir: Path) -> bool:
    """Return whether an error is of a file or a folder, which another attempt, or another machine, may not meet.

    A full disk, a mount that is gone, a missing permission, data that this machine does not see. Not a download, whose
    message says which file to put where.
    """
    if isinstance(err.__cause__ or err.__context__, OSError):
        return failed_download(err) is None
    try:
        return not all(os.path.exists(path) for path in data_paths(_config(trial_dir)).values())
    except ConfigError:
        return False


def run_trial(trial_dir: Path) -> TrialResult:
    """Train and return how it ended: done, measured, diverged, broken or cancelled to begin anew; others raise."""
    task = json.loads((trial_dir / SPEC_FILE).read_text(encoding='utf-8'))
    earlier = read_progress(trial_dir, attempt=task['attempt'])  # of a run that was killed, or returned to the queue
    seconds = earlier.seconds if earlier else 0.0
    hook = TrialHook(task, trial_dir / CURVE_FILE, notice=Notice.of_environment(), seconds=seconds)
    fork_hook = ForkHook(trial_dir, task, hook.scales)
    warnings = WarningLog()
    try:
        if task.get('is_ramp'):
            ended = ramp_lr(trial_dir, task)
        else:
            runner = train(trial_dir, task, hook, fork_hook, warnings)
            ended = valued(hook, task) | {'length': training_step(runner)}
            write_hparams(runner, trial_dir, task, ended.get('value'))
    except DivergedError as err:
        ended = {'outcome': 'diverged', 'message': str(err)}
    except NotRepeatedError as err:
        ended, fork_hook.why_off = {'outcome': 'cancelled'}, str(err)
    except ConfigError as err:
        if is_of_files(err, trial_dir):
            raise
        if isinstance(err, RaisedError):
            traceback.print_exc()  # into the trial's log
        ended = {'outcome': 'broken', 'message': str(err)}
    except (*_CONFIG_ERRORS, RuntimeError) as err:
        is_of_config = isinstance(err, _CONFIG_ERRORS) or explain_missing(err)
        if hook.iterations or not is_of_config or is_of_files(err, trial_dir):
            raise
        traceback.print_exc()
        ended = {'outcome': 'broken', 'message': explain_failure(err)}
    start = start_of(trial_dir)
    messages = [ended.get('message'), _about_start(start) or why_from_the_beginning(trial_dir)]
    ended['message'] = '; '.join(filter(None, messages))
    return TrialResult(
        key=task['key'],
        attempt=task['attempt'],
        fingerprint=task['fingerprint'],
        built_lrs=hook.built_lrs,
        built_alphas=hook.built_alphas,
        built_weight_decays=hook.built_weight_decays,
        curve=[[s, v if math.isfinite(v) else None] for s, v in sorted(hook.curve.items())],
        seconds=hook.seconds,
        largest_scale=hook.scales.largest(),
        forked_from=start.key if start else '',
        forked_at=start.iteration if start else 0,
        forked_part=start.part if start else 0.0,
        fork_points=[[point.iteration, point.largest_scale] for point in kept_points(trial_dir)],
        why_no_forks=fork_hook.why_off,
        warnings=warnings.texts,
        **ended,
    )


def _about_start(start: ForkPoint | None) -> str:
    return f'continues {start.key} from iteration {start.iteration}' if start else ''


def die_with_parent() -> None:
    """Have the kernel end this process when its parent ends; does nothing but on Linux.

    ``torch.distributed.run`` starts its processes in sessions of their own: a signal to its process
    group does not reach them, and if it is killed by signal 9 they train on.
    """
    if not sys.platform.startswith('linux'):
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call
        os.kill(os.getpid(), signal.SIGKILL)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trial in the folder given as the one argument."""
    (folder,) = sys.argv[1:] if argv is None else argv
    if dist.is_torchelastic_launched():
        die_with_parent()
    print_log(f'trial in {folder}, {torch.get_num_threads()} threads')
    try:
        result = run_trial(Path(folder))
    except SavedForLaterError as err:
        print_log(str(err))
        return os.EX_TEMPFAIL
    # torch.distributed.run ends all processes at the first that fails, whichever that is.
    if is_main_process() or result.outcome == 'broken':
        result.write(Path(folder))
    print_log(f'{result.outcome} {result.message or result.value}')
    return 0 if result.finished else 2


if __name__ == '__main__':
    sys.exit(main())
