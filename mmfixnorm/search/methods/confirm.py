"""The winner and the runner-up trained again over new seeds (``search.confirm_seeds``).

The best of many noisy values is too good: it was chosen for its noise as well. So the search's two
best points are trained again, with seeds that took no part in the choice.

Decided here:

- both are trained at the longest length of the search, with the seeds ``search.seed + 1``,
  ``search.seed + 2``, ...; the keys are ``confirm-a-1`` (winner) and ``confirm-b-1`` (runner-up);
- the runner-up is the best training of the longest length at another point than the winner's; if
  there is none, the winner is confirmed alone;
- the point with the better mean over the new seeds wins, and at equal means the search's own winner.
  The values from the search itself do not count. A point of which more trainings diverged loses,
  whatever the mean of the others. If every training of both diverged, the search's winner stays,
  with a warning;
- the winner keeps the key and the value of its training in the search: its weights are those.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import NamedTuple, Protocol

from mmfixnorm.search.base_settings import SearchSettings
from mmfixnorm.search.methods.base import Best, Closed, Replay, Spec, best_of, better, make_stage
from mmfixnorm.search.methods.values import describe, values_of

#: Name of the stage. A search's own cost is that of all other stages.
CONFIRMATION = 'confirmation'
_ROLES = (('a', 'winner'), ('b', 'runner-up'))
_LEVEL = 0.95


class Trained(Protocol):
    """What became of a training: a :class:`.stages.Closed`, or a row of the table."""

    @property
    def key(self) -> str:
        """Its identity."""

    @property
    def value(self) -> float | None:
        """Its value; None if it diverged."""


class Confirmation(NamedTuple):
    """What the new seeds say of one point.

    Attributes:
        role: ``winner`` or ``runner-up`` in the search itself, before the new seeds.
        point: Its training in the search, with the key and the value there.
        seeds: Seeds of the new trainings that are closed.
        values: Their values; None for one that diverged.
        mean: Mean of the values; None while there is none.
        interval: 95 % interval of the mean by Student's t; None for fewer than two values.
        chosen: Whether it is the winner after all.
    """

    role: str
    point: Best
    seeds: list[int]
    values: list[float | None]
    mean: float | None
    interval: tuple[float, float] | None
    chosen: bool

    @property
    def diverged(self) -> int:
        """Number of new trainings that diverged."""
        return self.values.count(None)


def confirmations(replayed: Replay, trainings: Iterable[Trained]) -> list[Confirmation]:
    """What the new seeds say so far of the winner and the runner-up.

    Args:
        replayed (Replay): The search, from :func:`.planner.replay`.
        trainings (Iterable[Trained]): All of its trainings, e.g. ``record.closed()`` or the rows of
            :func:`.table.search_state`; those that are not closed yet are left out.

    Returns:
        list[Confirmation]: The winner of the search, then the runner-up; empty without
        ``search.confirm_seeds``, and as long as the search itself is not over.

    Example:
        >>> confirmations(Replay((), None, False, '', ()), [])
        []
    """
    if not replayed.contenders:
        return []
    stage = replayed.stages[-1]
    missing = {s.key for s in stage.missing}
    values = {t.key: t.value for t in trainings}
    shown = []
    for (letter, role), point in zip(_ROLES, replayed.contenders, strict=False):
        specs = [s for s in stage.specs if s.key.startswith(f'confirm-{letter}-') and s.key not in missing]
        of_point = [values[s.key] for s in specs]
        finite = [v for v in of_point if v is not None]
        shown.append(
            Confirmation(
                role=role,
                point=point,
                seeds=[s.seed for s in specs if s.seed is not None],
                values=of_point,
                mean=fmean(finite) if finite else None,
                interval=t_interval(finite) if len(finite) > 1 else None,
                chosen=replayed.finished and point == replayed.best,
            )
        )
    return shown


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of at least two values, by Student's t."""
    # Imported late: nothing else in a search needs it, and it takes a second.
    from scipy import stats

    mean, error = fmean(values), float(stats.sem(values))
    half = float(stats.t.ppf((1 + _LEVEL) / 2, len(values) - 1)) * error
    return mean - half, mean + half


def replay_confirm(settings: SearchSettings, replayed: Replay, closed: Mapping[str, Closed]) -> Replay:
    """Follow the new seeds, once the method itself is over."""
    if not settings.confirm_seeds or not replayed.finished or replayed.best is None:
        return replayed
    contenders = _contenders(settings, replayed, replayed.best, closed)
    stage = make_stage(CONFIRMATION, _specs(settings, contenders), closed, settings.rule)
    followed = replace(replayed, stages=(*replayed.stages, stage), contenders=contenders)
    if stage.missing:
        return replace(followed, finished=False)
    shown = confirmations(followed, closed.values())
    best, warnings = _chosen(settings.rule, shown)
    return replace(followed, best=best, warnings=(*replayed.warnings, *warnings))


def _contenders(
    settings: SearchSettings, replayed: Replay, winner: Best, closed: Mapping[str, Closed]
) -> tuple[Best, ...]:
    others = [
        closed[s.key]
        for stage in replayed.stages
        for s in stage.specs
        if s.fraction == settings.fractions[-1] and values_of(s) != values_of(winner)
    ]
    runner_up = best_of(settings.rule, others)
    return (winner, runner_up) if runner_up else (winner,)


def _specs(settings: SearchSettings, contenders: Sequence[Best]) -> list[Spec]:
    if settings.seed is None:
        raise ValueError('search.confirm_seeds needs search.seed')
    return [
        Spec(
            key=f'confirm-{letter}-{i}',
            stage=CONFIRMATION,
            lr=point.lr,
            alpha=point.alpha,
            fraction=settings.fractions[-1],
            weight_decay=point.weight_decay,
            seed=settings.seed + i,
        )
        for (letter, _), point in zip(_ROLES, contenders, strict=False)
        for i in range(1, settings.confirm_seeds + 1)
    ]


def _chosen(rule: str, shown: Sequence[Confirmation]) -> tuple[Best, list[str]]:
    first = shown[0]
    if all(c.mean is None for c in shown):
        return first.point, [f'every training with a new seed diverged: {describe(first.point)} is not confirmed']
    for second in shown[1:]:
        if _beats(rule, second, first):
            return second.point, [f'over the new seeds the runner-up, {second.point.key}, is better: it is the winner']
    return first.point, []


def _beats(rule: str, second: Confirmation, first: Confirmation) -> bool:
    if second.diverged != first.diverged:
        return second.diverged < first.diverged
    return second.mean is not None and first.mean is not None and better(rule, second.mean, first.mean)


def outline_confirm(settings: SearchSettings) -> list[tuple[str, int, float]]:
    """Its one stage, as if there were a runner-up."""
    n = settings.confirm_seeds
    return [(CONFIRMATION, 2 * n, settings.fractions[-1])] if n else []
