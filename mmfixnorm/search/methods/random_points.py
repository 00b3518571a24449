"""Points drawn evenly on the log scale: random search, and the start of other methods."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mmfixnorm.search.methods.base import Closed, Replay, Spec, numbered, one_stage
from mmfixnorm.search.methods.sampled import RandomSearch, SampledSearch
from mmfixnorm.search.methods.values import tidy


def random_point(settings: SampledSearch, index: int) -> dict[str, float]:
    """The point with this number, by ``sampler_seed`` and the number alone.

    So the points of two methods with one seed and one space are the same, and fewer trials are the
    beginning of more.

    Args:
        settings (SampledSearch): Its ``ranges``, lr first, take a uniform number from [0, 1) each.
        index (int): Number of the point, from 0.

    Returns:
        dict[str, float]: Values by name, e.g. ``{'lr': 0.8, 'weight_decay': 1e-4}``.
    """
    ranges = settings.ranges
    uniform = np.random.default_rng([settings.sampler_seed, index]).random(len(ranges))
    return {
        name: tidy(math.exp(math.log(low) + u * math.log(high / low)), low, high)
        for (name, (low, high)), u in zip(ranges.items(), uniform, strict=True)
    }


def make_spec(key: str, stage: str, values: Mapping[str, float], fraction: float) -> Spec:
    """A training at a point given by name; what has no name is left as in the config."""
    return Spec(key, stage, values['lr'], values.get('alpha'), fraction, values.get('weight_decay'))


def random_specs(settings: SampledSearch, stage: str, keys: Sequence[str], fraction: float) -> list[Spec]:
    """One training for each key, at the first random points."""
    return [make_spec(key, stage, random_point(settings, i), fraction) for i, key in enumerate(keys)]


def replay_random(settings: RandomSearch, closed: Mapping[str, Closed], asked: Mapping[str, Spec]) -> Replay:
    """Follow a random search: all of its points are known from the beginning."""
    del asked
    specs = random_specs(settings, 'random', numbered('random', settings.num_trials), settings.schedule_fraction)
    return one_stage('random', specs, closed, settings.rule)


def outline_random(settings: RandomSearch) -> list[tuple[str, int, float]]:
    """Its one stage."""
    return [('random', settings.num_trials, settings.schedule_fraction)]
