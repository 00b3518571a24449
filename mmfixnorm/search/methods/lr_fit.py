"""Three trainings and a fit: the search for those who know no learning rate and have no time for a sweep.

The first trainings are the config's own learning rate and the middle of the range; each later one is where a curve
through the values so far, see :mod:`mmfixnorm.search._utils.lr_curve`, promises most over what is trained. The winner
is the training whose *fitted* value is best: a lucky value beside worse neighbours does not win. It can be the config's
own, and none that is more than five times the noise below the best value: there the curve does not fit.

Decided here:

- there are no short trainings: on small tasks they have learnt nothing, or prefer other learning rates, see
  ``docs/tuning.md``;
- the two first trainings are at least 0.75 octaves apart: a middle of the range that is nearer is replaced by twice the
  config's own learning rate, which says more than half of it, as the curve is steeper there; a budget with room for one
  alone has half an octave less than the middle of the range, away from the cliff, or the config's own learning rate
  where that is near the middle;
- of the learning rates that promise nearly as much as the best one, that which is nearest to the best training is next;
- another training is started only if the curve expects more than a quarter of the noise from it, and the budget allows
  it;
- while all trainings diverged, the next learning rate is a quarter of the lowest;
- an alpha replaces the first one only if it is better by more than the noise: alphas are no reason to try one's luck;
- with ``search.confirm_seeds``, the winner and the learning rate that is most probably better are trained again if
  that probability is above 20 %; else the choice is decided. Of an alpha that has won, the first alpha is the rival;
- with ``search.extend``, after the last of these trainings, while the fitted best is the highest or lowest learning
  rate that was tried and the top is beyond it with a probability of more than 70 %, another training is an octave
  beyond: three times at most, and within the budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mmfixnorm.search._utils import checks
from mmfixnorm.search._utils.lr_curve import LRCurve
from mmfixnorm.search.methods.base import (
    EXTENSION_FACTOR,
    EXTENSIONS,
    Best,
    Finished,
    FinishedTraining,
    Method,
    PlannedStage,
    Point,
    Proposed,
    Replay,
    Rivals,
    Spec,
    Stage,
    StageKind,
    all_diverged,
    best_of,
    extension_note,
    make_stage,
)
from mmfixnorm.search.settings import AUTO, SearchSettings

_OPENING, _IN_OPENING = 'opening', 2  # the name of the first stage, and its trainings
_APART = 0.75  # octaves between the two first learning rates
_ALONE = 2**-0.5  # of the middle of the range: a training that no other one could correct
_NEAR = 0.4  # octaves: so close to a training another one says nothing new
_REACH = (-3.0, 2.5)  # octaves around the middle of the range in which trainings are proposed
_NEARLY = 0.9  # of the largest gain: the nearest learning rate with so much is tried, as the curve may be wrong
_WORTH = 0.25  # of the noise: less is not worth a training
_LUCK = 5.0  # of the noise: no luck makes up for more, so the curve is wrong where it says so
_OPEN = 0.2  # probability of being the best from which a training is a rival of the winner
_SURE = 0.7  # probability that the top is beyond what was tried, from which that is told


@dataclass(frozen=True)
class LRFitSearch(SearchSettings):
    """The config's own learning rate, the middle of the range, and what a curve through them promises.

    Args:
        lr_range (tuple[float, float] or str): ``(lr_min, lr_max)``, or ``'auto'``: measured first.
        num_trainings (int): Full trainings over the learning rate at most, at least 2.
        alphas (list[float], optional): The first one is that of the trainings over the learning rate; the others are
            tried at the best one. None leaves alpha as it is in the config.
        noise (float): Standard deviation of the metric between seeds, as a part of its best value.
        budget (float or str, optional): Cost of the search at most, in T_max, the ramp included: it chooses its
            trainings by it, so another one is another search. A time such as ``'8h'`` ends the search alone.
        extend (bool): Continue beyond what was tried while the best probably lies there.

    Raises:
        ConfigError: A value breaks its rule; the message names the key, e.g. ``search.num_trainings``.
    """

    kind: ClassVar[str] = 'LRFitSearch'
    plans_by_budget: ClassVar[bool] = True

    lr_range: tuple[float, float] | str = AUTO
    num_trainings: int = 3
    alphas: tuple[float, ...] | None = None
    noise: float = 0.02
    extend: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set('lr_range', checks.lr_range(self.lr_range))
        checks.integer('num_trainings', self.num_trainings, at_least=2)
        if self.alphas is not None:
            self._set('alphas', checks.distinct_positives('alphas', self.alphas))
        self._set('noise', checks.positive('noise', self.noise))
        if self.noise >= 1:
            raise checks.fail('noise', 'a part of the best value below 1, such as 0.02', self.noise)
        checks.boolean('extend', self.extend)
        if self.budget_t_max is not None and self.budget_t_max < 1:
            raise checks.fail('budget', 'a finite number >= 1, in lengths of one training', self.budget)

    @property
    def alpha_keys(self) -> tuple[str, ...]:
        return super().alpha_keys if self.alphas is not None else ()

    @property
    def fractions(self) -> tuple[float, ...]:
        return (1.0,)

    @property
    def needs_own_lr(self) -> bool:
        return True

    @property
    def winner_has_best_value(self) -> bool:
        return False


class _Course:
    """The trainings of a search so far, and what follows from them."""

    def __init__(self, settings: LRFitSearch, finished: Finished) -> None:
        if settings.own_lr is None:
            raise ValueError('the search needs the learning rate of the config')
        self.settings = settings
        self.finished = finished
        self.own = settings.own_lr
        self.lr_range = settings.known_lr_range
        self.middle = math.sqrt(math.prod(self.lr_range))
        self.alpha = settings.alphas[0] if settings.alphas else None

    def left(self, planned: int) -> int:
        """Trainings that the budget allows after ``planned`` ones."""
        if self.settings.budget_t_max is None:
            return self.settings.num_trainings + EXTENSIONS + len(self.settings.alphas or ())
        return math.floor(self.settings.budget_t_max + 1e-9) - planned

    def opening(self) -> list[Spec]:
        """The first trainings; one alone, where the budget has room for no other, is below the middle of the range."""
        other = self.middle
        if near := abs(math.log2(self.own / self.middle)) < _APART:
            other = self.own * (2.0 if self.own * 2.0 <= self.lr_range[1] else 0.5)
        lrs = [self.own, _rounded(other)]
        if self.left(0) == 1:
            lrs = lrs[:1] if near else [_rounded(self.middle * _ALONE)]
        return [self.spec(i, lr) for i, lr in enumerate(lrs)]

    def spec(self, number: int, lr: float) -> Spec:
        stage = _OPENING if number < _IN_OPENING else f'lr {number + 1}'
        return Spec(f'lr-{number}', stage, Point(lr, self.alpha), 1.0)

    def beyond(self, number: int, lr: float) -> Spec:
        return Spec(f'beyond-{number}', f'beyond {number}', Point(lr, self.alpha), 1.0)

    def stage(self, name: str, kind: StageKind, specs: Sequence[Spec]) -> Stage:
        return make_stage(name, kind, specs, self.finished, self.settings.rule, lr_range=self.lr_range)


def curve_of(settings: LRFitSearch, trainings: Sequence[FinishedTraining]) -> LRCurve | None:
    """Fit the curve to full trainings; None while all of them diverged."""
    if all(training.value is None for training in trainings):
        return None
    lrs, values = [t.point.lr for t in trainings], [t.value for t in trainings]
    middle = math.sqrt(math.prod(settings.known_lr_range))
    return LRCurve(lrs, values, middle, settings.rule, settings.noise)


def replay(settings: LRFitSearch, finished: Finished, proposed: Proposed) -> Replay:
    """Follow the trainings over the learning rate, then those over alpha."""
    course = _Course(settings, finished)
    specs = course.opening()
    stages = [course.stage(_OPENING, StageKind.LR, specs)]
    notes: list[str] = []
    while True:
        best = _fitted_best(settings, [finished[s.key] for s in specs if s.key in finished])
        trained = [finished[s.key] for s in specs if s.key in finished]
        if stages[-1].missing:
            so_far = best if len(stages) > 1 else None
            return Replay(tuple(stages), so_far, notes=tuple(notes), conclusion=_conclusion(settings, trained, best))
        lr_key, beyond_key = f'lr-{len(specs)}', f'beyond-{_extensions(trained) + 1}'
        if spec := proposed.get(lr_key) or proposed.get(beyond_key):
            if spec.key == beyond_key and best is not None:
                end = 'highest' if spec.point.lr > best.point.lr else 'lowest'
                number = _extensions(trained) + 1
                notes.append(extension_note(stages[-1].name, best.point.lr, end, spec.point.lr, number))
            specs.append(spec)
            stages.append(course.stage(spec.stage, StageKind.LR, [spec]))
        elif _next_lr(course, trained) is not None:
            return Replay(tuple(stages), best, unproposed=(lr_key,))
        elif _lr_beyond(course, trained) is not None:
            return Replay(tuple(stages), best, unproposed=(beyond_key,), notes=tuple(notes))
        else:
            break
    if best is None:
        return Replay(tuple(stages), stuck=all_diverged(settings, 'the search', specs))
    rivals = _rivals(settings, trained, best)
    conclusion = _conclusion(settings, trained, best)
    alphas = [
        Spec(f'alpha-{i}', 'alpha', Point(best.point.lr, alpha), 1.0)
        for i, alpha in enumerate((settings.alphas or ())[1:], start=1)
    ]
    if alphas:
        stages.append(course.stage('alpha', StageKind.ALPHA, alphas))
        first, tried = best, [finished[s.key] for s in alphas if s.key in finished]
        best = _beyond_noise(settings, first, best_of(settings.rule, tried))
        if best != first:
            rivals = _rival_alpha(settings, best, first)
            conclusion += f'; alpha {best.point.alpha:g} gives {best.value:.4g} there, more than the noise above that'
    return Replay(
        tuple(stages),
        best,
        finished=not stages[-1].missing,
        warnings=tuple(_warnings(course, trained, best)),
        conclusion=conclusion,
        notes=tuple(notes),
        rivals=rivals,
    )


def propose(settings: LRFitSearch, finished: Sequence[FinishedTraining], keys: Sequence[str]) -> list[Spec]:
    """Make the next training over the learning rate."""
    course = _Course(settings, {training.key: training for training in finished})
    rates = [t for t in finished if t.key.startswith(('lr-', 'beyond-'))]
    trained = sorted(rates, key=lambda t: (t.key.startswith('beyond-'), int(t.key.split('-')[1])))
    specs = []
    if (lr := _next_lr(course, trained)) is not None:
        specs = [course.spec(len(trained), lr)]
    elif (lr := _lr_beyond(course, trained)) is not None:
        specs = [course.beyond(_extensions(trained) + 1, lr)]
    if tuple(spec.key for spec in specs) != tuple(keys):
        raise ValueError(f'nothing is worth a training as {keys}')
    return specs


def _extensions(trained: Sequence[FinishedTraining]) -> int:
    return sum(t.key.startswith('beyond-') for t in trained)


def _lr_beyond(course: _Course, trained: Sequence[FinishedTraining]) -> float | None:
    """Return the learning rate with which a search continues beyond what was tried; None if it does not."""
    settings = course.settings
    best = _fitted_best(settings, trained)
    if not settings.extend or best is None or _extensions(trained) >= EXTENSIONS or course.left(len(trained)) < 1:
        return None
    end = _open_end(settings, trained, best)
    factor = {'highest': EXTENSION_FACTOR, 'lowest': 1 / EXTENSION_FACTOR, '': 0.0}[end]
    return _rounded(best.point.lr * factor) if end else None


def _next_lr(course: _Course, trained: Sequence[FinishedTraining]) -> float | None:
    """Return the learning rate that promises most; None if there is no training left or worth it."""
    no_more = len(trained) >= course.settings.num_trainings or _extensions(trained) > 0
    if no_more or course.left(len(trained)) < 1:
        return None
    curve = curve_of(course.settings, trained)
    if curve is None:
        return _rounded(min(t.point.lr for t in trained) / 4)
    low, high = _REACH
    octaves = [low + k / 4 for k in range(round(4 * (high - low)) + 1)]
    candidates = [course.middle * 2.0**octave for octave in octaves]
    candidates = [lr for lr in candidates if all(abs(math.log2(lr / t.point.lr)) > _NEAR for t in trained)]
    over = max((t.point.lr for t in trained), key=curve.rank)
    gains = {lr: curve.gain(lr, over) for lr in candidates}
    most = max(gains.values(), default=0.0)
    if most <= _WORTH * curve.noise:
        return None
    good = [lr for lr, gain in gains.items() if gain >= _NEARLY * most]
    return _rounded(min(good, key=lambda lr: abs(math.log2(lr / over))))


def _fitted_best(settings: LRFitSearch, trained: Sequence[FinishedTraining]) -> Best | None:
    """Return the training whose fitted value is best, of those whose own value could be so by luck."""
    curve = curve_of(settings, trained) if trained else None
    top = best_of(settings.rule, trained)
    if curve is None or top is None:
        return None
    near = [t for t in trained if t.value is not None and abs(t.value - top.value) <= _LUCK * curve.noise]
    return best_of(settings.rule, [max(near, key=lambda t: curve.rank(t.point.lr))])


def _beyond_noise(settings: LRFitSearch, first: Best, other: Best | None) -> Best:
    if other is None:
        return first
    sign = 1 if settings.rule == 'greater' else -1
    return other if sign * (other.value - first.value) > settings.noise * abs(first.value) else first


def _rivals(settings: LRFitSearch, trained: Sequence[FinishedTraining], best: Best) -> Rivals:
    """Judge by the curve whether another learning rate that was trained may be the best."""
    curve = curve_of(settings, trained)
    candidates = [t for t in trained if t.value is not None]
    if curve is None or len(candidates) < 2:
        return Rivals((), f'lr {best.point.lr:g} is the only one with a value')
    chances = curve.chances_best([t.point.lr for t in candidates])
    of_best = sum(p for p, t in zip(chances, candidates, strict=True) if t.key == best.key)
    others = [(p, best_of(settings.rule, [t])) for p, t in zip(chances, candidates, strict=True) if t.key != best.key]
    chance, rival = max(others, key=lambda entry: entry[0])
    if rival is None:
        raise ValueError('a training with a value has no best')
    why = (
        f'by the fit lr {best.point.lr:g} is the best of the {len(candidates)} with {of_best:.0%} probability, '
        f'lr {rival.point.lr:g} with {chance:.0%}'
    )
    return Rivals((rival,) if chance > _OPEN else (), why)


def _rival_alpha(settings: LRFitSearch, best: Best, first: Best) -> Rivals:
    """Judge by the noise whether the first alpha may be better than one that has won."""
    noise = settings.noise * abs(first.value)
    chance = 0.5 * math.erfc(abs(best.value - first.value) / noise / 2) if noise else 0.0
    alphas = f'alpha {first.point.alpha:g} is better than {best.point.alpha:g}'
    why = f'by the noise {alphas} with {chance:.0%} probability'
    return Rivals((first,) if chance > _OPEN else (), why)


def _open_end(settings: LRFitSearch, trained: Sequence[FinishedTraining], best: Best) -> str:
    """Return which end of what was tried, ``'highest'`` or ``'lowest'``, the top probably lies beyond, or ''."""
    curve = curve_of(settings, trained)
    lrs = [t.point.lr for t in trained]
    if curve is None or len(set(lrs)) < 2 or best.point.lr not in (min(lrs), max(lrs)):
        return ''
    end = 'highest' if best.point.lr == max(lrs) else 'lowest'
    beyond = curve.chance_beyond(best.point.lr)
    return end if (beyond if end == 'highest' else 1 - beyond) > _SURE else ''


def _warnings(course: _Course, trained: Sequence[FinishedTraining], best: Best) -> list[str]:
    settings = course.settings
    if len(trained) > 1 and len({t.value for t in trained}) == 1:
        return []  # of ties is warned for every method, see edges.py
    end = _open_end(settings, trained, best)
    if not end:
        return []
    remedies = [
        'raise search.budget' if course.left(len(trained)) < 1 else '',
        'raise search.num_trainings' if len(trained) == settings.num_trainings else '',
        '' if settings.extend else 'set search.extend=True',
    ]
    remedy = ' or '.join(filter(None, remedies)) or 'search around it'
    return [
        f'the best learning rate probably lies {"above" if end == "highest" else "below"} {best.point.lr:g}, the {end} '
        f'that was tried: {remedy}, in another --work-dir'
    ]


def _conclusion(settings: LRFitSearch, trained: Sequence[FinishedTraining], best: Best | None) -> str:
    """Say in one sentence how sure the choice of the learning rate is; nothing while there is none."""
    curve = curve_of(settings, trained) if trained else None
    if curve is None or best is None:
        return ''
    fitted, own = curve.at(best.point.lr), settings.own_lr
    text = f'lr {best.point.lr:g} gives {fitted.mean:.4g} +- {fitted.sd:.2g} by the fit, {best.value:.4g} as trained'
    if own is None or best.point.lr == own:
        lrs = sorted({t.point.lr for t in trained})
        if len(lrs) == 1:
            return f"{text}; it is the config's own, and nothing else was tried"
        chance = curve.chances_best(lrs)[lrs.index(best.point.lr)]
        return f"{text}; it is the config's own, and the best of the {len(lrs)} tried with {chance:.0%} probability"
    return f"{text}; with {curve.chance_better(best.point.lr, own):.0%} probability it beats the config's own, {own:g}"


def _rounded(value: float) -> float:
    return float(f'{value:.3g}')


def planned_stages(settings: LRFitSearch) -> list[PlannedStage]:
    """List its stages, each with as many trainings as the budget allows."""
    budget = math.inf if settings.budget_t_max is None else math.floor(settings.budget_t_max)
    later = range(_IN_OPENING + 1, settings.num_trainings + 1)
    sizes = [(_OPENING, _IN_OPENING), *((f'lr {n}', 1) for n in later)]
    if settings.extend:
        sizes += [(f'beyond {number}', 1) for number in range(1, EXTENSIONS + 1)]
    sizes.append(('alpha', max(0, len(settings.alphas or ()) - 1)))
    stages = []
    for name, size in sizes:
        allowed = int(min(size, budget))
        budget -= allowed
        if allowed:
            stages.append(PlannedStage(name, allowed, 1.0))
    return stages


METHOD = Method(LRFitSearch, replay, planned_stages, propose)
