"""The numbers behind a report's figures; :mod:`.figures` only draws them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from mmfixnorm.search._utils.keys import is_key
from mmfixnorm.search.methods.base import Best, FinishedTraining, Spec, Stage, StageKind, ranked, title
from mmfixnorm.search.methods.lr_fit import LRFitSearch, curve_of
from mmfixnorm.search.methods.sampled import SampledSearch
from mmfixnorm.search.problem import SearchProblem
from mmfixnorm.search.record.state import Row, SearchState, ledger
from mmfixnorm.search.record.study import Attempt
from mmfixnorm.search.settings import SearchSettings
from mmfixnorm.search.trial.folder import CURVE_FILE, read_curve

_FIT_POINTS = 60
_Validation = tuple[int, float | None]


class LrCurve(NamedTuple):
    """Values against learning rate, of one round or of one alpha of a grid.

    Attributes:
        name: E.g. ``round 0`` or ``alpha 4``.
        lr_min: Lower end of the range that was tried.
        lr_max: Upper end: the bound that shrinks from round to round.
        lrs: Learning rates, rising.
        values: Their values; None if diverged or not finished yet.
        diverged: Learning rates that diverged.
        best_lr: The round's best, which bounds the next round; None while it is unfinished.
        joined: Whether the points differ in lr alone, so that a line may join them.
    """

    name: str
    lr_min: float
    lr_max: float
    lrs: list[float]
    values: list[float | None]
    diverged: list[float]
    best_lr: float | None
    joined: bool = True


class PointMap(NamedTuple):
    """Points of a method that samples lr and one other number.

    Attributes:
        other: Name of the other number as people read it: ``alpha`` or ``weight decay``.
        other_key: The same as a :class:`Point` has it.
        keys: The trainings.
        lrs: Their learning rates.
        others: Their other numbers.
        values: Their values; None if diverged.
        lengths: In T_max.
    """

    other: str
    other_key: str
    keys: list[str]
    lrs: list[float]
    others: list[float]
    values: list[float | None]
    lengths: list[float]


class Slice(NamedTuple):
    """Points of a method that samples, by one number of ``search.space``.

    Attributes:
        key: Of the config.
        is_log: Whether the number was drawn on a log scale.
        keys: The trainings.
        numbers: Their numbers at the key.
        values: Their values; None if diverged.
        lengths: In T_max.
    """

    key: str
    is_log: bool
    keys: list[str]
    numbers: list[float]
    values: list[float | None]
    lengths: list[float]


class AlphaCurve(NamedTuple):
    """Values against alpha at one learning rate; ``lengths`` in T_max."""

    lr: float
    alphas: list[float]
    values: list[float | None]
    lengths: list[float]


class ValidationCurve(NamedTuple):
    """All validations of a trial; ``steps`` in epochs or iterations, a value that is not finite is None."""

    key: str
    stage: str
    steps: list[int]
    values: list[float | None]


class RampCurve(NamedTuple):
    """A ramp of the learning rate: loss and angles (in radians) of each iteration, and its range.

    The angle of all weights, and that of the layer that turned most, which older records have not. None stands for what
    is not finite, and for the angle where no step was taken.
    """

    lrs: list[float]
    losses: list[float | None]
    angles: list[float | None]
    largest: list[float | None]
    lr_range: tuple[float, float] | None


class FitCurve(NamedTuple):
    """The fitted values over the learning rate, with one standard deviation to both sides."""

    lrs: list[float]
    means: list[float]
    low: list[float]
    high: list[float]


class Leader(NamedTuple):
    """The winner, or the best so far, as the figures mark it.

    Attributes:
        name: Entry of the legend.
        best: Its training.
        cost: What had been spent when it had finished, in T_max.
    """

    name: str
    best: Best
    cost: float


def leader(state: SearchState, attempts: Sequence[Attempt]) -> Leader | None:
    """Return the training that the figures mark; None while no stage has finished."""
    best = state.best
    if best is None:
        return None
    costs = [cost for attempt, cost in zip(attempts, ledger(attempts), strict=True) if attempt.spec.key == best.key]
    name = 'winner' if state.replayed.finished else 'best so far'
    return Leader(f'{name}: {best.key}', best, costs[-1])


def lr_curves(state: SearchState) -> list[LrCurve]:
    """Make one curve for each round over the learning rate, each alpha of a grid, and each length of sampled points."""
    rows = {row.key: row for row in state.rows}
    curves: list[LrCurve] = []
    sampled: dict[float, list[Stage]] = {}
    for stage in state.replayed.stages:
        if stage.kind is StageKind.LR:
            best_lr = stage.best.point.lr if stage.best else None
            curves.append(_lr_curve(stage.name, stage.specs, rows, stage.lr_range, best_lr))
        elif stage.kind is StageKind.GRID:
            curves += _grid_curves(stage, rows)
        elif stage.kind is StageKind.SAMPLES:
            for fraction in {spec.fraction for spec in stage.specs}:
                sampled.setdefault(fraction, []).append(stage)
    for stages in sampled.values():
        name = stages[0].name if len(sampled) > 1 else 'trials'
        specs = [spec for stage in stages for spec in stage.specs]
        curves.append(_lr_curve(name, specs, rows, stages[0].lr_range, None)._replace(joined=False))
    return curves


def _grid_curves(stage: Stage, rows: Mapping[str, Row]) -> list[LrCurve]:
    lrs = [s.point.lr for s in stage.specs]
    curves = []
    for alpha in dict.fromkeys(s.point.alpha for s in stage.specs):
        part = [s for s in stage.specs if s.point.alpha == alpha]
        name = stage.name if alpha is None else f'alpha {alpha:g}'
        curves.append(_lr_curve(name, part, rows, (min(lrs), max(lrs)), None))
    return curves


def _lr_curve(
    name: str,
    specs: Sequence[Spec],
    rows: Mapping[str, Row],
    lr_range: tuple[float, float] | None,
    best_lr: float | None,
) -> LrCurve:
    rising = sorted(specs, key=lambda s: s.point.lr)
    lrs = [s.point.lr for s in rising]
    low, high = lr_range or (lrs[0], lrs[-1])
    ended = [rows.get(s.key) for s in rising]
    return LrCurve(
        name=name,
        lr_min=low,
        lr_max=high,
        lrs=lrs,
        values=[row.value if row else None for row in ended],
        diverged=[row.point.lr for row in ended if row and row.outcome == 'diverged'],
        best_lr=best_lr,
    )


def ramp_curve(attempts: Sequence[Attempt]) -> RampCurve | None:
    """Return the ramp of a search; None if there was none."""
    for attempt in attempts:
        if attempt.result.ramp.get('steps'):  # it has none where a loss scaler skipped all
            lrs, losses, angles, *largest = (list(column) for column in zip(*attempt.result.ramp['steps'], strict=True))
            low_high = attempt.result.ramp['lr_range']
            return RampCurve(
                lrs, losses, angles, largest[0] if largest else [], (low_high[0], low_high[1]) if low_high else None
            )
    return None


def fit_curve(settings: SearchSettings, state: SearchState) -> FitCurve | None:
    """Return the curve of :class:`LRFitSearch` through its values; None for other methods, or before there are any."""
    stages = [stage for stage in state.replayed.stages if stage.kind is StageKind.LR]
    if not isinstance(settings, LRFitSearch) or not stages or stages[0].lr_range is None:
        return None
    keys = {spec.key for stage in stages for spec in stage.specs}
    rows = [row for row in state.rows if row.key in keys and row.outcome in ('done', 'diverged')]
    trained = [FinishedTraining(row.key, row.point, row.value) for row in rows]
    curve = curve_of(replace(settings, lr_range=stages[0].lr_range), trained) if trained else None
    if curve is None:
        return None
    ends = [*stages[0].lr_range, *(t.point.lr for t in trained)]
    lrs = np.geomspace(min(ends), max(ends), _FIT_POINTS).tolist()
    estimates = [curve.at(lr) for lr in lrs]
    means = [e.mean for e in estimates]
    return FitCurve(lrs, means, [e.mean - e.sd for e in estimates], [e.mean + e.sd for e in estimates])


def point_map(settings: SearchSettings, state: SearchState) -> PointMap | None:
    """Collect the finished points of a method that samples, by its first two numbers; None for other methods."""
    if not isinstance(settings, SampledSearch):
        return None
    other = list(settings.ranges)[1]
    finished = _finished_samples(state)
    return PointMap(
        other=title(other),
        other_key=other,
        keys=[row.key for row in finished],
        lrs=[row.point.lr for row in finished],
        others=[row.point.values[other] for row in finished],
        values=[row.value for row in finished],
        lengths=[row.cost for row in finished],
    )


def slices(settings: SearchSettings, state: SearchState) -> list[Slice]:
    """Collect the finished points of a method that samples, by each number of ``search.space``."""
    if not isinstance(settings, SampledSearch):
        return []
    finished = _finished_samples(state)
    return [
        Slice(
            key=key,
            is_log=of.log,
            keys=[row.key for row in finished],
            numbers=[row.point.values[key] for row in finished],
            values=[row.value for row in finished],
            lengths=[row.cost for row in finished],
        )
        for key, of in settings.ranges.items()
        if is_key(key)
    ]


def _finished_samples(state: SearchState) -> list[Row]:
    sampled = state.replayed.keys_of(StageKind.SAMPLES)
    return [row for row in state.rows if row.outcome in ('done', 'diverged') and row.key in sampled]


def alpha_curves(state: SearchState, rule: str) -> list[AlphaCurve]:
    """Make a curve over alpha for each learning rate of a grid, and for the one at which alphas were tried.

    The first alpha of Algorithm 4 is the training of phase 1 that gave lr*, which can be a shorter
    one: ``lengths`` says so.
    """
    rows = {row.key: row for row in state.rows}
    by_rate = state.replayed.keys_of(StageKind.LR)
    curves = []
    for stage in state.replayed.stages:
        ended = [rows[s.key] for s in stage.specs if s.key in rows]
        if stage.kind is StageKind.ALPHA and ended:
            lr = ended[0].point.lr
            before = [r for r in state.rows if r.key in by_rate and r.point.lr == lr]
            curves.append(_alpha_curve(lr, [*ranked(rule, before)[:1], *ended]))
        elif stage.kind is StageKind.GRID:
            for lr in sorted({r.point.lr for r in ended if r.point.alpha is not None}):
                curves.append(_alpha_curve(lr, [r for r in ended if r.point.lr == lr]))
    return curves


def _alpha_curve(lr: float, rows: Sequence[Row]) -> AlphaCurve:
    known = sorted((r for r in rows if r.point.alpha is not None), key=lambda r: r.point.alpha or 0.0)
    return AlphaCurve(
        lr=lr,
        alphas=[r.point.alpha for r in known if r.point.alpha is not None],
        values=[r.value for r in known],
        lengths=[r.cost for r in known],
    )


def validation_curves(
    problem: SearchProblem, attempts: Sequence[Attempt], *, max_points: int = 20_000
) -> list[ValidationCurve]:
    """Collect the validations of every trial: of its last attempt, or as far as a failed attempt came.

    Args:
        problem (SearchProblem): Knows the trials' folders.
        attempts (Sequence[Attempt]): All attempts of the record.
        max_points (int): Points of all curves together; longer ones are thinned out, evenly, and
            keep their last point.
    """
    last = {a.spec.key: a for a in attempts}
    curves = []
    for key, attempt in last.items():
        read = attempt.result.curve or read_curve(problem.trial_dir(key) / CURVE_FILE).items()
        points = _thinned([(step, value) for step, value in read], max(2, max_points // len(last)))
        steps, values = [step for step, _ in points], [value for _, value in points]
        finite = [v if v is not None and math.isfinite(v) else None for v in values]
        if points:
            curves.append(ValidationCurve(key, attempt.spec.stage, steps, finite))
    return curves


def _thinned(points: list[_Validation], limit: int) -> list[_Validation]:
    every = math.ceil(len(points) / limit)
    return points[::-every][::-1] if every > 1 else points
