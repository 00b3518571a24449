"""What the results of a search say about themselves, in sentences: how sure the winner is, and what was in vain.

Differences are compared with noise only as far as noise is known (:func:`known_noise`): from the new seeds of a
confirmation; else from the steps that the metric moves in, which are a part of it; else not at all. What is not known
is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import variance
from typing import NamedTuple

from mmfixnorm.search.methods.base import Spec, StageKind
from mmfixnorm.search.methods.confirm import confirmations
from mmfixnorm.search.problem import SearchProblem
from mmfixnorm.search.record.state import SearchState, duration, stage_costs
from mmfixnorm.search.record.study import Attempt
from mmfixnorm.search.report.curves import AlphaCurve, alpha_curves

_LEVEL = 0.95
_NAMED = 5  # trainings that a sentence names
_FEWEST_VALUES = 5  # from which the steps of a metric are read
_STEPS = 10_000  # a metric that has more of them over its values is no count of images
_ROUNDING = 1e-6  # of a metric in float32, relative


class Noise(NamedTuple):
    """By how much two trainings may differ by chance.

    Attributes:
        margin: A smaller difference says nothing.
        source: Where that is known from, as part of a sentence.
        from_seeds: Whether it is all of it, or the part that the steps of the metric make.
    """

    margin: float
    source: str
    from_seeds: bool


def remarks(problem: SearchProblem, state: SearchState, attempts: Sequence[Attempt]) -> list[str]:
    """Judge the winner, the alphas and the lost time; nothing to say is an empty list."""
    noise = known_noise(state)
    return [
        *filter(None, [state.replayed.conclusion]),
        *state.replayed.notes,
        *_about_rivals(state, noise),
        *_about_the_range_left(state),
        *_about_alphas(problem, state, noise),
        *_about_lost_time(problem, state, attempts),
    ]


def known_noise(state: SearchState) -> Noise | None:
    """Return the noise that the record knows; None if it knows none."""
    repeats = [[v for v in c.values if v is not None] for c in confirmations(state.replayed, state.rows)]
    repeats = [values for values in repeats if len(values) > 1]
    if repeats:
        # Imported late, as in `confirm.py`.
        from scipy import stats

        freedom = sum(len(values) - 1 for values in repeats)
        sd = math.sqrt(sum((len(values) - 1) * variance(values) for values in repeats) / freedom)
        margin = float(stats.t.ppf((1 + _LEVEL) / 2, freedom)) * math.sqrt(2) * sd
        number = sum(map(len, repeats))
        return Noise(margin, f'trainings with {number} new seeds have a standard deviation of {sd:.3g}', True)
    step = step_of(row.value for row in state.rows if row.value is not None)
    return None if step is None else Noise(step, f'the metric moves in steps of {step:.3g}', False)


def step_of(values: Iterable[float]) -> float | None:
    """Return the step that all differences of the values are multiples of, as of an accuracy on few images.

    Returns:
        float | None: None if there is none that is coarse enough to be seen, or too few different values.

    Example:
        >>> step_of([50.0, 52.5, 57.5, 60.0, 70.0])
        2.5
        >>> step_of([0.5123, 0.5234, 0.5471, 0.5513, 0.6021]) is None
        True
    """
    rising = sorted(set(values))
    if len(rising) < _FEWEST_VALUES:
        return None
    tolerance = _ROUNDING * max(map(abs, rising))
    step = 0.0
    for low, high in pairwise(rising):
        step = _common_divisor(step, high - low, 10 * tolerance)
    span = rising[-1] - rising[0]
    if step <= 20 * tolerance or span / step > _STEPS / 100 * len(rising):
        return None
    # The divisor has summed up rounding; the span has the least of it.
    return span / round(span / step)


def _common_divisor(a: float, b: float, tolerance: float) -> float:
    while b > tolerance:
        a, b = b, a % b
        if a - b < tolerance:  # a remainder that is the divisor but for rounding
            b = 0.0
    return a


def _about_rivals(state: SearchState, noise: Noise | None) -> list[str]:
    """Say how far the others of the winner's length are behind it."""
    best = state.best
    specs = _searched(state)
    if best is None:
        return []
    rivals = [
        row
        for row in state.rows
        if row.value is not None
        and row.key in specs
        and row.point != best.point
        and specs[row.key].fraction == specs[best.key].fraction
    ]
    if not rivals:
        return []
    close = [row.key for row in rivals if noise and row.value is not None and _within(row.value - best.value, noise)]
    named = ', '.join(close[:_NAMED]) + (', ...' if len(close) > _NAMED else '')
    some = f'{len(close)} of the {len(rivals)} others of its length ({named})'
    if noise and noise.from_seeds:
        why = f'values that differ by less than {noise.margin:.3g} may do so by chance, since {noise.source}'
        return [f'The winner is within noise of {some}: {why}.'] if close else []
    gap = min(abs(row.value - best.value) for row in rivals if row.value is not None)
    if noise and close:
        difference = f'{some} differ from it by at most one step, and {noise.source}'
    else:
        difference = f'the nearest of the {len(rivals)} others of its length differs from it by {gap:.3g}'
    return [
        f'Whether the winner is better than the others is not known: {difference}. Nothing here says how much the same '
        'training differs from seed to seed; with search.confirm_seeds the winner and the runner-up are trained again.'
    ]


def _about_the_range_left(state: SearchState) -> list[str]:
    """Say if the winner is at the upper end that shorter trainings have left of the range."""
    best = state.best
    rounds = [stage for stage in state.replayed.stages if stage.kind is StageKind.LR and stage.lr_range]
    if best is None or len(rounds) < 2 or rounds[-1].missing:
        return []
    last, before = rounds[-1], rounds[-2]
    upper = last.lr_range[1] if last.lr_range else math.inf
    tried = max(spec.point.lr for stage in rounds for spec in stage.specs)
    shorter = before.specs[0].fraction < last.specs[0].fraction
    if not shorter or best.point.lr != upper or upper == tried:
        return []
    return [
        f'The learning rate of the winner, {upper:g}, is the highest that {before.name} left to {last.name}: '
        f'the best may lie above if the shorter trainings of {before.name} chose by chance; longer ones choose better '
        '(search.schedule_fractions).'
    ]


def _about_alphas(problem: SearchProblem, state: SearchState, noise: Noise | None) -> list[str]:
    """Say where alpha makes no difference: one sentence for each learning rate whose alphas were all tried."""
    if state.replayed.best is None:
        return []
    curves = alpha_curves(state, problem.settings.rule)
    return [text for curve in curves if (text := _about_alpha(curve, noise))]


def _about_alpha(curve: AlphaCurve, noise: Noise | None) -> str:
    longest = max(curve.lengths, default=0.0)
    known = [
        (alpha, value)
        for alpha, value, length in zip(curve.alphas, curve.values, curve.lengths, strict=True)
        if value is not None and length == longest
    ]
    if len(known) < 2:
        return ''
    values = [value for _, value in known]
    spread = max(values) - min(values)
    among = f'at lr {curve.lr:g} the {len(known)} alphas from {known[0][0]:g} to {known[-1][0]:g}'
    if spread == 0:
        return (
            f'Alpha made no difference: {among} gave exactly the same value. '
            'The bound was probably never reached, and the trainings are the same.'
        )
    if noise and _within(spread, noise):
        return (
            f'The figure over alpha is flat: {among} differ by at most {spread:.3g}, which is within noise '
            f'({noise.source}).'
        )
    same = [alpha for alpha, value in known if value == values[-1]]
    if len(same) > 1 and same == [alpha for alpha, _ in known[-len(same) :]]:
        return (
            f'At lr {curve.lr:g} the alphas from {same[0]:g} on gave exactly the same value: '
            'from there the bound was probably never reached.'
        )
    return ''


def _about_lost_time(problem: SearchProblem, state: SearchState, attempts: Sequence[Attempt]) -> list[str]:
    """Say what attempts without a value have taken."""
    stages = stage_costs(problem, attempts)
    lost, lost_seconds = sum(s.lost for s in stages), sum(s.lost_seconds for s in stages)
    diverged = [row for row in state.rows if row.outcome == 'diverged']
    texts = []
    if lost:
        texts.append(
            f'{_count(lost, "attempt")} ended without a result, after {_share(lost_seconds, state)}: '
            'the table of trials says why.'
        )
    if diverged:
        spent = _share(sum(row.seconds for row in diverged), state)
        lowest = min(row.point.lr for row in diverged)
        texts.append(
            f'{_count(len(diverged), "training")} of {len(state.rows)} diverged, after {spent}; '
            f'the lowest learning rate among them is {lowest:g}.'
        )
    return texts


def _count(number: int, noun: str) -> str:
    return f'{number} {noun}' + ('' if number == 1 else 's')


def _share(seconds: float, state: SearchState) -> str:
    part = f', {seconds / state.trial_seconds:.0%} of the time of all trials' if state.trial_seconds else ''
    return f'{duration(seconds)}{part}'


def _within(difference: float, noise: Noise) -> bool:
    return abs(difference) <= noise.margin * (1 + 1e-3)  # a step is known to a few digits


def _searched(state: SearchState) -> dict[str, Spec]:
    """Return the trainings of the search itself, by key; those over new seeds are left out."""
    stages = (stage for stage in state.replayed.stages if stage.kind is not StageKind.CONFIRMATION)
    return {spec.key: spec for stage in stages for spec in stage.specs}
