"""What every method is made of: points, trainings, stages, and the choice of the best training.

A method is one file in this package. It holds the settings of its ``search`` block, how its trainings follow from the
results so far (its replay), and the stages it plans; it ends with a :class:`Method`, which is entered in the table of
the package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar

from mmfixnorm.search._utils.keys import is_key

if TYPE_CHECKING:
    from mmfixnorm.search.settings import SearchSettings

#: ``search.extend``: how often at most a search continues beyond an end of its range, and by which factor of the
#: learning rate where its own spacing is not a factor.
EXTENSIONS, EXTENSION_FACTOR = 3, 2.0


@dataclass(frozen=True)
class Point:
    """The numbers that a search tunes, in the order in which they are shown.

    Attributes:
        lr: Learning rate.
        alpha: Bound of the FixNorm layer; None leaves it as in the config.
        weight_decay: Weight decay; None leaves it as in the config.
        others: Pairs of a dotted key of the config and its number, by key: those of ``search.space``.

    Example:
        >>> str(Point(0.5, alpha=4.0))
        'lr 0.5, alpha 4'
        >>> str(Point(0.5, others=(('model.head.dropout', 0.1),)))
        'lr 0.5, dropout 0.1'
    """

    lr: float
    alpha: float | None = None
    weight_decay: float | None = None
    others: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(cls, values: Mapping[str, float]) -> Point:
        """Make the point of these numbers by name, as :attr:`values` has them."""
        others = tuple(sorted((name, value) for name, value in values.items() if is_key(name)))
        return cls(values['lr'], values.get('alpha'), values.get('weight_decay'), others)

    @property
    def values(self) -> dict[str, float]:
        """The numbers that are set, by name."""
        named = {'lr': self.lr, 'alpha': self.alpha, 'weight_decay': self.weight_decay}
        return {name: value for name, value in named.items() if value is not None} | dict(self.others)

    def cells(self, names: Iterable[str]) -> list[str]:
        """Return these numbers as the cells of a table; a number that is not set is an empty cell."""
        values = self.values
        return [f'{values[name]:g}' if name in values else '' for name in names]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; without ``others`` where there are none, as in records of before."""
        others = {'others': dict(self.others)} if self.others else {}
        return {'lr': self.lr, 'alpha': self.alpha, 'weight_decay': self.weight_decay, **others}

    def __str__(self) -> str:
        values = self.values
        return ', '.join(f'{name} {value:g}' for name, value in zip(titles(values), values.values(), strict=True))


def title(name: str) -> str:
    """Return the name of a number as people read it: ``weight decay``; a key of the config stays as it is."""
    return name if is_key(name) else name.replace('_', ' ')


def titles(names: Iterable[str]) -> list[str]:
    """Return the names as the heads of columns: of a key of the config as many last parts as tell it from the others.

    Example:
        >>> titles(['lr', 'model.head.dropout', 'optim_wrapper.optimizer.betas.0', 'optim_wrapper.optimizer.betas.1'])
        ['lr', 'dropout', 'betas.0', 'betas.1']
    """
    names = list(names)
    return [_last_parts(name, names) if is_key(name) else title(name) for name in names]


def _last_parts(key: str, among: Sequence[str]) -> str:
    parts = key.split('.')
    ends = ['.'.join(parts[i:]) for i in reversed(range(len(parts)))]
    unique = (end for end in ends if sum(f'.{name}'.endswith(f'.{end}') for name in among) == 1)
    return next((end for end in unique if not end[0].isdigit()), key)


@dataclass(frozen=True)
class Spec:
    """One training to do.

    Attributes:
        key: Its identity, e.g. ``r0-k3``, ``alpha-2``, ``grid-03``.
        stage: Name of the stage that it belongs to, e.g. ``round 0``.
        point: The tuned numbers.
        fraction: Length asked for, as a fraction of the config's own schedule.
        seed: Seed of the training, or None for ``search.seed``.
        is_ramp: Whether it raises the learning rate through a few iterations to measure a range, and has no value.
    """

    key: str
    stage: str
    point: Point
    fraction: float
    seed: int | None = None
    is_ramp: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as in ``spec.json``, the record and the events."""
        rest = {'fraction': self.fraction, 'seed': self.seed, **({'is_ramp': True} if self.is_ramp else {})}
        return {'key': self.key, 'stage': self.stage, **self.point.to_dict(), **rest}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Spec:
        """Read :meth:`to_dict`; entries that are not part of a spec are ignored.

        Raises:
            KeyError: An entry is missing.
        """
        rest = data.get('seed'), data.get('is_ramp', False)
        return cls(data['key'], data['stage'], point_in(data), data['fraction'], *rest)


def point_in(data: Mapping[str, Any]) -> Point:
    """Read the point in plain data such as ``spec.json``; early records have no weight decay.

    Raises:
        KeyError: There is no learning rate or no alpha.
    """
    return Point(data['lr'], data['alpha'], data.get('weight_decay'), tuple(sorted(data.get('others', {}).items())))


@dataclass(frozen=True)
class FinishedTraining:
    """A training that needs no other attempt.

    Attributes:
        key: Its identity.
        point: The tuned numbers.
        value: The metric; None if it diverged, or is a ramp of the learning rate.
        lr_range: What a ramp has measured.
        cost: What it has cost, in T_max; None for its length.
        seconds: Wall-clock time of its attempts.
    """

    key: str
    point: Point
    value: float | None
    lr_range: tuple[float, float] | None = None
    cost: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Best:
    """The best of some trainings; its value is finite."""

    key: str
    point: Point
    value: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for the events."""
        return {'key': self.key, **self.point.to_dict(), 'value': self.value}


#: What a record knows: finished trainings, and points that were proposed from results. A proposal is kept because it
#: cannot be computed again bit by bit elsewhere.
History: TypeAlias = Iterable[FinishedTraining | Spec]


class StageKind(Enum):
    """What the trainings of a stage differ in."""

    RAMP = 'ramp'  #: nothing: it is one ramp of the learning rate
    LR = 'lr'
    ALPHA = 'alpha'
    GRID = 'grid'  #: learning rate and alpha
    SAMPLES = 'samples'  #: points that were drawn or proposed
    CONFIRMATION = 'confirmation'  #: the seed; not part of the search's own cost


@dataclass(frozen=True)
class Stage:
    """Some trainings that are started together, and the best of them once all have finished.

    Attributes:
        name: As people read it, e.g. ``round 0``.
        kind: What its trainings differ in.
        specs: The trainings.
        missing: The trainings that have not finished.
        best: The best of them; None while one is missing, or if all diverged.
        lr_range: The learning rates that the stage searches; None if its trainings say it all.
    """

    name: str
    kind: StageKind
    specs: tuple[Spec, ...]
    missing: tuple[Spec, ...]
    best: Best | None
    lr_range: tuple[float, float] | None = None


class PlannedStage(NamedTuple):
    """A stage before anything has run: at most so many trainings, each of this fraction of the schedule.

    The fraction of a ramp of the learning rate is 0: its length is a number of iterations.
    """

    name: str
    trainings: int
    fraction: float


class Rivals(NamedTuple):
    """Which trainings may be better than the winner, in the judgement of a method; none if it is decided.

    Attributes:
        trainings: They, most probable first.
        why: How sure that is, as part of a sentence.
    """

    trainings: tuple[Best, ...]
    why: str


@dataclass(frozen=True)
class Replay:
    """A search as far as a history tells it.

    Attributes:
        stages: All stages up to and including the first unfinished one.
        best: The best so far, from finished stages only.
        finished: Nothing is left to train.
        stuck: Why the search cannot continue, or ''.
        warnings: What the user should know about the result.
        unproposed: Keys of the next stage, where its points must be proposed before it can start.
        conclusion: How sure the choice of the winner is, in one sentence, if the method knows.
        notes: What the search has decided by itself, such as to continue beyond its range, in sentences.
        rivals: What may be better than the winner; None if the method does not judge that.
        contenders: The winner and the runner-up of the search itself, where they are trained again over new seeds, see
            :mod:`.confirm`.
    """

    stages: tuple[Stage, ...]
    best: Best | None = None
    finished: bool = False
    stuck: str = ''
    warnings: tuple[str, ...] = ()
    unproposed: tuple[str, ...] = ()
    conclusion: str = ''
    notes: tuple[str, ...] = ()
    rivals: Rivals | None = None
    contenders: tuple[Best, ...] = ()

    def keys_of(self, *kinds: StageKind) -> set[str]:
        """Return the keys of all trainings in stages of these kinds."""
        return {spec.key for stage in self.stages if stage.kind in kinds for spec in stage.specs}


#: Finished trainings, or proposed ones, by key.
Finished: TypeAlias = Mapping[str, FinishedTraining]
Proposed: TypeAlias = Mapping[str, Spec]


class Method(NamedTuple):
    """A method of search: one entry of the table in :mod:`mmfixnorm.search.methods`.

    Attributes:
        settings: The class of its ``search`` block; ``kind`` is its name there.
        replay: Follows a search through its finished trainings; a pure function.
        planned_stages: Its stages before anything has run; the numbers are upper bounds.
        propose: For a method whose points depend on results by more than comparisons: makes the points for some keys
            from the finished trainings.
        check: Raises a ConfigError if this machine lacks what the method needs.
    """

    settings: type[SearchSettings]
    replay: Callable[[Any, Finished, Proposed], Replay]
    planned_stages: Callable[[Any], list[PlannedStage]]
    propose: Callable[[Any, Sequence[FinishedTraining], Sequence[str]], list[Spec]] | None = None
    check: Callable[[Any], None] | None = None


class Valued(Protocol):
    """A training with its value: a :class:`FinishedTraining`, or a row of a table."""

    @property
    def key(self) -> str:
        """Its identity."""

    @property
    def point(self) -> Point:
        """Its point."""

    @property
    def value(self) -> float | None:
        """Its value; None if it diverged or has none yet."""


_Valued = TypeVar('_Valued', bound=Valued)


def better(rule: str, value: float, than: float) -> bool:
    """Return whether ``value`` is strictly better."""
    return value > than if rule == 'greater' else value < than


def ranked(rule: str, trainings: Iterable[_Valued]) -> list[_Valued]:
    """Sort the trainings that did not diverge, best first; of equal values the lower learning rate comes first."""
    sign = -1 if rule == 'greater' else 1
    finite = [(sign * t.value, t.point.lr, i, t) for i, t in enumerate(trainings) if t.value is not None]
    return [t for *_, t in sorted(finite, key=lambda entry: entry[:3])]


def best_of(rule: str, trainings: Iterable[Valued]) -> Best | None:
    """Return the best training that did not diverge; of equal values the lower learning rate wins."""
    for t in ranked(rule, trainings)[:1]:
        if t.value is not None:
            return Best(t.key, t.point, t.value)
    return None


def stands_alone(best: Valued, trainings: Iterable[Valued]) -> bool:
    """Return whether no training at another point has the value of ``best``."""
    return all(t.value != best.value or t.point == best.point for t in trainings)


def extension_note(stage: str, lr: float | None, end: str, beyond: float, number: int) -> str:
    """Say that a search continues beyond the end of its range, ``'highest'`` or ``'lowest'``.

    Args:
        stage (str): After which stage.
        lr (float, optional): The best learning rate so far; None if all diverged.
        end (str): At which end it lies.
        beyond (float): What is tried now.
        number (int): Which extension, from 1.
    """
    why = (
        'all that was tried diverged' if lr is None else f'its best learning rate, {lr:g}, is the {end} that was tried'
    )
    return f'{stage}: {why}, so {beyond:g} is tried as well (search.extend, {number} of at most {EXTENSIONS})'


def make_stage(
    name: str,
    kind: StageKind,
    specs: Sequence[Spec],
    finished: Finished,
    rule: str,
    *,
    lr_range: tuple[float, float] | None = None,
) -> Stage:
    """Make a stage with what is known of its trainings.

    Raises:
        ValueError: A finished training has another point than its spec.
    """
    for spec in specs:
        known = finished.get(spec.key)
        if known and known.point != spec.point:
            raise ValueError(f'the history has {spec.key} with {known.point}; the plan asks for {spec.point}')
    missing = tuple(s for s in specs if s.key not in finished)
    best = None if missing else best_of(rule, [finished[s.key] for s in specs])
    return Stage(name, kind, tuple(specs), missing, best, lr_range)


def one_stage(settings: SearchSettings, stage: Stage) -> Replay:
    """Follow a search that is one stage."""
    if stage.missing:
        return Replay((stage,))
    if stage.best is None:
        return Replay((stage,), stuck=all_diverged(settings, stage.name, stage.specs))
    return Replay((stage,), stage.best, finished=True)


def setting_of(settings: SearchSettings, name: str) -> str:
    """Name the key of the ``search`` block that says which values of a tuned number are tried."""
    if is_key(name):
        return f'space.{name}'
    return f'{name}s' if getattr(settings, f'{name}s', None) is not None else f'{name}_range'


def all_diverged(settings: SearchSettings, name: str, specs: Sequence[Spec]) -> str:
    """Say why a search cannot continue from a stage without any value."""
    lrs = [s.point.lr for s in specs]
    return (
        f'all {len(lrs)} trainings of {name} diverged (lr {min(lrs)} to {max(lrs)}): '
        f'lower search.{setting_of(settings, "lr")}, or look into the log of one of them'
    )


def numbered(prefix: str, total: int) -> list[str]:
    """Make keys such as ``grid-00`` for ``total`` trainings, all of one width."""
    width = max(2, len(str(total - 1)))
    return [f'{prefix}-{i:0{width}d}' for i in range(total)]
