"""Successive halving: many points in short trainings, the best of them in longer ones.

Synchronous: a rung starts when the one before it is closed. The asynchronous form (ASHA) promotes
whichever training leads at the moment a worker is free, so its trainings depend on the order of
arrival and on the number of workers; here they depend on settings and results alone. The price is
that workers wait for the last training of a rung.

Decided here: of equal values the lower learning rate goes on; a diverged training never does, so a
rung can be smaller than planned; the winner is the best of the last rung, whose trainings alone
have the full length.

Source: Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter
optimization"; the asynchronous form: Li et al. 2020, "A system for massively parallel hyperparameter
tuning".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mmfixnorm.search.methods.base import Closed, Replay, Spec, Stage, all_diverged, make_stage, numbered, ranked
from mmfixnorm.search.methods.random_points import random_specs
from mmfixnorm.search.methods.sampled import SuccessiveHalvingSearch


def replay_halving(
    settings: SuccessiveHalvingSearch, closed: Mapping[str, Closed], asked: Mapping[str, Spec]
) -> Replay:
    """Follow successive halving; ``rung1-07`` is the point of ``rung0-07`` in a longer training."""
    del asked
    stages: list[Stage] = []
    keys = numbered('rung0', settings.num_trials)
    specs = random_specs(settings, 'rung 0', keys, settings.schedule_fractions[0])
    for rung in range(len(settings.rung_sizes)):
        if rung > 0:
            specs = _promoted(settings, specs, closed, rung)
        stage = make_stage(f'rung {rung}', specs, closed, settings.rule)
        stages.append(stage)
        best = stages[-2].best if rung > 0 and stage.best is None else stage.best
        if stage.missing:
            return Replay(tuple(stages), best, False, '', ())
        if stage.best is None:
            return Replay(tuple(stages), best, False, all_diverged(stage.name, specs), ())
    return Replay(tuple(stages), stages[-1].best, True, '', ())


def _promoted(
    settings: SuccessiveHalvingSearch, specs: list[Spec], closed: Mapping[str, Closed], rung: int
) -> list[Spec]:
    leading = ranked(settings.rule, [closed[s.key] for s in specs])[: settings.rung_sizes[rung]]
    going_on = {c.key for c in leading}
    return [
        replace(
            spec,
            key=spec.key.replace(f'rung{rung - 1}', f'rung{rung}', 1),
            stage=f'rung {rung}',
            fraction=settings.schedule_fractions[rung],
        )
        for spec in specs
        if spec.key in going_on
    ]


def outline_halving(settings: SuccessiveHalvingSearch) -> list[tuple[str, int, float]]:
    """Its rungs."""
    sizes = zip(settings.rung_sizes, settings.schedule_fractions, strict=True)
    return [(f'rung {rung}', size, fraction) for rung, (size, fraction) in enumerate(sizes)]
