"""Which trainings come next: pure functions of settings and history.

No clock, no random state, no storage, no logging. A restart calls :func:`plan` again and gets the
same answer; the order in which results arrived does not matter. A key such as ``r0-k3`` is the only
identity of a training.

A method whose points depend on results by more than comparisons has its proposals in the history:
:class:`Propose` asks for them, :mod:`.bayesian` makes them.

Decided here, where Algorithm 4 is silent:

- equal values: the lower learning rate wins; then the earlier alpha of the list;
- a later round or alpha replaces the best so far only if it is better, not if it is equal;
- a training that diverged ranks below every training that did not;
- a round in which all diverged has no best: the search is :class:`Stuck`;
- alphas that all diverged leave the first alpha as the winner;
- a later round whose upper bound has fallen onto ``lr_min`` has one training.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from mmfixnorm.search.base_settings import SearchSettings
from mmfixnorm.search.methods.base import (
    Best,
    Closed,
    History,
    Replay,
    Spec,
    Stage,
    all_diverged,
    better,
    make_stage,
)
from mmfixnorm.search.methods.bayesian import outline_bayesian, replay_bayesian
from mmfixnorm.search.methods.confirm import outline_confirm, replay_confirm
from mmfixnorm.search.methods.grid import outline_grid, replay_grid, split
from mmfixnorm.search.methods.halving import outline_halving, replay_halving
from mmfixnorm.search.methods.random_points import outline_random, replay_random
from mmfixnorm.search.methods.unimodal import outline_unimodal, replay_unimodal
from mmfixnorm.search.settings import (
    BayesianSearch,
    FixNormSearch,
    GridSearch,
    RandomSearch,
    SuccessiveHalvingSearch,
    UnimodalFixNormSearch,
)

_T = TypeVar('_T', Closed, Spec)
Outline = list[tuple[str, int, float]]


@dataclass(frozen=True)
class Run:
    """Train these; none of them is running."""

    specs: tuple[Spec, ...]


@dataclass(frozen=True)
class Propose:
    """Propose points for these keys from the history, write them down, and plan again."""

    keys: tuple[str, ...]


@dataclass(frozen=True)
class Wait:
    """Nothing to start until these have ended."""

    keys: tuple[str, ...]


@dataclass(frozen=True)
class Done:
    """The search is over, with a winner."""

    best: Best


@dataclass(frozen=True)
class Stuck:
    """The search is over, without a winner."""

    reason: str


Step = Run | Propose | Wait | Done | Stuck


def plan(settings: SearchSettings, history: History, running: Collection[str] = ()) -> Step:
    """Say what to do next.

    Args:
        settings (SearchSettings): The search.
        history (History): Every closed training and every proposed point, in any order.
        running (Collection[str]): Keys that are being trained now.

    Returns:
        Run | Propose | Wait | Done | Stuck: ``Run`` holds the trainings of the first unfinished
        stage that are neither closed nor running.

    Raises:
        ValueError: The history does not belong to these settings.

    Example:
        >>> settings = FixNormSearch(lr_range=(0.2, 3.2))
        >>> [spec.lr for spec in plan(settings, []).specs]
        [0.8, 1.4, 2.0, 2.6, 3.2]
    """
    replayed = replay(settings, history)
    if replayed.stuck:
        return Stuck(replayed.stuck)
    if replayed.finished and replayed.best is not None:
        return Done(replayed.best)
    if replayed.unproposed:
        return Propose(replayed.unproposed)
    missing = replayed.stages[-1].missing
    specs = tuple(s for s in missing if s.key not in running)
    return Run(specs) if specs else Wait(tuple(s.key for s in missing))


def replay(settings: SearchSettings, history: History) -> Replay:
    """Follow the search through its closed trainings."""
    history = list(history)
    closed = _index([h for h in history if isinstance(h, Closed)])
    asked = _index([h for h in history if isinstance(h, Spec)])
    replayed = replay_confirm(settings, _method(settings).replay(settings, closed, asked), closed)
    strangers = {*closed, *asked} - {s.key for stage in replayed.stages for s in stage.specs}
    if strangers:
        raise ValueError(f'the history holds trainings that no plan asked for: {sorted(strangers)}')
    return replayed


def outline(settings: SearchSettings) -> Outline:
    """Every stage as ``(name, trainings, fraction)``, known before anything runs.

    The numbers are upper bounds: a later round can be smaller (see the module's docstring).
    """
    return [*_method(settings).outline(settings), *outline_confirm(settings)]


def _outline_fixnorm(settings: FixNormSearch) -> Outline:
    rounds = [(f'round {r}', settings.num_splits, f) for r, f in enumerate(settings.schedule_fractions)]
    alphas = ('alpha', len(settings.alphas) - 1, settings.schedule_fractions[-1])
    return [*rounds, alphas] if len(settings.alphas) > 1 else rounds


def _index(history: Sequence[_T]) -> dict[str, _T]:
    by_key: dict[str, _T] = {}
    for entry in history:
        if entry.key in by_key:
            raise ValueError(f'the history holds {entry.key} twice')
        by_key[entry.key] = entry
    return by_key


def _replay_fixnorm(settings: FixNormSearch, closed: Mapping[str, Closed], asked: Mapping[str, Spec]) -> Replay:
    del asked
    low, high = settings.lr_range
    best: Best | None = None
    stages: list[Stage] = []
    warnings: list[str] = []

    def so_far(*, finished: bool = False, stuck: str = '') -> Replay:
        return Replay(tuple(stages), best, finished, stuck, tuple(warnings))

    for r, fraction in enumerate(settings.schedule_fractions):
        stage = make_stage(
            f'round {r}',
            [
                Spec(f'r{r}-k{k}', f'round {r}', lr, settings.alphas[0], fraction)
                for k, lr in enumerate(split(low, high, settings.num_splits, drop_low=r == 0))
            ],
            closed,
            settings.rule,
        )
        stages.append(stage)
        if stage.missing:
            return so_far()
        if stage.best is None:
            return so_far(stuck=all_diverged(stage.name, stage.specs))
        if r == 0 and stage.best.lr == high:
            warnings.append(
                f'the best learning rate of round 0, {high}, is the upper bound of '
                'search.lr_range: the range is probably too small'
            )
        high = stage.best.lr
        if best is None or better(settings.rule, stage.best.value, best.value):
            best = stage.best

    if best is None:
        raise ValueError('a search needs at least one round')
    specs = [
        Spec(f'alpha-{i}', 'alpha', best.lr, alpha, settings.schedule_fractions[-1])
        for i, alpha in enumerate(settings.alphas)
        if i > 0  # the first alpha is that of phase 1
    ]
    if specs:
        stage = make_stage('alpha', specs, closed, settings.rule)
        stages.append(stage)
        if stage.missing:
            return so_far()
        if stage.best is not None and better(settings.rule, stage.best.value, best.value):
            best = stage.best
    return so_far(finished=True)


class _Method(NamedTuple):
    """How the settings of one type are followed and outlined."""

    replay: Callable[[Any, Mapping[str, Closed], Mapping[str, Spec]], Replay]
    outline: Callable[[Any], Outline]


_METHODS: dict[type[SearchSettings], _Method] = {
    FixNormSearch: _Method(_replay_fixnorm, _outline_fixnorm),
    GridSearch: _Method(replay_grid, outline_grid),
    BayesianSearch: _Method(replay_bayesian, outline_bayesian),
    RandomSearch: _Method(replay_random, outline_random),
    SuccessiveHalvingSearch: _Method(replay_halving, outline_halving),
    UnimodalFixNormSearch: _Method(replay_unimodal, outline_unimodal),
}


def _method(settings: SearchSettings) -> _Method:
    if type(settings) not in _METHODS:
        raise TypeError(f'no plan for settings of type {type(settings).__name__}')
    return _METHODS[type(settings)]
