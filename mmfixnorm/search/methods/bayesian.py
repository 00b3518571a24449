"""Bayesian optimisation: points proposed in batches, each from all results before it.

Following a search (:func:`replay`) is a pure function of settings and history, as for every method. Making a proposal
(:func:`propose`) is one as well, but only on one machine with one set of library versions: a Gaussian process is fitted
in floating point. So a proposed batch is written to the record before any of it is submitted, belongs to the history
from then on, and is never computed again.

Decided here:

- the sampler sees a diverged training as the worst finite value so far, or as 0 while there is none: if such trainings
  were ignored, it would return to where training diverges;
- inside a batch, a point just proposed counts as a training whose value is the mean of the observed values (a constant
  liar), so that the next one lies elsewhere, with every version of optuna;
- random points first, the same that :class:`.sampled.RandomSearch` draws.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils import checks
from mmfixnorm.search.methods.base import (
    Best,
    Finished,
    FinishedTraining,
    Method,
    PlannedStage,
    Point,
    Proposed,
    Replay,
    Spec,
    Stage,
    StageKind,
    all_diverged,
    best_of,
    make_stage,
    numbered,
)
from mmfixnorm.search.methods.sampled import OneLengthSearch, random_point

if TYPE_CHECKING:
    import optuna  # imported where a point is proposed: that takes half a second
    from optuna.distributions import BaseDistribution

_BEFORE_ANY_VALUE = 0.0
_NEEDED = {'gp': ('scipy', 'torch'), 'tpe': ()}


@dataclass(frozen=True)
class BayesianSearch(OneLengthSearch):
    """Bayesian optimisation: each batch is proposed from all results of the batches before it.

    The baseline of Table 1 (``BO + WD``) with ``weight_decay_range``. Not more than ``batch_size``
    trainings run at a time; further ``workers`` stay idle.

    Args:
        sampler (str): ``'gp'``, a Gaussian process with expected improvement, or ``'tpe'``.
        num_startup_trials (int): Points that are drawn as in :class:`RandomSearch` before
            the first proposal; the first batch always is.
        batch_size (int): Points proposed together. It is part of the search's identity: other
            batches give other points. The number of workers changes no point.
        schedule_fraction (float): Length of the trainings, as a fraction of the config's own schedule.

    Raises:
        ConfigError: A value breaks its rule; the message names the key, e.g. ``search.sampler``.
    """

    kind: ClassVar[str] = 'BayesianSearch'

    sampler: str = 'gp'
    num_startup_trials: int = 5
    batch_size: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.one_of('sampler', self.sampler, ('gp', 'tpe'))
        checks.integer('num_startup_trials', self.num_startup_trials, at_least=1)
        checks.integer('batch_size', self.batch_size, at_least=1)


def check_sampler(settings: BayesianSearch) -> None:
    """Check that the packages of the sampler are installed.

    Raises:
        ConfigError: One is missing; the message names it.
    """
    for package in _NEEDED[settings.sampler]:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"search.sampler: {settings.sampler!r} needs {package}: pip install {package}, or use sampler='tpe'"
            )


def _batches(settings: BayesianSearch) -> list[list[str]]:
    keys = numbered('bo', settings.num_trials)
    return [keys[i : i + settings.batch_size] for i in range(0, len(keys), settings.batch_size)]


def replay(settings: BayesianSearch, finished: Finished, proposed: Proposed) -> Replay:
    """Follow Bayesian optimisation through the points that were proposed."""
    stages: list[Stage] = []
    best: Best | None = None
    for number, keys in enumerate(_batches(settings)):
        if any(key not in proposed for key in keys):
            return Replay(tuple(stages), best, unproposed=tuple(keys))
        specs = [proposed[key] for key in keys]
        name, lr_range = f'batch {number}', settings.known_lr_range
        stages.append(make_stage(name, StageKind.SAMPLES, specs, finished, settings.rule, lr_range=lr_range))
        if stages[-1].missing:
            return Replay(tuple(stages), best)
        best = best_of(settings.rule, filter(None, (best, stages[-1].best)))
    if best is None:
        specs = [s for stage in stages for s in stage.specs]
        return Replay(tuple(stages), stuck=all_diverged(settings, 'the search', specs))
    return Replay(tuple(stages), best, finished=True)


def planned_stages(settings: BayesianSearch) -> list[PlannedStage]:
    """List all of its trainings as one stage."""
    return [PlannedStage('trials', settings.num_trials, settings.schedule_fraction)]


def propose(settings: BayesianSearch, finished: Sequence[FinishedTraining], keys: Sequence[str]) -> list[Spec]:
    """Propose the points of a batch.

    Args:
        settings (BayesianSearch): The search.
        finished (Sequence[FinishedTraining]): The trainings of all earlier batches, in any order.
        keys (Sequence[str]): The batch, as the planner asks for it.

    Returns:
        list[Spec]: One training for each key, in that order.
    """
    number = [batch[0] for batch in _batches(settings)].index(keys[0])
    first = number * settings.batch_size
    startup = max(settings.num_startup_trials, settings.batch_size)
    study = None if first + len(keys) <= startup else _observed_study(settings, finished, number)
    specs = []
    for index, key in enumerate(keys, start=first):
        if study is None or index < startup:
            point = random_point(settings, index)
            if study is not None:
                study.add_trial(_observed(settings, point, _mean(study)))
        else:
            point = _suggest(settings, study)
        specs.append(Spec(key, f'batch {number}', point, settings.schedule_fraction))
    return specs


def observed_values(rule: str, finished: Sequence[FinishedTraining]) -> list[float]:
    """Return what a sampler sees of these trainings: finite values, and the worst of them for a diverged one."""
    finite = [t.value for t in finished if t.value is not None]
    worst = (min if rule == 'greater' else max)(finite, default=_BEFORE_ANY_VALUE)
    return [worst if t.value is None else t.value for t in finished]


def _observed_study(settings: BayesianSearch, finished: Sequence[FinishedTraining], number: int) -> optuna.Study:
    import optuna

    # By key, so that the order of arrival does not matter; a new seed for each batch, because the
    # sampler is a new one.
    finished = sorted(finished, key=lambda t: t.key)
    seed = int(np.random.SeedSequence([settings.sampler_seed, number]).generate_state(1)[0])
    direction = 'maximize' if settings.rule == 'greater' else 'minimize'
    with _without_noise():
        study = optuna.create_study(sampler=_sampler(settings, seed), direction=direction)
    for training, value in zip(finished, observed_values(settings.rule, finished), strict=True):
        study.add_trial(_observed(settings, training.point, value))
    return study


def _sampler(settings: BayesianSearch, seed: int) -> optuna.samplers.BaseSampler:
    import optuna

    # The random points are drawn outside; both samplers need one observed value.
    if settings.sampler == 'gp':
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=1)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=1, multivariate=True)


def _distributions(settings: BayesianSearch) -> dict[str, BaseDistribution]:
    from optuna.distributions import FloatDistribution, IntDistribution

    kinds = {False: FloatDistribution, True: IntDistribution}
    return {name: kinds[of.is_integer](of.low, of.high, log=of.log) for name, of in settings.ranges.items()}


def _observed(settings: BayesianSearch, point: Point, value: float) -> optuna.trial.FrozenTrial:
    import optuna

    return optuna.trial.create_trial(params=point.values, distributions=_distributions(settings), value=value)


def _mean(study: optuna.Study) -> float:
    return float(np.mean([t.value for t in study.get_trials(deepcopy=False) if t.value is not None]))


def _suggest(settings: BayesianSearch, study: optuna.Study) -> Point:
    lie = _mean(study)
    with _without_noise():
        trial = study.ask(_distributions(settings))
        study.tell(trial, lie)
    return Point.of({name: of.tidy(trial.params[name]) for name, of in settings.ranges.items()})


@contextmanager
def _without_noise() -> Iterator[None]:
    """Silence what Optuna logs, and its warnings at each call that parts of its interface are experimental."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', optuna.exceptions.ExperimentalWarning)
        yield


METHOD = Method(BayesianSearch, replay, planned_stages, propose=propose, check=check_sampler)
