"""Checkpoints from which trainings at other alphas continue: those that a trial keeps, and the one that it starts from.

A training whose ``g`` has met neither its own bound nor another one so far is, up to there, also the training at that
other alpha. In a trial's folder are

==============  =====================================================================================================
``forks/N/``    kept by this trial: its checkpoint after N iterations (a link, or a copy where links are not possible)
``fork/``       what this trial starts from: such a folder of another trial, linked by the driver
``no-fork.txt``  why this trial starts from the beginning, although it was given such a folder
==============  =====================================================================================================

Each such folder appears whole, by a rename. For each alpha that may follow, the newest checkpoint before ``g`` met it
is kept, so there are at most as many as alphas.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmfixnorm.search._utils.files import write_text
from mmfixnorm.search.trial.folder import CURVE_FILE, read_curve

_KEPT, _START, _REFUSED = 'forks', 'fork', 'no-fork.txt'
_CHECKPOINT, _POINT, _LOGS = 'checkpoint.pth', 'point.json', 'logs'
_SCALARS = '*/vis_data/scalars.json'  # below the work dir of a Runner
# The largest scale is a quotient of two float32 numbers.
_ROUNDING = 1e-6


def is_below(largest_scale: float, alphas: Iterable[float | None]) -> bool:
    """Return whether a training with this largest scale has met none of these alphas."""
    return all(alpha is not None and alpha > largest_scale * (1 + _ROUNDING) for alpha in alphas)


class ForkPoint(NamedTuple):
    """A moment of a training from which another one can continue.

    Attributes:
        key: The trial that was trained up to here.
        fingerprint: Its search.
        iteration: Iterations done.
        max_iters: Iterations of the whole training.
        step: Epochs done.
        largest_scale: The largest ``|g|`` so far, as the alpha that it would just meet.
        next_loss: The loss in the next iteration: the same to the last bit in a training that continues from here.
    """

    key: str
    fingerprint: str
    iteration: int
    max_iters: int
    step: int
    largest_scale: float
    next_loss: float

    @property
    def part(self) -> float:
        """The part of the training that is done here."""
        return self.iteration / self.max_iters


def keep_point(trial_dir: Path, checkpoint: Path, point: ForkPoint, bounds: Sequence[float]) -> None:
    """Keep a checkpoint for the trainings that may follow, and of older ones those that it does not replace.

    Args:
        trial_dir (Path): The trial's folder.
        checkpoint (Path): In the work dir of its Runner.
        point (ForkPoint): What is known at this moment; the validation that belongs to it is over.
        bounds (Sequence[float]): For each alpha that may follow: it, or the trial's own if that is smaller.
    """
    if not any(is_below(point.largest_scale, [bound]) for bound in bounds):
        return
    draft = trial_dir / _KEPT / f'.{point.iteration}.{os.getpid()}'
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    _link(checkpoint, draft / _CHECKPOINT)
    curve = read_curve(trial_dir / CURVE_FILE, up_to=point.step)
    write_text(draft / CURVE_FILE, ''.join(json.dumps([step, value]) + '\n' for step, value in curve.items()))
    _copy_logs(checkpoint.parent, draft / _LOGS)
    write_text(draft / _POINT, json.dumps(point._asdict()))
    _move(draft, trial_dir / _KEPT / str(point.iteration))
    points = kept_points(trial_dir)
    newest = {max((p.iteration for p in points if is_below(p.largest_scale, [b])), default=0) for b in bounds}
    for other in points:
        if other.iteration not in newest:
            shutil.rmtree(trial_dir / _KEPT / str(other.iteration), ignore_errors=True)


def kept_points(trial_dir: Path) -> list[ForkPoint]:
    """List what a trial has kept, oldest first."""
    points = [_read(path.parent) for path in (trial_dir / _KEPT).glob(f'[0-9]*/{_POINT}')]
    return sorted((p for p in points if p is not None), key=lambda p: p.iteration)


def start_of(trial_dir: Path) -> ForkPoint | None:
    """Return what this trial started from; None if from the beginning."""
    return _read(trial_dir / _START)


def give_start(trial_dir: Path, parent_dir: Path, point: ForkPoint) -> bool:
    """Link what another trial has kept into the folder of a trial; return whether it was still there."""
    draft = trial_dir / f'.{_START}.{os.getpid()}'
    try:
        shutil.copytree(parent_dir / _KEPT / str(point.iteration), draft, copy_function=_link)
    except (FileNotFoundError, shutil.Error):
        shutil.rmtree(draft, ignore_errors=True)
        return False
    _move(draft, trial_dir / _START)
    return True


def may_be_given_start(trial_dir: Path) -> bool:
    """Return whether a trial has neither begun, nor a start, nor refused one."""
    return not (has_begun(trial_dir) or (trial_dir / _START).exists() or (trial_dir / _REFUSED).exists())


def has_begun(trial_dir: Path) -> bool:
    """Return whether a trial has a checkpoint of its own."""
    return any((trial_dir / 'run').glob('*.pth'))


def checkpoint_to_start_from(
    trial_dir: Path, run_dir: Path, newest_loadable: Callable[[Path], Path | None], *, fingerprint: str
) -> Path | None:
    """Prepare a trial that continues another one: its curve and its log begin with what that one did.

    Args:
        trial_dir (Path): The trial's folder.
        run_dir (Path): The work dir of its Runner.
        newest_loadable (Callable): Finds a checkpoint in a folder.
        fingerprint (str): Of the trial's search.

    Returns:
        Path | None: The checkpoint; None if there is no start, it belongs to another search, or it cannot be loaded.
    """
    point, folder = start_of(trial_dir), trial_dir / _START
    if point is None:
        return None
    if point.fingerprint != fingerprint:
        refuse_start(trial_dir, f'the checkpoint of {point.key} belongs to another search, {point.fingerprint!r}')
        return None
    checkpoint = newest_loadable(folder)
    if checkpoint is None:
        refuse_start(trial_dir, f'the checkpoint of {point.key} at iteration {point.iteration} cannot be loaded')
        return None
    shutil.copyfile(folder / CURVE_FILE, trial_dir / CURVE_FILE)
    _copy_logs(folder / _LOGS, run_dir)
    return checkpoint


def refuse_start(trial_dir: Path, why: str) -> None:
    """Have a trial start from the beginning, in this attempt and in all that follow."""
    write_text(trial_dir / _REFUSED, f'{why}: trained from the start\n')
    shutil.rmtree(trial_dir / _START, ignore_errors=True)


def why_from_the_beginning(trial_dir: Path) -> str:
    """Return why a trial refused its start; empty if it has not."""
    path = trial_dir / _REFUSED
    return path.read_text(encoding='utf-8').strip() if path.exists() else ''


def delete_kept(trial_dir: Path) -> None:
    """Delete what a trial has kept for others."""
    shutil.rmtree(trial_dir / _KEPT, ignore_errors=True)


def delete_start(trial_dir: Path) -> None:
    """Delete what a trial started from, once it has finished."""
    for folder in trial_dir.glob(f'.{_START}.*'):  # by a driver that was killed
        shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(trial_dir / _START, ignore_errors=True)


def _read(folder: Path) -> ForkPoint | None:
    try:
        data: Mapping[str, Any] = json.loads((folder / _POINT).read_text(encoding='utf-8'))
        return ForkPoint(**data)
    except (OSError, ValueError, TypeError):
        return None


def _link(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _copy_logs(source: Path, target: Path) -> None:
    for path in source.glob(_SCALARS):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def _move(draft: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that came this far before
    os.replace(draft, folder)
