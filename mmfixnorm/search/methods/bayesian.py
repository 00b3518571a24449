"""Bayesian optimisation: points proposed in batches, each from all results before it.

Following a search (:func:`replay_bayesian`) is a pure function of settings and history, as for
every method. Making a proposal (:func:`propose`) is one as well, but only on one machine with one
set of library versions: a Gaussian process is fitted in floating point. So a batch, once proposed,
is written to the record before any of it is submitted, and from there on belongs to the history; it
is never computed again.

Decided here:

- the sampler is told a diverged training as the worst finite value so far, or as 0 while there is
  none: ignoring them makes it come back to where training diverges;
- inside a batch, a point just proposed counts as a training whose value is the mean of those told
  (a constant liar), so that the next one lies elsewhere, with every version of optuna;
- random points first, the same that :class:`.settings.RandomSearch` draws.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from mmfixnorm.errors import ConfigError
from mmfixnorm.search.base_settings import SearchSettings
from mmfixnorm.search.methods.base import Closed, Replay, Spec, Stage, all_diverged, best_of, make_stage, numbered
from mmfixnorm.search.methods.random_points import make_spec, random_point
from mmfixnorm.search.methods.sampled import BayesianSearch
from mmfixnorm.search.methods.values import tidy, values_of

if TYPE_CHECKING:
    import optuna  # who proposes imports it: that takes half a second
    from optuna.distributions import FloatDistribution

_BEFORE_ANY_VALUE = 0.0
_NEEDED = {'gp': ('scipy', 'torch'), 'tpe': ()}


def check_sampler(settings: BayesianSearch) -> None:
    """Check that what the sampler needs is installed.

    Raises:
        ConfigError: It is not.
    """
    for package in _NEEDED[settings.sampler]:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"search.sampler: {settings.sampler!r} needs {package}: pip install {package}, or use sampler='tpe'"
            )


def _batches(settings: BayesianSearch) -> list[list[str]]:
    keys = numbered('bo', settings.num_trials)
    return [keys[i : i + settings.batch_size] for i in range(0, len(keys), settings.batch_size)]


def replay_bayesian(settings: BayesianSearch, closed: Mapping[str, Closed], asked: Mapping[str, Spec]) -> Replay:
    """Follow Bayesian optimisation through the points that were proposed."""
    stages: list[Stage] = []
    batches = _batches(settings)
    for number, keys in enumerate(batches):
        best = best_of(settings.rule, [closed[s.key] for stage in stages for s in stage.specs])
        if any(key not in asked for key in keys):
            return Replay(tuple(stages), best, False, '', (), unproposed=tuple(keys))
        stages.append(make_stage(f'batch {number}', [asked[k] for k in keys], closed, settings.rule))
        if stages[-1].missing:
            return Replay(tuple(stages), best, False, '', ())
    specs = [s for stage in stages for s in stage.specs]
    best = best_of(settings.rule, [closed[s.key] for s in specs])
    if best is None:
        return Replay(tuple(stages), None, False, all_diverged('the search', specs), ())
    return Replay(tuple(stages), best, True, '', ())


def outline_bayesian(settings: BayesianSearch) -> list[tuple[str, int, float]]:
    """All of its trainings, as one line."""
    return [('trials', settings.num_trials, settings.schedule_fraction)]


def propose(settings: SearchSettings, closed: Sequence[Closed], keys: Sequence[str]) -> list[Spec]:
    """Propose the points of a batch.

    Args:
        settings (SearchSettings): The search, a :class:`.settings.BayesianSearch`.
        closed (Sequence[Closed]): The trainings of all earlier batches, in any order.
        keys (Sequence[str]): The batch, as the planner asks for it.

    Returns:
        list[Spec]: One training for each key, in that order.
    """
    if not isinstance(settings, BayesianSearch):
        raise TypeError(f'no proposals for settings of type {type(settings).__name__}')
    number = [batch[0] for batch in _batches(settings)].index(keys[0])
    first = number * settings.batch_size
    startup = max(settings.num_startup_trials, settings.batch_size)
    study = None if first + len(keys) <= startup else _told_study(settings, closed, number)
    specs = []
    for index, key in enumerate(keys, start=first):
        if study is None or index < startup:
            values = random_point(settings, index)
            if study is not None:
                study.add_trial(_told(settings, values, _mean(study)))
        else:
            values = _ask(settings, study)
        specs.append(make_spec(key, f'batch {number}', values, settings.schedule_fraction))
    return specs


def told_values(rule: str, closed: Sequence[Closed]) -> list[float]:
    """What a sampler is told of these trainings: finite values, the diverged ones as the worst."""
    finite = [c.value for c in closed if c.value is not None]
    worst = (min if rule == 'greater' else max)(finite, default=_BEFORE_ANY_VALUE)
    return [worst if c.value is None else c.value for c in closed]


def _told_study(settings: BayesianSearch, closed: Sequence[Closed], number: int) -> optuna.Study:
    import optuna

    # By key, so that the order of arrival does not matter; a new seed for each batch, because the
    # sampler is a new one.
    closed = sorted(closed, key=lambda c: c.key)
    seed = int(np.random.SeedSequence([settings.sampler_seed, number]).generate_state(1)[0])
    direction = 'maximize' if settings.rule == 'greater' else 'minimize'
    with _without_noise():
        study = optuna.create_study(sampler=_sampler(settings, seed), direction=direction)
    for training, value in zip(closed, told_values(settings.rule, closed), strict=True):
        study.add_trial(_told(settings, values_of(training), value))
    return study


def _sampler(settings: BayesianSearch, seed: int) -> optuna.samplers.BaseSampler:
    import optuna

    # The random points are drawn outside; one told value is what both need.
    if settings.sampler == 'gp':
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=1)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=1, multivariate=True)


def _distributions(settings: BayesianSearch) -> dict[str, FloatDistribution]:
    from optuna.distributions import FloatDistribution

    return {name: FloatDistribution(low, high, log=True) for name, (low, high) in settings.ranges.items()}


def _told(settings: BayesianSearch, values: Mapping[str, float], value: float) -> optuna.trial.FrozenTrial:
    import optuna

    return optuna.trial.create_trial(params=dict(values), distributions=_distributions(settings), value=value)


def _mean(study: optuna.Study) -> float:
    return float(np.mean([t.value for t in study.get_trials(deepcopy=False) if t.value is not None]))


def _ask(settings: BayesianSearch, study: optuna.Study) -> dict[str, float]:
    lie = _mean(study)
    with _without_noise():
        trial = study.ask(_distributions(settings))
        study.tell(trial, lie)
    return {name: tidy(trial.params[name], *pair) for name, pair in settings.ranges.items()}


@contextmanager
def _without_noise() -> Iterator[None]:
    """Optuna says of parts of its interface that they are experimental; each call says it again."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', optuna.exceptions.ExperimentalWarning)
        yield
