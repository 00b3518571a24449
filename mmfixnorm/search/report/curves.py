"""The numbers behind a report's figures; :mod:`.figures` only draws them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mmfixnorm.search.methods.sampled import SampledSearch
from mmfixnorm.search.methods.values import title, values_of
from mmfixnorm.search.planner import Spec, Stage
from mmfixnorm.search.problem import SearchProblem
from mmfixnorm.search.record.state import Row, SearchState
from mmfixnorm.search.record.study import Attempt
from mmfixnorm.search.settings import FixNormSearch, SearchSettings
from mmfixnorm.search.trial.curve_file import CURVE_FILE, read_curve

_Point = tuple[int, float | None]


class LrCurve(NamedTuple):
    """Values against learning rate, of one round or of one alpha of a grid.

    Attributes:
        name: E.g. ``round 0`` or ``alpha 4``.
        lr_min: Lower end of the range that was tried.
        lr_max: Upper end: the bound that shrinks from round to round.
        lrs: Learning rates, rising.
        values: Their values; None if diverged or not closed yet.
        diverged: Learning rates that diverged.
        best_lr: The round's best, which bounds the next round; None while it is open.
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
        other: Name of the other number: ``alpha`` or ``weight decay``.
        keys: The trainings.
        lrs: Their learning rates.
        others: Their other numbers.
        values: Their values; None if diverged.
        lengths: In T_max.
    """

    other: str
    keys: list[str]
    lrs: list[float]
    others: list[float]
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


def lr_curves(settings: SearchSettings, state: SearchState) -> list[LrCurve]:
    """One curve for each round of Algorithm 4, for each alpha of a grid, or for each length of points."""
    rows = {row.key: row for row in state.rows}
    if isinstance(settings, SampledSearch):
        return _sampled_curves(settings, state.replayed.stages, rows)
    if not isinstance(settings, FixNormSearch):
        return _grid_curves(state.replayed.stages, rows)
    curves = []
    low, high = settings.lr_range
    for stage in state.replayed.stages:
        if stage.name == 'alpha':
            continue
        best_lr = stage.best.lr if stage.best else None
        curves.append(_lr_curve(stage.name, stage.specs, rows, (low, high), best_lr))
        high = best_lr or high
    return curves


def _grid_curves(stages: Sequence[Stage], rows: Mapping[str, Row]) -> list[LrCurve]:
    curves = []
    for stage in stages:
        lrs = [s.lr for s in stage.specs]
        for alpha in dict.fromkeys(s.alpha for s in stage.specs):
            part = [s for s in stage.specs if s.alpha == alpha]
            name = 'grid' if alpha is None else f'alpha {alpha:g}'
            curves.append(_lr_curve(name, part, rows, (min(lrs), max(lrs)), None))
    return curves


def _sampled_curves(settings: SampledSearch, stages: Sequence[Stage], rows: Mapping[str, Row]) -> list[LrCurve]:
    specs = [s for stage in stages for s in stage.specs]
    curves = []
    for fraction in settings.fractions:
        part = [s for s in specs if s.fraction == fraction]
        name = part[0].stage if part and len(settings.fractions) > 1 else 'trials'
        if part:
            curve = _lr_curve(name, part, rows, settings.lr_range, None)
            curves.append(curve._replace(joined=False))
    return curves


def point_map(settings: SearchSettings, state: SearchState) -> PointMap | None:
    """The closed points of a method that samples two numbers; None for other methods."""
    if not isinstance(settings, SampledSearch):
        return None
    other = list(settings.ranges)[1]
    closed = [row for row in state.rows if row.outcome in ('done', 'diverged')]
    return PointMap(
        other=title(other),
        keys=[row.key for row in closed],
        lrs=[row.lr for row in closed],
        others=[values_of(row)[other] for row in closed],
        values=[row.value for row in closed],
        lengths=[row.cost for row in closed],
    )


def _lr_curve(
    name: str,
    specs: Sequence[Spec],
    rows: Mapping[str, Row],
    bounds: tuple[float, float],
    best_lr: float | None,
) -> LrCurve:
    rising = sorted(specs, key=lambda s: s.lr)
    ended = [rows.get(s.key) for s in rising]
    return LrCurve(
        name=name,
        lr_min=bounds[0],
        lr_max=bounds[1],
        lrs=[s.lr for s in rising],
        values=[row.value if row else None for row in ended],
        diverged=[row.lr for row in ended if row and row.outcome == 'diverged'],
        best_lr=best_lr,
    )


def alpha_curves(settings: SearchSettings, state: SearchState) -> list[AlphaCurve]:
    """Values against alpha: at lr* for Algorithm 4, at each learning rate for a grid.

    The first alpha of Algorithm 4 is the training of phase 1 that gave lr*, which can be a shorter
    one: ``lengths`` says so.
    """
    if isinstance(settings, SampledSearch):
        return []  # no two points share a learning rate; see point_map
    if not isinstance(settings, FixNormSearch):
        lrs = sorted({row.lr for row in state.rows if row.alpha is not None})
        return [_alpha_curve(lr, [r for r in state.rows if r.lr == lr]) for lr in lrs]
    tried = [row for row in state.rows if row.stage == 'alpha']
    if not tried:
        return []
    lr = tried[0].lr
    first = [r for r in state.rows if r.stage != 'alpha' and r.lr == lr and r.value is not None]
    sign = 1 if settings.rule == 'greater' else -1
    first.sort(key=lambda r: sign * (r.value or 0.0))
    return [_alpha_curve(lr, [*first[-1:], *tried])]


def _alpha_curve(lr: float, rows: Sequence[Row]) -> AlphaCurve:
    known = sorted((r for r in rows if r.alpha is not None), key=lambda r: r.alpha or 0.0)
    return AlphaCurve(
        lr=lr,
        alphas=[r.alpha for r in known if r.alpha is not None],
        values=[r.value for r in known],
        lengths=[r.cost for r in known],
    )


def validation_curves(
    problem: SearchProblem, attempts: Sequence[Attempt], *, max_points: int = 20_000
) -> list[ValidationCurve]:
    """The validations of every trial that has any: of its last attempt, or as far as a failed one came.

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


def _thinned(points: list[_Point], limit: int) -> list[_Point]:
    every = math.ceil(len(points) / limit)
    return points[::-every][::-1] if every > 1 else points
