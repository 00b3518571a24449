"""A search's trials as rows, and how far it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mmfixnorm.errors import ConfigError
from mmfixnorm.search.methods.confirm import CONFIRMATION
from mmfixnorm.search.planner import Best, Replay, better, replay
from mmfixnorm.search.problem import SearchProblem
from mmfixnorm.search.record.study import Attempt, StudyRecord, closed_trainings


class Row(NamedTuple):
    """One trial. ``cost`` is in T_max, ``length`` in epochs or iterations, times in seconds."""

    key: str
    stage: str
    outcome: str
    lr: float
    alpha: float | None
    weight_decay: float | None
    cost: float
    length: int
    value: float | None
    attempts: int
    seconds: float
    message: str


class Progress(NamedTuple):
    """Best value so far after each closed training, against the cost so far in T_max."""

    cost: list[float]
    best: list[float | None]


class StageCost(NamedTuple):
    """What one stage has cost; costs in T_max, times in seconds.

    Attributes:
        name: E.g. ``round 0``.
        trainings: Those that are closed.
        planned: Those that the stage has at most; None where only their sum over stages is planned.
        cost: Of the closed trainings.
        planned_cost: Of the planned ones.
        seconds: Of all attempts.
        lost: Attempts that did not close their training: failed or cancelled.
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
    """Where a search stands."""

    rows: list[Row]
    replayed: Replay
    best: Best | None
    cost: float
    planned_cost: float
    trial_seconds: float
    wall_seconds: float


def search_state(problem: SearchProblem, record: StudyRecord) -> SearchState:
    """Compute where a search stands from its record.

    Raises:
        ConfigError: The record is not that of these settings.
    """
    try:
        replayed = replay(problem.settings, record.history())
    except ValueError as err:
        raise ConfigError(
            f'--work-dir: {str(problem.work_dir)!r} does not fit the search block of {problem.filename}: {err}'
        ) from err
    rows = trial_rows(record.attempts)
    order = {s.key: i for i, s in enumerate(s for stage in replayed.stages for s in stage.specs)}
    rows.sort(key=lambda row: order.get(row.key, len(order)))
    ends = [a.ended for a in record.attempts]
    return SearchState(
        rows=rows,
        replayed=replayed,
        best=replayed.best,
        cost=ledger(record.attempts)[-1] if record.attempts else 0.0,
        planned_cost=sum(cost for _, _, cost in problem.outline_cost()),
        trial_seconds=sum(row.seconds for row in rows),
        wall_seconds=(max(ends) - record.created).total_seconds() if ends else 0.0,
    )


def trial_rows(attempts: Sequence[Attempt]) -> list[Row]:
    """One row for each trial, with the outcome of its last attempt."""
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
        lr=last.spec.lr,
        alpha=last.spec.alpha,
        weight_decay=last.spec.weight_decay,
        cost=last.cost,
        length=last.result.length,
        value=last.result.value,
        attempts=len(attempts),
        seconds=sum(a.result.seconds for a in attempts),
        message=last.result.message,
    )


def ledger(attempts: Sequence[Attempt]) -> list[float]:
    """Cost so far after each attempt, in T_max.

    A training counts once, when it is closed: a later attempt goes on from the checkpoints of an
    earlier one.
    """
    total, costs = 0.0, []
    for attempt in attempts:
        if closed_trainings([attempt]):
            total += attempt.cost
        costs.append(round(total, 9))
    return costs


def stage_costs(problem: SearchProblem, attempts: Sequence[Attempt]) -> list[StageCost]:
    """The ledger by stage, in the order of the plan; see :func:`ledger` for what counts."""
    planned = {name: (number, cost) for name, number, cost in problem.outline_cost()}
    by_stage: dict[str, list[Attempt]] = {name: [] for name in planned}
    for attempt in attempts:
        by_stage.setdefault(attempt.spec.stage, []).append(attempt)
    costs = []
    for name, of_stage in by_stage.items():
        lost = [a for a in of_stage if not closed_trainings([a])]
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


def progress(attempts: Sequence[Attempt], rule: str) -> Progress:
    """Best value so far against cost, in the order in which trainings were closed.

    Without the confirmation: it costs the same for every method, and chooses by means.
    """
    attempts = [a for a in attempts if a.spec.stage != CONFIRMATION]
    best: float | None = None
    cost, values = [], []
    for attempt, spent in zip(attempts, ledger(attempts), strict=True):
        value = attempt.result.value
        if value is not None and (best is None or better(rule, value, best)):
            best = value
        if closed_trainings([attempt]):
            cost.append(spent)
            values.append(best)
    return Progress(cost, values)
