"""Where a search stands: its trials as rows, and what it has cost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from mmfixnorm.errors import ConfigError
from mmfixnorm.search.executors.claim import claim_file, note_file
from mmfixnorm.search.methods.base import Best, Point, Replay, StageKind, better
from mmfixnorm.search.planner import replay
from mmfixnorm.search.problem import SearchProblem
from mmfixnorm.search.record.study import Attempt, StudyRecord, is_finished

_NUMBER = re.compile(r'\d+(\.\d+)?(e[+-]?\d+)?')


class Row(NamedTuple):
    """One trial. ``cost`` and ``spent`` are in T_max, ``length`` in epochs or iterations, times in seconds.

    ``spent`` is 0 where the training is another trial's, ``same_as``, and was not done again, and less than ``cost``,
    its length, where it continues the training of another trial, ``forked_from``.
    """

    key: str
    stage: str
    outcome: str
    point: Point
    cost: float
    length: int
    value: float | None
    attempts: int
    seconds: float
    message: str
    spent: float
    same_as: str
    forked_from: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for the events."""
        row = self._asdict()
        point = row.pop('point')
        return {**row, **point.to_dict()}


class Progress(NamedTuple):
    """Best value so far after each finished training, against the cost so far in T_max."""

    cost: list[float]
    best: list[float | None]


class StageCost(NamedTuple):
    """What one stage has cost; costs in T_max, times in seconds.

    Attributes:
        name: E.g. ``round 0``.
        trainings: Finished trainings.
        planned: Trainings that the stage has at most; None where only their sum over stages is planned.
        cost: Of the finished trainings.
        planned_cost: Of the planned ones.
        seconds: Of all attempts.
        lost: Attempts that did not finish their training: failed or cancelled.
        lost_seconds: Their time.
    """

    name: str
    trainings: int
    planned: int | None
    cost: float
    planned_cost: float | None
    seconds: float
    lost: int
    lost_seconds: float


class SearchState(NamedTuple):
    """Where a search stands.

    Attributes:
        rows: Its trials, in the order of the plan.
        replayed: The search as far as the record tells it.
        best: The best of the finished stages.
        progress: The best value so far against cost.
        warnings: What the user should know about the result, then what was warned of in trainings.
        cost: What has finished, in T_max.
        planned_cost: What is planned at most, in T_max.
        saved_cost: What need not be trained, as another training is the same or was the same so far, in T_max.
        trial_seconds: Time of all trials, in seconds.
        finished_seconds: Time of the attempts that finished their training, in seconds.
        wall_seconds: Time from the start of the search to its last result, in seconds.
    """

    rows: list[Row]
    replayed: Replay
    best: Best | None
    progress: Progress
    warnings: list[str]
    cost: float
    planned_cost: float
    saved_cost: float
    trial_seconds: float
    finished_seconds: float
    wall_seconds: float


def search_state(problem: SearchProblem, record: StudyRecord) -> SearchState:
    """Compute where a search stands from its record.

    Raises:
        ConfigError: The record belongs to other settings.
    """
    try:
        replayed = replay(problem.settings, record.history())
    except ValueError as err:
        raise ConfigError(
            f'--work-dir: {str(problem.work_dir)!r} does not fit the search block of {problem.filename}: {err}'
        ) from err
    replayed = _while_trials_run(problem, record, replayed)
    rows = trial_rows(record.attempts)
    order = {s.key: i for i, s in enumerate(s for stage in replayed.stages for s in stage.specs)}
    rows.sort(key=lambda row: order.get(row.key, len(order)))
    ends = [a.ended for a in record.attempts]
    return SearchState(
        rows=rows,
        replayed=replayed,
        best=replayed.best,
        progress=progress(record.attempts, replayed, problem.settings.rule),
        warnings=[*replayed.warnings, *trial_warnings(record.attempts)],
        cost=ledger(record.attempts)[-1] if record.attempts else 0.0,
        planned_cost=problem.planned_cost,
        saved_cost=round(sum(a.cost - a.spent for a in record.attempts), 9),
        trial_seconds=sum(row.seconds for row in rows),
        finished_seconds=sum(a.result.seconds for a in record.attempts if is_finished(a)),
        wall_seconds=(max(ends) - record.created).total_seconds() if ends else 0.0,
    )


def _while_trials_run(problem: SearchProblem, record: StudyRecord, replayed: Replay) -> Replay:
    """Return a search that its budget ends as unfinished, while trials that have begun may still change its end."""
    left = replayed.stages[-1].missing if replayed.stages and (replayed.finished or replayed.stuck) else ()
    claims = [claim_file(problem.trial_dir(spec.key), record.next_attempt(spec.key)) for spec in left]
    if not any(claim.exists() or note_file(claim).exists() for claim in claims):
        return replayed
    return replace(replayed, finished=False, stuck='', conclusion='')


def trial_warnings(attempts: Sequence[Attempt]) -> list[str]:
    """List what trainings warned of, each kind of warning once, with the trial that had it first."""
    of_kind: dict[str, str] = {}
    for attempt in attempts:
        for text in attempt.result.warnings:
            kind = _NUMBER.sub('#', text)  # the warnings of two trainings may differ in numbers
            of_kind.setdefault(kind, f'{attempt.spec.key}: {text}')
    return list(of_kind.values())


def trial_rows(attempts: Sequence[Attempt]) -> list[Row]:
    """Make one row for each trial, with the outcome of its last attempt."""
    by_key: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        by_key.setdefault(attempt.spec.key, []).append(attempt)
    return [_row(of_key) for of_key in by_key.values()]


def _row(attempts: Sequence[Attempt]) -> Row:
    last = attempts[-1]
    return Row(
        key=last.spec.key,
        stage=last.spec.stage,
        outcome=last.result.outcome,
        point=last.spec.point,
        cost=last.cost,
        length=last.result.length,
        value=last.result.value,
        attempts=len(attempts),
        seconds=sum(a.result.seconds for a in attempts),
        message=last.result.message,
        spent=last.spent,
        same_as=last.result.same_as,
        forked_from=last.result.forked_from,
    )


def ledger(attempts: Sequence[Attempt]) -> list[float]:
    """Return the cost so far after each attempt, in T_max.

    A training counts once, when it has finished: a later attempt continues from the checkpoints of an
    earlier one.
    """
    total, costs = 0.0, []
    for attempt in attempts:
        if is_finished(attempt):
            total += attempt.spent
        costs.append(round(total, 9))
    return costs


def stage_costs(problem: SearchProblem, attempts: Sequence[Attempt]) -> list[StageCost]:
    """Split the ledger by stage, in the order of the plan; see :func:`ledger` for what counts."""
    planned = {name: (number, cost) for name, number, cost in problem.planned_costs()}
    by_stage: dict[str, list[Attempt]] = {name: [] for name in planned}
    for attempt in attempts:
        by_stage.setdefault(attempt.spec.stage, []).append(attempt)
    costs = []
    for name, of_stage in by_stage.items():
        lost = [a for a in of_stage if not is_finished(a)]
        number, planned_cost = planned.get(name, (None, None))
        costs.append(
            StageCost(
                name=name,
                trainings=len(of_stage) - len(lost),
                planned=number,
                cost=ledger(of_stage)[-1] if of_stage else 0.0,
                planned_cost=planned_cost,
                seconds=sum(a.result.seconds for a in of_stage),
                lost=len(lost),
                lost_seconds=sum(a.result.seconds for a in lost),
            )
        )
    return costs


def progress(attempts: Sequence[Attempt], replayed: Replay, rule: str) -> Progress:
    """Return the best value so far against cost, in the order in which trainings finished.

    Without the confirmation: it costs the same for every method, and chooses by means.
    """
    confirming = replayed.keys_of(StageKind.CONFIRMATION)
    attempts = [a for a in attempts if a.spec.key not in confirming]
    best: float | None = None
    cost, values = [], []
    for attempt, spent in zip(attempts, ledger(attempts), strict=True):
        value = attempt.result.value
        if value is not None and (best is None or better(rule, value, best)):
            best = value
        if is_finished(attempt):
            cost.append(spent)
            values.append(best)
    return Progress(cost, values)


def summary_line(problem: SearchProblem, state: SearchState) -> str:
    """Name the winner or the best so far, and its cost."""
    saved = f', {state.saved_cost:g} saved' if state.saved_cost else ''
    spent = f'{state.cost:g} of {state.planned_cost:g} T_max{saved}, {state.wall_seconds:.0f} s'
    if state.replayed.stuck:
        return f'no winner: {state.replayed.stuck} ({spent})'
    if state.best is None:
        return f'no stage has finished yet ({spent})'
    which = 'winner' if state.replayed.finished else 'best of the finished stages'
    metric = f'{problem.settings.metric} {state.best.value:g}'
    return f'{which}: {state.best.point}: {metric} ({spent})'


def duration(seconds: float) -> str:
    """Write ``3725`` as ``1 h 2 min 5 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, 'h'), (minutes, 'min'), (rest, 's')]
    return ' '.join(f'{n} {unit}' for n, unit in parts if n) or '0 s'
