"""``lr_range='auto'``: before anything else one ramp of the learning rate measures the range, in any method.

The ramp is a trial as every other: a driver records it, a kill costs its iterations, a second run finds it. What it
does is in :mod:`mmfixnorm.lr_range`. With ``update='angle'`` there is nothing to measure: the range is
:data:`~mmfixnorm.search.settings.ANGLE_RANGE`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, TypeVar

from mmfixnorm.search.methods.base import Finished, PlannedStage, Point, Replay, Spec, StageKind, make_stage
from mmfixnorm.search.settings import AUTO, SearchSettings

_Settings = TypeVar('_Settings', bound=SearchSettings)
_KEY = 'ramp'
_STAGE = 'lr range'


class Ramped(NamedTuple):
    """A search after its ramp.

    Attributes:
        settings: Its settings, with the range that the ramp has measured and the budget that it has left; None while
            there is no range.
        replay: The search as far as the ramp: no stage where it has none.
    """

    settings: SearchSettings | None
    replay: Replay


def replay_ramp(settings: SearchSettings, finished: Finished) -> Ramped:
    """Follow the ramp of a search, if it has one."""
    if not needs_ramp(settings):
        return Ramped(settings, Replay(()))
    lr = settings.own_lr
    if lr is None:
        raise ValueError("search.lr_range='auto' needs the learning rate of the config")
    spec = Spec(_KEY, _STAGE, Point(lr), 1.0, is_ramp=True)
    known = finished.get(_KEY)
    lr_range = known.lr_range if known else None
    stage = make_stage(_STAGE, StageKind.RAMP, [spec], finished, settings.rule, lr_range=lr_range)
    if known is None:
        return Ramped(None, Replay((stage,)))
    if lr_range is None:
        reason = (
            'the ramp of the learning rate came to no end (see its log): give search.lr_range=(lr_min, lr_max), in '
            'another --work-dir'
        )
        return Ramped(None, Replay((stage,), stuck=reason))
    budget, cost = settings.budget_t_max, known.cost or 0.0
    if budget is None or not settings.plans_by_budget:
        return Ramped(with_range(settings, lr_range), Replay((stage,)))
    if budget - cost < 1:
        reason = f'search.budget: of {budget:g} T_max the ramp has taken {cost:.2g}; a training needs 1'
        return Ramped(None, Replay((stage,), stuck=reason))
    left = replace(settings, budget=budget - cost)
    return Ramped(with_range(left, lr_range), Replay((stage,)))


def needs_ramp(settings: SearchSettings) -> bool:
    """Return whether a ramp has to measure the range first."""
    return getattr(settings, 'lr_range', None) == AUTO


def with_range(settings: _Settings, lr_range: tuple[float, float]) -> _Settings:
    """Return the settings with this range of the learning rate."""
    return replace(settings, lr_range=lr_range)  # type: ignore[call-arg]


def planned_ramp(settings: SearchSettings) -> list[PlannedStage]:
    """List its one stage."""
    return [PlannedStage(_STAGE, 1, 0.0)] if needs_ramp(settings) else []
