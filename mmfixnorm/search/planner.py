"""Which trainings come next: pure functions of settings and history.

No clock, no random state, no storage, no logging. A restart calls :func:`plan` again and gets the
same answer; the order in which results arrived does not matter. A key such as ``r0-k3`` is the only
identity of a training.

Decided here, where Algorithm 4 is silent:

- equal values: the lower learning rate wins; then the earlier alpha of the list;
- a later round or alpha replaces the best so far only if it is better, not if it is equal;
- a training that diverged ranks below every training that did not;
- a round in which all diverged has no best: the search is :class:`Stuck`;
- alphas that all diverged leave the first alpha as the winner;
- a later round whose upper bound has fallen onto ``lr_min`` has one training.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmfixnorm.search.settings import FixNormSearch, GridSearch, SearchSettings


@dataclass(frozen=True)
class Spec:
    """One training to do.

    Attributes:
        key: Its identity, e.g. ``r0-k3``, ``alpha-2``, ``grid-03``.
        stage: The part of the search it belongs to, e.g. ``round 0``.
        lr: Learning rate.
        alpha: Bound of the FixNorm layer, or None where alpha is left as in the config.
        fraction: Length asked for, in parts of the config's own schedule.
    """

    key: str
    stage: str
    lr: float
    alpha: float | None
    fraction: float


@dataclass(frozen=True)
class Closed:
    """A training that needs no other attempt; ``value`` is None if it diverged."""

    key: str
    lr: float
    alpha: float | None
    value: float | None


@dataclass(frozen=True)
class Best:
    """The best of some trainings; its value is finite."""

    key: str
    lr: float
    alpha: float | None
    value: float


@dataclass(frozen=True)
class Stage:
    """One round, the alphas or the grid: its trainings, and its best once it is closed."""

    name: str
    specs: tuple[Spec, ...]
    missing: tuple[Spec, ...]
    best: Best | None


@dataclass(frozen=True)
class Replay:
    """The search as far as a history tells it.

    Attributes:
        stages: All stages up to and including the first unfinished one.
        best: acc*, lr* and alpha* so far, from closed stages only.
        finished: Nothing is left to train.
        stuck: Why the search cannot go on, or ''.
        warnings: What the user should know about the result.
    """

    stages: tuple[Stage, ...]
    best: Best | None
    finished: bool
    stuck: str
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """Train these; none of them is running."""

    specs: tuple[Spec, ...]


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


Step = Run | Wait | Done | Stuck


def plan(settings: SearchSettings, history: Iterable[Closed], running: Collection[str] = ()) -> Step:
    """Say what to do next.

    Args:
        settings (SearchSettings): The search.
        history (Iterable[Closed]): Every closed training, in any order.
        running (Collection[str]): Keys that are being trained now.

    Returns:
        Run | Wait | Done | Stuck: ``Run`` holds the trainings of the first unfinished stage that
        are neither closed nor running.

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
    missing = replayed.stages[-1].missing
    specs = tuple(s for s in missing if s.key not in running)
    return Run(specs) if specs else Wait(tuple(s.key for s in missing))


def replay(settings: SearchSettings, history: Iterable[Closed]) -> Replay:
    """Follow the search through its closed trainings."""
    closed = _index(history)
    if isinstance(settings, FixNormSearch):
        replayed = _replay_fixnorm(settings, closed)
    elif isinstance(settings, GridSearch):
        replayed = _replay_grid(settings, closed)
    else:
        raise TypeError(f'no plan for settings of type {type(settings).__name__}')
    strangers = set(closed) - {s.key for stage in replayed.stages for s in stage.specs}
    if strangers:
        raise ValueError(f'the history holds trainings that no plan asked for: {sorted(strangers)}')
    return replayed


def outline(settings: SearchSettings) -> list[tuple[str, int, float]]:
    """Every stage as ``(name, trainings, fraction)``, known before anything runs.

    The numbers are upper bounds: a later round can be smaller (see the module's docstring).
    """
    if isinstance(settings, GridSearch):
        return [('grid', len(_grid_specs(settings)), settings.schedule_fraction)]
    if not isinstance(settings, FixNormSearch):
        raise TypeError(f'no plan for settings of type {type(settings).__name__}')
    rounds = [(f'round {r}', settings.num_splits, f) for r, f in enumerate(settings.schedule_fractions)]
    alphas = ('alpha', len(settings.alphas) - 1, settings.schedule_fractions[-1])
    return [*rounds, alphas] if len(settings.alphas) > 1 else rounds


def split(low: float, high: float, num: int, *, drop_low: bool) -> tuple[float, ...]:
    """Split ``[low, high]`` into ``num`` learning rates, evenly and without repetition.

    Round 0 of Algorithm 4 drops the lower end, later rounds keep both; only this reproduces the
    published values. Ten digits are kept, so that 0.8 is 0.8 and not 0.8000000000000002.
    """
    values = np.linspace(low, high, num + 1)[1:] if drop_low else np.linspace(low, high, num)
    rounded = [min(max(float(f'{v:.10g}'), low), high) for v in values]
    rounded[-1] = high  # the ends are the caller's, to the last digit
    if not drop_low:
        rounded[0] = low
    return tuple(dict.fromkeys(rounded))


def better(rule: str, value: float, than: float) -> bool:
    """Whether ``value`` is strictly better."""
    return value > than if rule == 'greater' else value < than


def best_of(rule: str, trainings: Sequence[Closed]) -> Best | None:
    """The best training that did not diverge; of equal ones that with the lower learning rate."""
    best: Best | None = None
    for t in trainings:
        if t.value is None:
            continue
        if best is None or better(rule, t.value, best.value) or (t.value == best.value and t.lr < best.lr):
            best = Best(t.key, t.lr, t.alpha, t.value)
    return best


def _index(history: Iterable[Closed]) -> dict[str, Closed]:
    closed: dict[str, Closed] = {}
    for training in history:
        if training.key in closed:
            raise ValueError(f'the history holds {training.key} twice')
        closed[training.key] = training
    return closed


def _stage(name: str, specs: Sequence[Spec], closed: Mapping[str, Closed], rule: str) -> Stage:
    for spec in specs:
        known = closed.get(spec.key)
        if known and (known.lr, known.alpha) != (spec.lr, spec.alpha):
            raise ValueError(
                f'the history has {spec.key} with lr {known.lr}, alpha {known.alpha}; '
                f'the plan asks for lr {spec.lr}, alpha {spec.alpha}'
            )
    missing = tuple(s for s in specs if s.key not in closed)
    best = None if missing else best_of(rule, [closed[s.key] for s in specs])
    return Stage(name, tuple(specs), missing, best)


def _replay_fixnorm(settings: FixNormSearch, closed: Mapping[str, Closed]) -> Replay:
    low, high = settings.lr_range
    best: Best | None = None
    stages: list[Stage] = []
    warnings: list[str] = []

    def so_far(*, finished: bool = False, stuck: str = '') -> Replay:
        return Replay(tuple(stages), best, finished, stuck, tuple(warnings))

    for r, fraction in enumerate(settings.schedule_fractions):
        stage = _stage(
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
            return so_far(stuck=_all_diverged(stage))
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
        stage = _stage('alpha', specs, closed, settings.rule)
        stages.append(stage)
        if stage.missing:
            return so_far()
        if stage.best is not None and better(settings.rule, stage.best.value, best.value):
            best = stage.best
    return so_far(finished=True)


def _grid_specs(settings: GridSearch) -> list[Spec]:
    if settings.lrs is not None:
        lrs: tuple[float, ...] = settings.lrs
    elif settings.lr_range is not None:
        lrs = split(*settings.lr_range, settings.num_splits, drop_low=False)
    else:
        raise ValueError('a grid needs lrs or lr_range')
    points = [(lr, alpha) for lr in lrs for alpha in settings.alphas or (None,)]
    width = max(2, len(str(len(points) - 1)))
    return [
        Spec(f'grid-{i:0{width}d}', 'grid', lr, alpha, settings.schedule_fraction)
        for i, (lr, alpha) in enumerate(points)
    ]


def _replay_grid(settings: GridSearch, closed: Mapping[str, Closed]) -> Replay:
    specs = _grid_specs(settings)
    stage = _stage('grid', specs, closed, settings.rule)
    if stage.missing:
        return Replay((stage,), None, False, '', ())
    if stage.best is None:
        return Replay((stage,), None, False, _all_diverged(stage), ())
    lrs = sorted({s.lr for s in specs})
    warnings = [
        f'the best learning rate, {stage.best.lr}, is the {end} end of the grid: the grid is probably too small'
        for end, lr in (('lower', lrs[0]), ('upper', lrs[-1]))
        if len(lrs) > 1 and stage.best.lr == lr
    ]
    return Replay((stage,), stage.best, True, '', tuple(warnings))


def _all_diverged(stage: Stage) -> str:
    lrs = [s.lr for s in stage.specs]
    return (
        f'all {len(lrs)} trainings of {stage.name} diverged (lr {min(lrs)} to {max(lrs)}): '
        'lower search.lr_range, or look into the log of one of them'
    )
