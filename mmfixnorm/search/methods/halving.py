"""Successive halving: many points in short trainings, the best of them again in longer ones.

Synchronous: a rung starts when the one before it has finished. The asynchronous form (ASHA) promotes
whichever training leads at the moment a worker is free, so its trainings depend on the order of
arrival and on the number of workers; here they depend on settings and results alone. The price is
that workers wait for the last training of a rung.

Decided here: of equal values the lower learning rate is promoted; a diverged training never is, so a
rung can be smaller than planned; the winner is the best of the last rung, whose trainings alone
have the full length.

Source: Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter
optimization"; the asynchronous form: Li et al. 2020, "A system for massively parallel hyperparameter
tuning".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils import checks
from mmfixnorm.search.methods.base import (
    Finished,
    Method,
    PlannedStage,
    Proposed,
    Replay,
    Spec,
    Stage,
    StageKind,
    all_diverged,
    make_stage,
    numbered,
    ranked,
)
from mmfixnorm.search.methods.sampled import SampledSearch, random_specs


@dataclass(frozen=True)
class SuccessiveHalvingSearch(SampledSearch):
    """Many points in short trainings; the best ``1 / reduction_factor`` are trained again at a longer length.

    A promoted training starts from scratch: a schedule that has run to its end at the shorter length cannot be
    continued. So each rung costs its trainings in full.

    Args:
        reduction_factor (int): eta, at least 2: of ``n`` points of a rung ``n // eta`` are promoted.
        schedule_fractions (list[float]): Length of each rung's trainings, as fractions of the
            config's own schedule, rising. The last one decides.

    Raises:
        ConfigError: A value breaks its rule; the message names the key, e.g. ``search.num_trials``.
    """

    kind: ClassVar[str] = 'SuccessiveHalvingSearch'

    num_trials: int = 27
    reduction_factor: int = 3
    schedule_fractions: tuple[float, ...] = (1 / 9, 1 / 3, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.integer('reduction_factor', self.reduction_factor, at_least=2)
        lengths = checks.fractions('schedule_fractions', self.schedule_fractions)
        if len(set(lengths)) != len(lengths):
            raise checks.fail('schedule_fractions', 'a list of numbers in (0, 1] that rise', self.schedule_fractions)
        self._set('schedule_fractions', lengths)
        if self.rung_sizes[-1] < 1:
            raise ConfigError(
                f'search.num_trials: must be at least {self.reduction_factor ** (len(lengths) - 1)}, so that the '
                f'last of {len(lengths)} rungs (search.schedule_fractions) has a training with '
                f'search.reduction_factor={self.reduction_factor}, got {self.num_trials}'
            )

    @property
    def fractions(self) -> tuple[float, ...]:
        return self.schedule_fractions

    @property
    def rung_sizes(self) -> tuple[int, ...]:
        """Trainings of each rung, if enough of them do not diverge."""
        eta = self.reduction_factor
        return tuple(self.num_trials // eta**rung for rung in range(len(self.schedule_fractions)))


def replay(settings: SuccessiveHalvingSearch, finished: Finished, proposed: Proposed) -> Replay:
    """Follow successive halving; ``rung1-07`` is the point of ``rung0-07`` in a longer training."""
    del proposed
    stages: list[Stage] = []
    keys = numbered('rung0', settings.num_trials)
    specs = random_specs(settings, 'rung 0', keys, settings.schedule_fractions[0])
    for rung in range(len(settings.rung_sizes)):
        if rung > 0:
            specs = _promoted(settings, specs, finished, rung)
        name, lr_range = f'rung {rung}', settings.known_lr_range
        stage = make_stage(name, StageKind.SAMPLES, specs, finished, settings.rule, lr_range=lr_range)
        stages.append(stage)
        best = stages[-2].best if rung > 0 and stage.best is None else stage.best
        if stage.missing:
            return Replay(tuple(stages), best)
        if stage.best is None:
            return Replay(tuple(stages), best, stuck=all_diverged(settings, stage.name, specs))
    return Replay(tuple(stages), stages[-1].best, finished=True)


def _promoted(settings: SuccessiveHalvingSearch, specs: list[Spec], finished: Finished, rung: int) -> list[Spec]:
    leading = ranked(settings.rule, [finished[s.key] for s in specs])[: settings.rung_sizes[rung]]
    promoted = {training.key for training in leading}
    return [
        replace(
            spec,
            key=spec.key.replace(f'rung{rung - 1}', f'rung{rung}', 1),
            stage=f'rung {rung}',
            fraction=settings.schedule_fractions[rung],
        )
        for spec in specs
        if spec.key in promoted
    ]


def planned_stages(settings: SuccessiveHalvingSearch) -> list[PlannedStage]:
    """List its rungs."""
    sizes = zip(settings.rung_sizes, settings.schedule_fractions, strict=True)
    return [PlannedStage(f'rung {rung}', size, fraction) for rung, (size, fraction) in enumerate(sizes)]


METHOD = Method(SuccessiveHalvingSearch, replay, planned_stages)
