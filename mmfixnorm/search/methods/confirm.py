"""The winner and the runner-up trained again over new seeds (``search.confirm_seeds``).

The best of many noisy values is too good: it was chosen for its noise as well. So the search's two
best points are trained again, with seeds that took no part in the choice.

Decided here:

- both are trained at the longest length of the search, with the seeds ``search.seed + 1``,
  ``search.seed + 2``, ...; the keys are ``confirm-a-1`` (winner) and ``confirm-b-1`` (runner-up);
- the runner-up is the best training of the longest length at another point than the winner's; if
  there is none, the winner is confirmed alone;
- a method that judges how sure its choice is (``LRFitSearch``) names the runner-up, the one that is most probably
  better; where none may be, nothing is trained again;
- the point with the better mean over the new seeds wins, and at equal means the search's own winner.
  The values from the search itself do not count. A point of which more trainings diverged loses,
  whatever the mean of the others. If every training of both diverged, the search's winner stays,
  with a warning;
- the winner keeps the key and the value of its training in the search: its weights are those.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import NamedTuple

from mmfixnorm.search.methods.base import (
    Best,
    Finished,
    PlannedStage,
    Replay,
    Rivals,
    Spec,
    StageKind,
    Valued,
    best_of,
    better,
    make_stage,
)
from mmfixnorm.search.settings import SearchSettings

STAGE = 'confirmation'
"""Name of the stage of the new seeds."""

_ROLES = (('a', 'winner'), ('b', 'runner-up'))
_LEVEL = 0.95


class Confirmation(NamedTuple):
    """What the new seeds say of one point.

    Attributes:
        role: ``winner`` or ``runner-up`` in the search itself, before the new seeds.
        training: Its training in the search, with the key and the value there.
        seeds: Seeds of the new trainings that have finished.
        values: Their values; None for one that diverged.
        mean: Mean of the values; None while there is none.
        interval: 95 % interval of the mean by Student's t; None for fewer than two values.
        chosen: Whether it is the winner after all.
    """

    role: str
    training: Best
    seeds: list[int]
    values: list[float | None]
    mean: float | None
    interval: tuple[float, float] | None
    chosen: bool

    @property
    def diverged(self) -> int:
        """Number of new trainings that diverged."""
        return self.values.count(None)


def confirmations(replayed: Replay, trainings: Iterable[Valued]) -> list[Confirmation]:
    """Summarise what the new seeds say so far of the winner and the runner-up.

    Args:
        replayed (Replay): The search, from :func:`mmfixnorm.search.planner.replay`.
        trainings (Iterable[Valued]): All of its trainings, e.g. ``record.finished()`` or the rows of a
            :class:`mmfixnorm.search.record.state.SearchState`; unfinished trainings are left out.

    Returns:
        list[Confirmation]: The winner of the search, then the runner-up; empty without
        ``search.confirm_seeds``, and as long as the search itself is not over.

    Example:
        >>> confirmations(Replay(()), [])
        []
    """
    if not replayed.contenders:
        return []
    stage = replayed.stages[-1]
    missing = {s.key for s in stage.missing}
    values = {t.key: t.value for t in trainings}
    confirmed = []
    for (letter, role), training in zip(_ROLES, replayed.contenders, strict=False):
        specs = [s for s in stage.specs if s.key.startswith(f'confirm-{letter}-') and s.key not in missing]
        of_point = [values[s.key] for s in specs]
        finite = [v for v in of_point if v is not None]
        confirmed.append(
            Confirmation(
                role=role,
                training=training,
                seeds=[s.seed for s in specs if s.seed is not None],
                values=of_point,
                mean=fmean(finite) if finite else None,
                interval=t_interval(finite) if len(finite) > 1 else None,
                chosen=replayed.finished and training == replayed.best,
            )
        )
    return confirmed


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of at least two values, by Student's t."""
    # Imported late: nothing else in a search needs it, and it takes a second.
    from scipy import stats

    mean, error = fmean(values), float(stats.sem(values))
    half = float(stats.t.ppf((1 + _LEVEL) / 2, len(values) - 1)) * error
    return mean - half, mean + half


def replay_confirmation(settings: SearchSettings, replayed: Replay, finished: Finished) -> Replay:
    """Follow the new seeds, once the method itself is over."""
    winner = replayed.best
    if not settings.confirm_seeds or not replayed.finished or winner is None:
        return replayed
    if replayed.rivals is not None and not _begun_otherwise(replayed.rivals, winner, finished):
        again = 'both are trained again' if replayed.rivals.trainings else 'nothing is trained again'
        note = f'search.confirm_seeds: {again}, since {replayed.rivals.why}'
        decided = not replayed.rivals.trainings
        replayed = replace(replayed, notes=(*replayed.notes, note))
        if decided:
            return replayed
    else:
        replayed = replace(replayed, rivals=None)
    contenders = _contenders(settings, replayed, winner, finished)
    stage = make_stage(STAGE, StageKind.CONFIRMATION, _specs(settings, contenders), finished, settings.rule)
    followed = replace(replayed, stages=(*replayed.stages, stage), contenders=contenders)
    if stage.missing:
        return replace(followed, finished=False)
    best, warnings = _chosen(settings.rule, confirmations(followed, finished.values()))
    conclusion = replayed.conclusion if best == winner else ''  # it is about the other one
    return replace(followed, best=best, warnings=(*replayed.warnings, *warnings), conclusion=conclusion)


def _begun_otherwise(rivals: Rivals, winner: Best, finished: Finished) -> bool:
    """Return whether a record is from before a method judged its choice, and has confirmed what it would not."""
    again = {winner.point, *(rival.point for rival in rivals.trainings)} if rivals.trainings else set()
    return any(t.point not in again for key, t in finished.items() if key.startswith('confirm-'))


def planned_confirmation(settings: SearchSettings) -> list[PlannedStage]:
    """List its one stage, as if there were a runner-up."""
    n = settings.confirm_seeds
    return [PlannedStage(STAGE, 2 * n, settings.fractions[-1])] if n else []


def _contenders(settings: SearchSettings, replayed: Replay, winner: Best, finished: Finished) -> tuple[Best, ...]:
    if replayed.rivals is not None:
        return winner, *replayed.rivals.trainings[: len(_ROLES) - 1]
    others = [
        finished[s.key]
        for stage in replayed.stages
        for s in stage.specs
        if s.fraction == settings.fractions[-1] and s.point != winner.point
    ]
    runner_up = best_of(settings.rule, others)
    return (winner, runner_up) if runner_up else (winner,)


def _specs(settings: SearchSettings, contenders: Sequence[Best]) -> list[Spec]:
    if settings.seed is None:
        raise ValueError('search.confirm_seeds needs search.seed')
    return [
        Spec(f'confirm-{letter}-{i}', STAGE, contender.point, settings.fractions[-1], seed=settings.seed + i)
        for (letter, _), contender in zip(_ROLES, contenders, strict=False)
        for i in range(1, settings.confirm_seeds + 1)
    ]


def _chosen(rule: str, confirmed: Sequence[Confirmation]) -> tuple[Best, list[str]]:
    first = confirmed[0]
    if all(c.mean is None for c in confirmed):
        return first.training, [f'every training with a new seed diverged: {first.training.point} is not confirmed']
    for second in confirmed[1:]:
        if _beats(rule, second, first):
            text = f'over the new seeds the runner-up, {second.training.key}, is better: it is the winner'
            return second.training, [text]
    return first.training, []


def _beats(rule: str, second: Confirmation, first: Confirmation) -> bool:
    if second.diverged != first.diverged:
        return second.diverged < first.diverged
    return second.mean is not None and first.mean is not None and better(rule, second.mean, first.mean)
