"""Every file in a trial's folder: the task that a driver writes, and what the trial leaves.

=====================  ===========================================================================================
``spec.json``          the task: point, attempt, fingerprint of the search, metric; written by the driver
``config.py``          the config that the trial trains; written by the driver
``attempt-N.claim``    which process runs attempt N, see :mod:`mmfixnorm.search.executors.claim`
``log.txt``            what the trial prints, all attempts
``attempt-N.saved``    attempt N was told to end and has written a checkpoint: it continues, as the same attempt
``curve.jsonl``        its validations, all attempts, a line each
``progress.json``      how far the training is, its loss and its time; written about once a second
``run/``               the work dir of its Runner, with the checkpoints and mmengine's log
``result.json``        how the last attempt ended; written by the trial
``forks/``, ``fork/``  checkpoints for trainings at other alphas, see :mod:`.forks`
=====================  ===========================================================================================
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils.files import CannotWriteError, write_json, write_text

if TYPE_CHECKING:
    from mmengine.config import Config  # takes a third of a second, and only a driver that submits needs it

RESULT_FILE = 'result.json'
SPEC_FILE = 'spec.json'
CONFIG_FILE = 'config.py'
LOG_FILE = 'log.txt'
CURVE_FILE = 'curve.jsonl'
PROGRESS_FILE = 'progress.json'
LATE_S = 75  #: NFS shows new files after 60 s, by default
#: Names the signals by which a trial is told that its machine is about to be taken away, see :mod:`.notice`.
NOTICE_VARIABLE = 'MMFIXNORM_NOTICE'

#: done: has a value. measured: a ramp of the learning rate has its range, and no value. diverged: trained without a
#: finite value; a result, ranked below all values. failed: its process ended otherwise, or a file cannot be
#: read or written; worth another attempt. broken: the config is wrong, so every trial would end like this. cancelled:
#: ended by the driver.
OUTCOMES = ('done', 'measured', 'diverged', 'failed', 'broken', 'cancelled')

# A line of mmengine's log; the messages that are followed by a list of many lines, and what such lines look like.
_MESSAGE = re.compile(r'^[0-9/]+ [0-9:]+ - \S+ - [A-Z]+ - (?P<text>.*)$', re.MULTILINE)
_LISTS = {
    '': re.compile(r'-{20,}|\w+ environment:|\s.*|'),
    'Config:': re.compile(r'\w+ = .*|\s.*|[])}].*|'),
    'Hooks will be executed in the following order:': re.compile(r'\(\w+ *\) .*|\s*-+\s*|(before|after)_\w+:|'),
}
_LONGEST_READ = 1 << 18
_CONTROL = re.compile(r'\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]')  # colours; bars that redraw their line


class CannotReadError(CannotWriteError):
    """A file of a trial cannot be read now; as where one cannot be written, the driver leaves alone what runs."""


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Report a file that is there and cannot be read, such as another user's, in one line."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as err:
        raise CannotReadError(
            f'{path}: cannot be read ({err.strerror}); make it readable and run the same command again'
        ) from err


def _read(path: Path) -> bytes | None:
    """Read a file; None if there is none."""
    try:
        with _reading(path):
            return path.read_bytes()
    except FileNotFoundError:
        return None


def saved_file(trial_dir: Path, attempt: int) -> Path:
    """Return the file by which an attempt says that it is to be continued, see :mod:`.notice`."""
    return trial_dir / f'attempt-{attempt}.saved'


def write_task(trial_dir: Path, config: Config, task: Mapping[str, Any]) -> None:
    """Write what the next attempt at a trial reads, into the trial's folder.

    Args:
        trial_dir (Path): The trial's folder; it is made if it does not exist.
        config (Config): What to train.
        task (Mapping): Content of ``spec.json``.
    """
    from mmengine.config import Config

    trial_dir.mkdir(parents=True, exist_ok=True)
    # Not formatted by yapf: that takes longer than everything else that the driver does for a trial.
    write_text(trial_dir / CONFIG_FILE, Config(config.to_dict(), format_python_code=False).pretty_text)
    write_json(trial_dir / SPEC_FILE, dict(task))


def read_task(trial_dir: Path) -> dict[str, Any] | None:
    """Read ``spec.json``; None if there is none.

    Raises:
        ConfigError: The file cannot be read, or is not a valid task; it is left as it is.
    """
    path = trial_dir / SPEC_FILE
    text = _read(path)
    if text is None:
        return None
    try:
        task = json.loads(text)
        if missing := {'key', 'lr', 'alpha', 'fingerprint'} - set(task):
            raise ValueError(f'without {sorted(missing)}')
    except (ValueError, TypeError) as err:
        raise ConfigError(
            f'{path}: not a valid spec ({err}); nothing was changed; delete that file, and the trial continues '
            'from its last checkpoint'
        ) from err
    return task


@dataclass(frozen=True)
class TrialResult:
    """The end of one attempt at one trial.

    Attributes:
        key: The trial.
        attempt: Which attempt, from 1.
        fingerprint: The search that the trial belongs to.
        outcome: One of :data:`OUTCOMES`.
        value: The metric; None unless ``outcome`` is ``'done'``.
        message: Why it ended like this, for every outcome but ``'done'``.
        built_lrs: Learning rates that the built optimizer's groups start from.
        built_alphas: Alphas of the built model's layers, in the order of ``search.alpha_key``.
        built_weight_decays: Weight decays of the built optimizer's groups that are trained.
        curve: ``[step, value]`` of each validation; a value that is not finite is None.
        length: Epochs or iterations trained.
        seconds: Wall-clock time of the attempt, of all its runs where it was returned to a queue.
        largest_scale: Over the whole training and all layers with a bound, the largest ``|g|`` in units of alpha: as
            the alpha that it would just meet. None if it is not known, or no layer has a bound.
        same_as: The trial whose training this is, where it was not done again.
        ramp: What a ramp of the learning rate has measured, see :class:`mmfixnorm.lr_range.LRRamp`.
        forked_from: The trial whose training this one continues from ``forked_at``.
        forked_at: The iteration up to which the training is that one's.
        forked_part: The part of the training up to there.
        fork_points: ``[iteration, largest scale]`` of the checkpoints that it kept for others, see :mod:`.forks`.
        why_no_forks: Why no training can continue this one, or none of its search another; empty if there is no reason.
        warnings: What this package warned of in the training, see :mod:`.warning_log`.
    """

    key: str
    attempt: int
    fingerprint: str
    outcome: str
    value: float | None = None
    message: str = ''
    built_lrs: list[float] = field(default_factory=list)
    built_alphas: list[float] = field(default_factory=list)
    built_weight_decays: list[float] = field(default_factory=list)
    curve: list[list[Any]] = field(default_factory=list)
    length: int = 0
    seconds: float = 0.0
    largest_scale: float | None = None
    same_as: str = ''
    ramp: dict[str, Any] = field(default_factory=dict)
    forked_from: str = ''
    forked_at: int = 0
    forked_part: float = 0.0
    fork_points: list[list[Any]] = field(default_factory=list)
    why_no_forks: str = ''
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f'outcome must be one of {OUTCOMES}, got {self.outcome!r}')
        finite = isinstance(self.value, (int, float)) and math.isfinite(self.value)
        if (self.outcome == 'done') != finite:
            raise ValueError(f'outcome {self.outcome!r} does not go with value {self.value!r}')
        if not (isinstance(self.key, str) and isinstance(self.fingerprint, str)):
            raise ValueError(f'key and fingerprint must be strings, got {self.key!r}')
        if not isinstance(self.attempt, int):
            raise ValueError(f'attempt must be an integer, got {self.attempt!r}')

    @property
    def finished(self) -> bool:
        """Whether the training needs no other attempt."""
        return self.outcome in ('done', 'measured', 'diverged')

    def write(self, trial_dir: Path) -> None:
        """Write ``result.json`` atomically."""
        write_json(trial_dir / RESULT_FILE, asdict(self))


def read_result(trial_dir: Path, *, key: str, attempt: int, fingerprint: str) -> TrialResult | None:
    """Read the result of this attempt; None if there is none, or one of an earlier attempt.

    Raises:
        ConfigError: The file cannot be read, is corrupt or belongs to something else; it is left as it is.
    """
    path = trial_dir / RESULT_FILE
    advice = (
        'nothing was changed; move that file away and run the same command again, '
        'and the trial continues from its last checkpoint'
    )
    text = _read(path)
    if text is None:
        return None
    try:
        result = TrialResult(**json.loads(text))
    except (ValueError, TypeError) as err:
        raise ConfigError(f'{path}: not a valid result ({err}); {advice}') from err
    if (result.key, result.fingerprint) != (key, fingerprint):
        raise ConfigError(
            f'{path}: is the result of trial {result.key!r} of search {result.fingerprint!r}, '
            f'expected {key!r} of {fingerprint!r}; nothing was changed; move the folder of the trial away, as its '
            'checkpoints are of that one too, or use another --work-dir'
        )
    return result if result.attempt == attempt else None


def trials_with_results(trials_dir: Path, *, fingerprint: str) -> list[str]:
    """List the trials that have left a result of a finished training of this search, or one that cannot be read."""
    keys = []
    for path in sorted(trials_dir.glob(f'*/{RESULT_FILE}')):
        try:
            result = TrialResult(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            keys.append(path.parent.name)
            continue
        if result.finished and result.fingerprint == fingerprint:
            keys.append(path.parent.name)
    return keys


def read_curve(path: Path, *, up_to: float = math.inf) -> dict[int, float]:
    """Read the validations of all attempts so far, up to where training continues; empty without the file.

    Raises:
        ConfigError: The file cannot be read.
    """
    curve: dict[int, float] = {}
    for line in (_read(path) or b'').splitlines():
        try:
            step, value = json.loads(line)
        except ValueError:
            continue  # the line that was being written when an attempt was killed
        if step <= up_to:
            curve[step] = value
    return curve


def add_to_curve(path: Path, step: int, value: float) -> None:
    """Add a validation, on a line of its own: an earlier attempt may have left one that was cut off."""
    with open(path, 'a+b') as f:
        f.seek(max(0, f.seek(0, os.SEEK_END) - 1))
        is_cut_off = f.read() not in (b'', b'\n')
        f.write(b'\n' * is_cut_off + json.dumps([step, value]).encode() + b'\n')


def read_angles(trial_dir: Path) -> dict[int, float]:
    """Read the angle per step, in radians, by iteration, that WeightNormLoggerHook has logged in a trial.

    Of an iteration that a later start has done again, the later angle counts. Empty without a log, or without angles.

    Raises:
        ConfigError: The log cannot be read.
    """
    angles: dict[int, float] = {}
    for path in sorted(trial_dir.glob('run/*/vis_data/scalars.json')):  # folders are named after their starting time
        began = math.inf
        for text in (_read(path) or b'').splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue  # the line that was being written when an attempt was killed
            if not isinstance(line, dict) or 'iter' not in line:
                continue
            if began == math.inf:
                began = line['iter']
                angles = {iteration: angle for iteration, angle in angles.items() if iteration < began}
            angle = line.get('angle', line.get('train/angle'))  # with log_with_hierarchy
            if isinstance(angle, (int, float)) and math.isfinite(angle):
                angles[line['iter']] = float(angle)
    return angles


class TrainingProgress(NamedTuple):
    """How far a training is: iterations done, of how many, the loss that was checked last, the largest scale so far.

    And the wall-clock time of its attempt, that of earlier runs of the attempt included, in seconds.
    """

    iteration: int
    max_iters: int
    loss: float | None
    largest_scale: float | None = None
    seconds: float = 0.0

    @property
    def fraction(self) -> float:
        """The part of the training that is done, in [0, 1]."""
        return min(1.0, self.iteration / self.max_iters) if self.max_iters else 0.0


def write_progress(trial_dir: Path, progress: TrainingProgress, *, attempt: int) -> None:
    """Write how far an attempt is; a reader finds all of it or the state before."""
    path = trial_dir / PROGRESS_FILE
    draft = path.with_name(f'.{path.name}.{os.getpid()}')
    draft.write_text(json.dumps({**progress._asdict(), 'attempt': attempt}), encoding='utf-8')
    os.replace(draft, path)  # without fsync: it is written again in a second


def read_progress(trial_dir: Path, *, attempt: int) -> TrainingProgress | None:
    """Read how far this attempt is; None before it has said so.

    Raises:
        ConfigError: The file cannot be read.
    """
    text = _read(trial_dir / PROGRESS_FILE)
    try:
        data = json.loads(text or b'')
    except ValueError:
        return None
    if data.pop('attempt') != attempt:
        return None
    return TrainingProgress(**data)


def read_log_end(path: Path, size: int) -> str:
    """Read about the last ``size`` bytes of a trial's log, without what :func:`without_lists` leaves out.

    Empty if there is no such file.

    Raises:
        ConfigError: The file cannot be read.
    """
    part = max(1, 2 * size)  # some of it is control characters
    while True:
        try:
            with _reading(path), open(path, 'rb') as f:
                length = f.seek(0, os.SEEK_END)
                f.seek(max(0, length - part))
                log = f.read(part).decode('utf-8', errors='replace')
        except FileNotFoundError:
            return ''
        shown = without_lists(without_control(log.rstrip()), is_whole=part >= length)
        if part >= min(length, _LONGEST_READ) or 2 * len(shown) >= size:
            return shown
        part *= 4


def without_lists(log: str, *, is_whole: bool = True) -> str:
    """Leave out what mmengine lists before a training begins: the environment, the config, the hooks.

    Args:
        log (str): What a trial has printed.
        is_whole (bool): False if it begins anywhere; then the lines before the first message are left out too, if
            there is a message.

    Example:
        >>> time = '01/02 03:04:05 - mmengine - INFO -'
        >>> without_lists(f'{time} Config:\\nlr = 1\\n{time} Epoch(train) [1][16/16]')
        '01/02 03:04:05 - mmengine - INFO - Epoch(train) [1][16/16]'
    """
    first = None if is_whole else _MESSAGE.search(log)
    kept: list[str] = []
    of_list: re.Pattern[str] | None = None
    for line in log[first.start() if first else 0 :].split('\n'):
        if message := _MESSAGE.match(line):
            of_list = _LISTS.get(message['text'].strip())
        elif of_list and not of_list.fullmatch(line):
            of_list = None
        if of_list is None:
            kept.append(line)
    return '\n'.join(kept)


def without_control(text: str) -> str:
    """Remove colours and other control characters, but not tabs and line ends."""
    return _CONTROL.sub('', text)
