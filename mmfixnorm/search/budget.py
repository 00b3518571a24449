"""What a search may cost (``search.budget``): no training is started that would exceed it.

A budget is a number of T_max, or a time such as ``8h``: that of all trainings in sum, however many run at once. How
long the next one takes is known from those that have ended, as time per T_max; before the first has ended nothing is
known, and what the workers have room for is started.

A search whose next training does not fit is over, with a winner among the trainings that have ended: that of the method
where it chooses by more than values, else the best of the longest ones. With more budget the same search continues.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from mmfixnorm.search.methods.base import Best, Finished, Replay, Spec, best_of
from mmfixnorm.search.settings import SearchSettings

_ROUNDING = 1e-9


class Spent(NamedTuple):
    """What the trainings that have ended have cost.

    Attributes:
        t_max: In T_max, the ramp of the learning rate included.
        seconds: The same in time.
        seconds_per_t_max: Of trainings; None while none has ended.
    """

    t_max: float
    seconds: float
    seconds_per_t_max: float | None


def within_budget(settings: SearchSettings, replayed: Replay, finished: Finished) -> Replay:
    """End a search whose next training would exceed its budget."""
    missing = replayed.stages[-1].missing if replayed.stages else ()
    if settings.budget is None or replayed.finished or replayed.stuck or replayed.unproposed or not missing:
        return replayed
    used = spent(replayed, finished)
    if affordable(settings, used, missing):
        return replayed
    so_far = f'of {settings.budget_text} the trainings have taken {used.t_max:.3g} T_max, {used.seconds:.0f} s'
    best = _best_so_far(settings, replayed, finished)
    if best is None:
        reason = (
            f'search.budget: {so_far}, without a value so far; {missing[0].key} needs {missing[0].fraction:g} T_max'
        )
        return replace(replayed, stuck=reason)
    note = f'search.budget: {so_far}; {len(missing)} of {replayed.stages[-1].name} and all after them are not trained'
    return replace(replayed, best=best, finished=True, notes=(*replayed.notes, note))


def affordable(
    settings: SearchSettings, used: Spent, specs: Sequence[Spec], running: Iterable[Spec] = ()
) -> tuple[Spec, ...]:
    """Return the first of these trainings, as many as the budget has room for beside those that run."""
    if settings.budget is None:
        return tuple(specs)
    cost, fitting = sum(map(_expected, running)), []
    for spec in specs:
        cost += _expected(spec)
        if settings.budget_t_max is not None and used.t_max + cost > settings.budget_t_max + _ROUNDING:
            break
        seconds = used.seconds + cost * (used.seconds_per_t_max or 0.0)
        if settings.budget_s is not None and seconds > settings.budget_s:
            break
        fitting.append(spec)
    return tuple(fitting)


def spent(replayed: Replay, finished: Finished) -> Spent:
    """Sum up what the trainings of a search have cost."""
    ended = [(spec, finished[spec.key]) for stage in replayed.stages for spec in stage.specs if spec.key in finished]
    costs = {spec.key: _expected(spec) if t.cost is None else t.cost for spec, t in ended}
    trained = sum(costs[spec.key] for spec, _ in ended if not spec.is_ramp)
    seconds = sum(t.seconds for spec, t in ended if not spec.is_ramp)
    return Spent(sum(costs.values()), sum(t.seconds for _, t in ended), seconds / trained if trained else None)


def _expected(spec: Spec) -> float:
    return 0.0 if spec.is_ramp else spec.fraction


def _best_so_far(settings: SearchSettings, replayed: Replay, finished: Finished) -> Best | None:
    if replayed.best is not None and (replayed.contenders or not settings.winner_has_best_value):
        return replayed.best
    specs = [spec for stage in replayed.stages for spec in stage.specs if spec.key in finished]
    with_value = [spec for spec in specs if finished[spec.key].value is not None]
    longest = max((spec.fraction for spec in with_value), default=0.0)
    return best_of(settings.rule, [finished[spec.key] for spec in with_value if spec.fraction == longest])
