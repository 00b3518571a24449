"""Bad bounds are reported before anything runs, and the message names the key."""

import math

import pytest

from mmfixnorm.errors import ConfigError
from mmfixnorm.search.methods import parse_settings
from mmfixnorm.search.methods.fixnorm import FixNormSearch
from mmfixnorm.search.methods.grid import GridSearch


def sampled(kind, **changes):
    """A block of a method that samples, with one thing wrong."""
    return {'type': kind, 'weight_decay_range': (1e-5, 5e-4), **changes}


BAD = [
    (dict(lr_range=(3.2, 0.2)), r'search\.lr_range: .*0 < lr_min < lr_max, got \(3\.2, 0\.2\)'),
    (dict(lr_range=(0.2, 0.2)), r'search\.lr_range'),
    (dict(lr_range=()), r'search\.lr_range: .*got \(\)'),
    (dict(lr_range=(0.2,)), r'search\.lr_range'),
    (dict(lr_range=(0.2, 1.0, 3.2)), r'search\.lr_range'),
    (dict(lr_range=3.2), r'search\.lr_range'),
    (dict(lr_range='0.2,3.2'), r'search\.lr_range'),
    (dict(lr_range=(-0.2, 3.2)), r'search\.lr_range'),
    (dict(lr_range=(0, 3.2)), r'search\.lr_range'),
    (dict(lr_range=(math.nan, 3.2)), r'search\.lr_range: .*nan'),
    (dict(lr_range=(0.2, math.inf)), r'search\.lr_range: .*inf'),
    (dict(lr_range=('0.2', 3.2)), r'search\.lr_range'),
    (dict(num_splits=1), r'search\.num_splits: must be an integer >= 2, got 1'),
    (dict(num_splits=5.0), r'search\.num_splits: .*got 5\.0'),
    (dict(num_splits=True), r'search\.num_splits'),
    (dict(num_rounds=0), r'search\.num_rounds'),
    (dict(num_rounds=3), r'search\.schedule_fractions: .*3 rounds'),
    (dict(schedule_fractions=(1.0, 0.2)), r'search\.schedule_fractions'),
    (dict(schedule_fractions=(0.0, 1.0)), r'search\.schedule_fractions'),
    (dict(schedule_fractions=(0.2, 1.5)), r'search\.schedule_fractions'),
    (dict(schedule_fractions=(math.nan, 1.0)), r'search\.schedule_fractions'),
    (dict(schedule_fractions=[]), r'search\.schedule_fractions'),
    (dict(alphas=[]), r'search\.alphas: must be a non-empty list .*got \[\]'),
    (dict(alphas=[1.0, 0.0]), r'search\.alphas: must be a finite number > 0, got 0\.0'),
    (dict(alphas=[-1.0]), r'search\.alphas: .*got -1\.0'),
    (dict(alphas=[math.nan]), r'search\.alphas: .*got nan'),
    (dict(alphas=[math.inf]), r'search\.alphas: .*got inf'),
    (dict(alphas=[1.0, 1.0]), r'search\.alphas: .*distinct'),
    (dict(alphas=4.0), r'search\.alphas'),
    (dict(metric=''), r'search\.metric'),
    (dict(rule='max'), r"search\.rule: must be 'greater' or 'less', got 'max'"),
    (dict(select='first'), r'search\.select'),
    (dict(keep_weights='none'), r'search\.keep_weights'),
    (dict(lr_key='lr'), r"search\.lr_key: .*starts with 'optim_wrapper\.'"),
    (dict(alpha_key=[]), r'search\.alpha_key'),
    (dict(workers=0), r'search\.workers: must be an integer >= 1, got 0'),
    (dict(max_attempts=0), r'search\.max_attempts'),
    (dict(timeout_s=-1), r'search\.timeout_s'),
    (dict(seed=-1), r'search\.seed'),
    (dict(lr_rang=(0.2, 3.2)), r"search\.lr_rang: .*did you mean 'lr_range'"),
    (dict(nonsense=1), r'search\.nonsense: FixNormSearch has no such key \(it has: alpha_key'),
    (dict(type='FixNormSerach'), r"search\.type: .*did you mean 'FixNormSearch'"),
    (dict(type='GridSearch'), r'search\.lrs: give either lrs or lr_range'),
    (dict(type='GridSearch', lrs=[0.1], lr_range=(0.1, 1)), r'search\.lrs: give either'),
    (dict(type='GridSearch', lrs=[]), r'search\.lrs'),
    (dict(type='GridSearch', lrs=[0.1, -1]), r'search\.lrs: .*got -1'),
    (dict(type='GridSearch', lr_range=(1.0, 0.1)), r'search\.lr_range'),
    (dict(type='GridSearch', lrs=[0.1], alphas=[]), r'search\.alphas'),
    (dict(type='GridSearch', lrs=[0.1], schedule_fraction=0), r'search\.schedule_fraction'),
    (dict(type='GridSearch', lrs=[0.1], num_rounds=2), r'search\.num_rounds: GridSearch has no'),
    (dict(type='GridSearch', lrs=[0.1], weight_decay_key='x'), r'weight_decay_key: GridSearch has no such key'),
    (dict(type='RandomSearch'), r'search\.weight_decay_range: give either weight_decay_range or alpha_range'),
    (sampled('RandomSearch', alpha_range=(1, 2)), r'search\.weight_decay_range: give either'),
    (sampled('RandomSearch', lr_range=(1.0, 0.1)), r'search\.lr_range'),
    (sampled('RandomSearch', weight_decay_range=(0, 1e-4)), r'search\.weight_decay_range: .*0 < weight_decay_min <'),
    (sampled('RandomSearch', weight_decay_key='model.wd'), r"search\.weight_decay_key: .*'optim_wrapper\."),
    (sampled('RandomSearch', num_trials=0), r'search\.num_trials: must be an integer >= 1, got 0'),
    (sampled('RandomSearch', sampler_seed=None), r'search\.sampler_seed: .*got None'),
    (sampled('RandomSearch', schedule_fraction=0), r'search\.schedule_fraction'),
    (sampled('RandomSearch', sampler='gp'), r'search\.sampler: RandomSearch has no such key'),
    (sampled('BayesianSearch', sampler='cma'), r"search\.sampler: must be 'gp' or 'tpe', got 'cma'"),
    (sampled('BayesianSearch', num_startup_trials=0), r'search\.num_startup_trials'),
    (sampled('BayesianSearch', batch_size=0), r'search\.batch_size'),
    (sampled('SuccessiveHalvingSearch', reduction_factor=1), r'search\.reduction_factor: .*>= 2, got 1'),
    (sampled('SuccessiveHalvingSearch', num_trials=8), r'search\.num_trials: must be at least 9, .*3 rungs .*got 8'),
    (sampled('SuccessiveHalvingSearch', schedule_fractions=(0.5, 0.5, 1)), r'search\.schedule_fractions: .*that rise'),
    (sampled('SuccessiveHalvingSearch', schedule_fractions=()), r'search\.schedule_fractions'),
    (None, r'search: the config needs a block'),
]


@pytest.mark.parametrize(('block', 'message'), BAD)
def test_a_bad_setting_is_refused_with_its_key(block, message):
    with pytest.raises(ConfigError, match=message):
        parse_settings(block)


def test_defaults_are_those_of_the_paper():
    settings = parse_settings(dict(type='FixNormSearch'))
    assert settings == FixNormSearch(
        lr_range=(0.2, 3.2),
        num_rounds=2,
        num_splits=5,
        schedule_fractions=(0.2, 1.0),
        alphas=(0.5, 1.0, 2.0, 4.0, 8.0, 16.0),
    )


def test_a_block_without_a_type_is_algorithm_4():
    assert isinstance(parse_settings(dict(lr_range=[0.2, 3.2])), FixNormSearch)


def test_several_keys_can_take_the_learning_rate():
    keys = ['optim_wrapper.generator.optimizer.lr', 'optim_wrapper.critic.optimizer.lr']
    assert parse_settings(dict(lr_key=keys)).lr_keys == tuple(keys)


def test_a_grid_without_alphas_has_no_alpha_key():
    assert GridSearch(lrs=(0.1, 0.2)).alpha_keys == ()


@pytest.mark.parametrize(
    ('change', 'same'),
    [
        (dict(workers=4), True),
        (dict(max_attempts=9), True),
        (dict(timeout_s=60), True),
        (dict(keep_weights='all'), True),
        (dict(seed=1), False),
        (dict(metric='accuracy/top5'), False),
        (dict(lr_range=(0.2, 3.0)), False),
        (dict(alphas=(1.0,)), False),
    ],
)
def test_only_what_changes_results_is_part_of_the_identity(change, same):
    identity = parse_settings(dict(type='FixNormSearch')).identity()
    assert (parse_settings(change).identity() == identity) == same
