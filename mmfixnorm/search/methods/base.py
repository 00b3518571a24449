"""What the planner is made of: trainings, their stages, and which training is the best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mmfixnorm.search.methods.values import describe, values_of


@dataclass(frozen=True)
class Spec:
    """One training to do.

    Attributes:
        key: Its identity, e.g. ``r0-k3``, ``alpha-2``, ``grid-03``.
        stage: The part of the search it belongs to, e.g. ``round 0``.
        lr: Learning rate.
        alpha: Bound of the FixNorm layer, or None where alpha is left as in the config.
        fraction: Length asked for, in parts of the config's own schedule.
        weight_decay: Weight decay, or None where it is left as in the config.
        seed: Seed of the training, or None for ``search.seed``.
    """

    key: str
    stage: str
    lr: float
    alpha: float | None
    fraction: float
    weight_decay: float | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Closed:
    """A training that needs no other attempt; ``value`` is None if it diverged."""

    key: str
    lr: float
    alpha: float | None
    value: float | None
    weight_decay: float | None = None


@dataclass(frozen=True)
class Best:
    """The best of some trainings; its value is finite."""

    key: str
    lr: float
    alpha: float | None
    value: float
    weight_decay: float | None = None


#: What a record knows: trainings that are closed, and points that were proposed from results.
#: A proposal is kept because it cannot be computed again bit by bit elsewhere.
History: TypeAlias = Iterable[Closed | Spec]


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
        best: The best so far, from closed stages only.
        finished: Nothing is left to train.
        stuck: Why the search cannot go on, or ''.
        warnings: What the user should know about the result.
        unproposed: Keys of the next stage, where its points must be proposed before it can start.
        contenders: The winner and the runner-up of the search itself, where they are trained again
            over new seeds, see :mod:`.confirm`.
    """

    stages: tuple[Stage, ...]
    best: Best | None
    finished: bool
    stuck: str
    warnings: tuple[str, ...]
    unproposed: tuple[str, ...] = ()
    contenders: tuple[Best, ...] = ()


def better(rule: str, value: float, than: float) -> bool:
    """Whether ``value`` is strictly better."""
    return value > than if rule == 'greater' else value < than


def ranked(rule: str, trainings: Iterable[Closed]) -> list[Closed]:
    """The trainings that did not diverge, best first; of equal ones the lower learning rate first."""
    sign = -1 if rule == 'greater' else 1
    finite = [(sign * t.value, t.lr, i, t) for i, t in enumerate(trainings) if t.value is not None]
    return [t for *_, t in sorted(finite, key=lambda entry: entry[:3])]


def best_of(rule: str, trainings: Iterable[Closed]) -> Best | None:
    """The best training that did not diverge; of equal ones that with the lower learning rate."""
    for t in ranked(rule, trainings)[:1]:
        if t.value is not None:
            return Best(t.key, t.lr, t.alpha, t.value, t.weight_decay)
    return None


def make_stage(name: str, specs: Sequence[Spec], closed: Mapping[str, Closed], rule: str) -> Stage:
    """A stage with what is known of its trainings.

    Raises:
        ValueError: A closed training has other values than its spec.
    """
    for spec in specs:
        known = closed.get(spec.key)
        if known and values_of(known) != values_of(spec):
            raise ValueError(f'the history has {spec.key} with {describe(known)}; the plan asks for {describe(spec)}')
    missing = tuple(s for s in specs if s.key not in closed)
    best = None if missing else best_of(rule, [closed[s.key] for s in specs])
    return Stage(name, tuple(specs), missing, best)


def one_stage(name: str, specs: Sequence[Spec], closed: Mapping[str, Closed], rule: str) -> Replay:
    """A search that is one stage."""
    stage = make_stage(name, specs, closed, rule)
    if stage.missing:
        return Replay((stage,), None, False, '', ())
    if stage.best is None:
        return Replay((stage,), None, False, all_diverged(name, specs), ())
    return Replay((stage,), stage.best, True, '', ())


def all_diverged(name: str, specs: Sequence[Spec]) -> str:
    """Why a search cannot go on from a stage without any value."""
    lrs = [s.lr for s in specs]
    return (
        f'all {len(lrs)} trainings of {name} diverged (lr {min(lrs)} to {max(lrs)}): '
        'lower search.lr_range, or look into the log of one of them'
    )


def edge_warnings(best: Best, lrs: Iterable[float]) -> list[str]:
    """A warning if the best has the lowest or the highest learning rate of a grid of several."""
    rising = sorted(set(lrs))
    return [
        f'the best learning rate, {best.lr}, is the {end} end of the grid: the grid is probably too small'
        for end, lr in (('lower', rising[0]), ('upper', rising[-1]))
        if len(rising) > 1 and best.lr == lr
    ]


def numbered(prefix: str, total: int) -> list[str]:
    """Keys such as ``grid-00`` for ``total`` trainings, all of one width."""
    width = max(2, len(str(total - 1)))
    return [f'{prefix}-{i:0{width}d}' for i in range(total)]
