"""The scalars in the work dir of a training.

mmengine appends a JSON line to ``<work dir>/<timestamp>/vis_data/scalars.json`` for each line of its log. A training
line has ``iter`` (and ``epoch``, if the log processor counts epochs) and ``step``, the iterations done. A validation
line has ``step`` alone: epochs, or iterations with ``log_metric_by_epoch=False``. WeightNormLoggerHook adds lines with
the norm and angle of each layer, which are not read here. Each start of a training has its own timestamp.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mode as most_common
from typing import Any, Literal, NamedTuple

from mmengine.config import Config

from mmfixnorm.config import training_length
from mmfixnorm.errors import ConfigError

SCALARS = 'vis_data/scalars.json'
#: Hooks that write the scalars that are not in every log.
WRITERS = {
    'weight_norm': 'WeightNormLoggerHook',
    'angle': 'WeightNormLoggerHook',
    'g': 'CrossBoundaryRiskHook',
    'mcbr': 'CrossBoundaryRiskHook',
}

Mode = Literal['train', 'val']
_OF_LAYERS = ('weight_norm/', 'angle/')


class Series(NamedTuple):
    """Values at positions in epochs or iterations, in ascending order."""

    x: list[float]
    y: list[float]


@dataclass(frozen=True)
class TrainingRun:
    """One training: its config and its log.

    Attributes:
        work_dir: Its folder.
        cfg: The resolved config of its last start.
        train_lines: Scalars of the training lines, each with ``iter``.
        val_lines: Scalars of the validation lines, each with ``step``.
    """

    work_dir: Path
    cfg: Config
    train_lines: list[dict[str, float]]
    val_lines: list[dict[str, float]]

    @property
    def unit(self) -> str:
        """The unit of the config and of positions, ``'epochs'`` or ``'iters'``."""
        return training_length(self.cfg)[1]

    def series(self, mode: Mode, key: str) -> Series:
        """Read one scalar over the training.

        Args:
            mode (str): ``'train'`` or ``'val'``.
            key (str): E.g. ``'accuracy/top1'``, without the mode in front.

        Returns:
            Series: Positions in epochs (fractions of an epoch for training lines) or iterations.

        Raises:
            ConfigError: If it was not logged, or the log does not give its position in the training.
        """
        lines = [line for line in self._lines(mode) if key in line]
        if not lines:
            raise ConfigError(self._absence(mode, key))
        counter, length = self._clock(mode)
        return Series([line[counter] / length for line in lines], [float(line[key]) for line in lines])

    def has(self, mode: Mode, key: str) -> bool:
        """Tell whether a scalar was logged."""
        return any(key in line for line in self._lines(mode))

    def _lines(self, mode: Mode) -> list[dict[str, float]]:
        return self.train_lines if mode == 'train' else self.val_lines

    def _absence(self, mode: Mode, key: str) -> str:
        known = sorted({name for line in self._lines(mode) for name in line})
        hint = f'; {WRITERS[key]} in custom_hooks writes it' if key in WRITERS else ''
        if mode == 'val' and self.unit == 'iters' and not known:
            hint += '; a run by iterations needs default_hooks.logger.log_metric_by_epoch=False'
        return f'{self.work_dir}: no {mode} line has {key!r} (they have: {", ".join(known) or "nothing"}){hint}'

    def _clock(self, mode: Mode) -> tuple[str, int]:
        """Return the key of a line that gives its position, and how many of its counts make one of ``unit``."""
        counter = 'iter' if mode == 'train' else 'step'
        logger = (self.cfg.get('default_hooks') or {}).get('logger') or {}
        in_epochs = mode == 'val' and logger.get('log_metric_by_epoch', True)
        if self.unit == 'iters' or in_epochs:
            return counter, 1
        return counter, iters_per_epoch(self.train_lines, self.work_dir)


def iters_per_epoch(lines: list[dict[str, float]], work_dir: Path) -> int:
    """Infer the iterations of an epoch from the distance between the first lines of two epochs.

    Raises:
        ConfigError: If there are no two consecutive epochs, or the lines contradict each other.
    """
    first: dict[int, int] = {}
    for line in lines:
        first.setdefault(int(line.get('epoch', 0)), int(line['iter']))
    gaps = [first[epoch + 1] - first[epoch] for epoch in first if epoch and epoch + 1 in first]
    if not gaps:
        raise ConfigError(
            f'{work_dir}: the training lines cover {len(first)} epoch(s) and do not show how many iterations an epoch '
            'has; expected two consecutive epochs, written with log_processor.by_epoch=True'
        )
    length = most_common(gaps)
    for line in lines:
        if not (line['epoch'] - 1) * length < line['iter'] <= line['epoch'] * length:
            raise ConfigError(
                f'{work_dir}: iteration {line["iter"]} is logged in epoch {line["epoch"]}, but an epoch has {length} '
                'iterations elsewhere in the log; was it resumed with another batch size or data set?'
            )
    return length


def read_run(work_dir: str | os.PathLike[str]) -> TrainingRun:
    """Read the log of a training, over all its starts.

    The lines of a resumed run replace the lines of an earlier start from that point on. A last line that is incomplete
    because of a kill is skipped, and so are validations outside of a training, which mmengine logs at step 0.

    Raises:
        ConfigError: If there is no log, or it is not a log of mmengine.
    """
    work_dir = Path(work_dir)
    files = sorted(work_dir.glob(f'*/{SCALARS}'))
    if not files:
        raise ConfigError(
            f'{work_dir}: no log of a training here (looked for <timestamp>/{SCALARS}, which mmengine writes with '
            "vis_backends=[dict(type='LocalVisBackend')]); pass the work dir of tools/train.py"
        )
    log = _Log()
    for file in files:
        for line in _json_lines(file):
            log.add(line)
    return TrainingRun(work_dir, _config(files[-1]), log.train, log.val)


class _Log:
    """Lines in the order of the training; one that goes back in time replaces all lines from that point on."""

    def __init__(self) -> None:
        self.train: list[dict[str, float]] = []
        self.val: list[dict[str, float]] = []
        self._val_after: list[float] = []  # the last training iteration logged before each validation

    def add(self, line: Mapping[str, Any]) -> None:
        if 'iter' in line:
            self._add_train(_numbers(line, 'train/'))
        elif line.get('step', 0) > 0 and not all(key == 'step' or key.startswith(_OF_LAYERS) for key in line):
            self._add_val(_numbers(line, 'val/'))

    def _add_train(self, line: dict[str, float]) -> None:
        while self.train and self.train[-1]['iter'] >= line['iter']:
            self.train.pop()
        while self._val_after and self._val_after[-1] >= line['iter']:
            self._val_after.pop()
            self.val.pop()
        self.train.append(line)

    def _add_val(self, line: dict[str, float]) -> None:
        while self.val and self.val[-1]['step'] >= line['step']:
            self.val.pop()
            self._val_after.pop()
        self.val.append(line)
        self._val_after.append(self.train[-1]['iter'] if self.train else 0)


def _numbers(line: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Return the numbers of a line, without the prefix that ``log_with_hierarchy`` adds."""
    return {key.removeprefix(prefix): value for key, value in line.items() if isinstance(value, (int, float))}


def _json_lines(file: Path) -> Iterator[dict[str, Any]]:
    lines = file.read_text(encoding='utf-8', errors='replace').splitlines()
    for number, text in enumerate(lines, start=1):
        try:
            line = json.loads(text)
        except json.JSONDecodeError as err:
            if number == len(lines):  # the process was killed while it wrote
                return
            raise ConfigError(f'{file}:{number}: not a line of JSON ({err.msg}); is the file damaged?') from err
        if not isinstance(line, dict):
            raise ConfigError(f'{file}:{number}: must be a JSON object, got {text[:60]!r}')
        yield line


def _config(scalars: Path) -> Config:
    path = scalars.with_name('config.py')
    if not path.is_file():
        raise ConfigError(f'{path}: missing; mmengine writes it beside {scalars.name}')
    return Config.fromfile(path, import_custom_modules=False)
