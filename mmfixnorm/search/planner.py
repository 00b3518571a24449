"""Which trainings come next: pure functions of settings and history.

No clock, no random state, no storage, no logging. A restart calls :func:`plan` again and gets the same answer; the
order in which results arrived does not matter. A key such as ``r0-k3`` is the only identity of a training.

A method whose points depend on results by more than comparisons has its proposals in the history: :class:`Propose` asks
for them, :func:`propose` makes them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mmfixnorm.search.budget import affordable, spent, within_budget
from mmfixnorm.search.methods import method_of
from mmfixnorm.search.methods.base import (
    Best,
    Finished,
    FinishedTraining,
    History,
    PlannedStage,
    Proposed,
    Replay,
    Spec,
)
from mmfixnorm.search.methods.confirm import planned_confirmation, replay_confirmation
from mmfixnorm.search.methods.edges import edge_warnings, tie_warnings
from mmfixnorm.search.methods.ramp import needs_ramp, planned_ramp, replay_ramp, with_range
from mmfixnorm.search.settings import SearchSettings

# As wide as a ramp's: how many trainings a search has at most depends on the ratio of its ends alone.
_ANY_RANGE = (0.1, 0.8)
_T = TypeVar('_T', FinishedTraining, Spec)


@dataclass(frozen=True)
class Run:
    """Train these; none of them is running."""

    specs: tuple[Spec, ...]


@dataclass(frozen=True)
class Propose:
    """Propose points for these keys from the history, write them to the record, and plan again."""

    keys: tuple[str, ...]


@dataclass(frozen=True)
class Wait:
    """Start nothing until these trainings have ended."""

    keys: tuple[str, ...]


@dataclass(frozen=True)
class Done:
    """The search is over, with a winner; ``left`` is what its budget has no room for, if it was not begun before."""

    best: Best
    left: tuple[Spec, ...] = ()


@dataclass(frozen=True)
class Stuck:
    """The search is over, without a winner."""

    reason: str


Step = Run | Propose | Wait | Done | Stuck


def plan(settings: SearchSettings, history: History, running: Collection[str] = ()) -> Step:
    """Return the next step of a search.

    Args:
        settings (SearchSettings): The search.
        history (History): Every finished training and every proposed point, in any order.
        running (Collection[str]): Keys that are being trained now.

    Returns:
        Run | Propose | Wait | Done | Stuck: ``Run`` holds the trainings of the first unfinished
        stage that are neither finished nor running, as far as the budget has room for them.

    Raises:
        ValueError: The history does not belong to these settings.

    Example:
        >>> from mmfixnorm.search.methods import parse_settings
        >>> settings = parse_settings(dict(type='FixNormSearch', lr_range=(0.2, 3.2)))
        >>> [spec.point.lr for spec in plan(settings, []).specs]
        [0.8, 1.4, 2.0, 2.6, 3.2]
    """
    history = list(history)
    replayed = replay(settings, history)
    missing = replayed.stages[-1].missing if replayed.stages else ()
    begun = [s for s in missing if s.key in running]
    if begun and (replayed.stuck or replayed.finished):  # the budget ends a search, not a training
        return Wait(tuple(s.key for s in begun))
    if replayed.stuck:
        return Stuck(replayed.stuck)
    if replayed.finished and replayed.best is not None:
        return Done(replayed.best, missing)
    if replayed.unproposed:
        return Propose(replayed.unproposed)
    used = spent(replayed, _index([h for h in history if isinstance(h, FinishedTraining)]))
    specs = affordable(settings, used, [s for s in missing if s.key not in running], begun)
    return Run(specs) if specs else Wait(tuple(s.key for s in begun))


def replay(settings: SearchSettings, history: History) -> Replay:
    """Follow a search through its finished trainings.

    Raises:
        ValueError: The history does not belong to these settings.
    """
    history = list(history)
    finished = _index([h for h in history if isinstance(h, FinishedTraining)])
    proposed = _index([h for h in history if isinstance(h, Spec)])
    ramped = replay_ramp(settings, finished)
    replayed = ramped.replay
    if ramped.settings is not None:
        searched = _replay_method(ramped.settings, finished, proposed)
        replayed = dataclasses.replace(searched, stages=(*replayed.stages, *searched.stages))
    strangers = {*finished, *proposed} - {s.key for stage in replayed.stages for s in stage.specs}
    if strangers:
        raise ValueError(f'the history holds trainings that no plan asked for: {sorted(strangers)}')
    replayed = within_budget(settings, replayed, finished)
    return replayed if replayed.finished else dataclasses.replace(replayed, conclusion='')


def _replay_method(settings: SearchSettings, finished: Finished, proposed: Proposed) -> Replay:
    replayed = method_of(settings).replay(settings, finished, proposed)
    replayed = replay_confirmation(settings, replayed, finished)
    if not replayed.finished:
        return replayed
    ends = [*edge_warnings(settings, replayed, finished), *tie_warnings(replayed, finished)]
    return dataclasses.replace(replayed, warnings=(*replayed.warnings, *ends))


def planned_stages(settings: SearchSettings) -> list[PlannedStage]:
    """List every stage, known before anything runs.

    The numbers are upper bounds: a later round can be smaller.
    """
    return [*planned_ramp(settings), *stages_of_method(settings), *planned_confirmation(settings)]


def stages_of_method(settings: SearchSettings) -> list[PlannedStage]:
    """List the stages of the method alone, without ramp and confirmation."""
    if needs_ramp(settings):
        if settings.plans_by_budget and settings.budget_t_max is not None:  # a ramp takes something of it
            settings = dataclasses.replace(settings, budget=max(1, math.ceil(settings.budget_t_max) - 1))
        settings = with_range(settings, _ANY_RANGE)
    return method_of(settings).planned_stages(settings)


def propose(settings: SearchSettings, finished: Sequence[FinishedTraining], keys: Sequence[str]) -> list[Spec]:
    """Make the points that a :class:`Propose` asks for.

    Raises:
        TypeError: The method of these settings proposes nothing.
    """
    make = method_of(settings).propose
    if make is None:
        raise TypeError(f'{settings.kind} proposes no points')
    ramped = replay_ramp(settings, _index(finished)).settings
    if ramped is None:
        raise ValueError('nothing can be proposed before the ramp of the learning rate has ended')
    return make(ramped, [training for training in finished if training.lr_range is None], keys)


def _index(history: Sequence[_T]) -> dict[str, _T]:
    by_key: dict[str, _T] = {}
    for entry in history:
        if entry.key in by_key:
            raise ValueError(f'the history holds {entry.key} twice')
        by_key[entry.key] = entry
    return by_key
