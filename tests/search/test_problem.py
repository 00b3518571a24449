"""The checks on a config, such as keys that do not exist, all before anything runs."""

import pytest
from mmengine.config import Config

from mmfixnorm.data_checks.paths import data_paths
from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils.keys import flatten, get_key, nest
from mmfixnorm.search.methods.base import Point, Spec
from mmfixnorm.search.problem import check_data, describe_data, differences, load_problem, missing_data

SPEC = Spec('r0-k3', 'round 0', Point(2.6, 0.5), 0.2)


@pytest.mark.parametrize(
    ('search', 'message'),
    [
        (
            "lr_key='optim_wrapper.optimizer.lrr'",
            r"search\.lr_key: .* no key 'lrr', did you mean 'lr'\? \(it has: lr, type\)",
        ),
        (
            "alpha_key='model.hed.alpha'",
            r"search\.alpha_key: .*`model` has no key 'hed', did you mean 'head'",
        ),
        ("alpha_key='model.head.beta'", r"no key 'beta'.*it has: alpha, type"),
        ("alpha_key='model.head.type'", r'must be a number in the config'),
        ("lr_key=['optim_wrapper.optimizer.lr', 'optim_wrapper.clip']", r"no key 'clip'"),
    ],
)
def test_a_key_that_the_config_does_not_have_is_refused(write_config, search, message):
    with pytest.raises(ConfigError, match=message):
        load_problem(write_config(search))


def test_a_config_without_a_final_linear_layer_is_refused(write_config):
    config = write_config(extra="model = dict(type='Backbone')\n")
    with pytest.raises(ConfigError, match=r"'model\.head\.alpha' is not in the config: `model` has"):
        load_problem(config)


def test_a_grid_over_lr_alone_needs_no_alpha(write_config):
    config = write_config("type='GridSearch', lrs=[0.1, 0.2], alpha_key='model.nowhere'")
    assert load_problem(config).trial_config(Spec('grid-00', 'grid', Point(0.1), 1.0))


@pytest.mark.parametrize('key', ['val_dataloader', 'val_cfg', 'val_evaluator'])
def test_a_search_without_validation_is_refused(write_config, key):
    with pytest.raises(ConfigError, match=f'{key}: a search needs validation'):
        load_problem(write_config(extra=f'{key} = None\n'))


WARM_UP = "param_scheduler = [dict(type='LinearLR', end=1), dict(type='CosineAnnealingLR', begin=1, end=10)]\n"


@pytest.mark.parametrize(
    ('search', 'key'),
    [
        ('lr_range=(0.2, 3.2), schedule_fractions=[0.1, 1.0]', 'schedule_fractions'),
        ("type='GridSearch', lrs=[0.1, 0.2], schedule_fraction=0.1", 'schedule_fraction'),
        ("type='RandomSearch', alpha_range=(0.5, 8.0), schedule_fraction=0.1", 'schedule_fraction'),
        ("type='BayesianSearch', alpha_range=(0.5, 8.0), schedule_fraction=0.1", 'schedule_fraction'),
    ],
)
def test_a_training_too_short_for_a_search_is_refused_with_the_key_that_it_has(write_config, search, key):
    for extra, message in [
        ('train_cfg = dict(by_epoch=True, max_epochs=2)\n', r'0\.1 of train_cfg'),
        (WARM_UP, 'nothing is left of the param_scheduler'),
    ]:
        with pytest.raises(ConfigError, match=rf'^search\.{key}: {message}'):
            load_problem(write_config(search, extra=extra))


def test_the_config_of_a_trial_has_its_values_length_seed_and_folder(write_config, tmp_path):
    problem = load_problem(write_config(), work_dir=tmp_path / 'w')
    cfg = problem.trial_config(SPEC)
    assert cfg.optim_wrapper.optimizer.lr == 2.6
    assert cfg.model.head.alpha == 0.5
    assert cfg.train_cfg.max_epochs == 2
    assert cfg.randomness.seed == 0
    assert cfg.work_dir == str(tmp_path / 'w' / 'trials' / 'r0-k3' / 'run')
    assert problem.cfg.optim_wrapper.optimizer.lr == 0.1  # the given one stays as it was


SCHEDULE = """
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=1),
    dict(type='CosineAnnealingLR', T_max=9, begin=1, end=10, eta_min=0.003),
]
"""
LINKED = "lr_range=(0.05, 0.4), linked_keys='param_scheduler.1.eta_min'"


@pytest.mark.parametrize(('lr', 'eta_min'), [(0.1, 0.003), (0.4, 0.012), (0.05, 0.0015)])
def test_a_linked_number_keeps_its_ratio_to_the_learning_rate(write_config, lr, eta_min):
    problem = load_problem(write_config(LINKED, extra=SCHEDULE))
    cfg = problem.trial_config(Spec('r0-k0', 'round 0', Point(lr, 0.5), 0.2))
    assert cfg.param_scheduler[1].eta_min == (eta_min if lr == 0.1 else pytest.approx(eta_min))
    assert cfg.param_scheduler[1].T_max == 1  # the schedule is shortened as before
    left = load_problem(write_config('lr_range=(0.05, 0.4)', extra=SCHEDULE))
    assert left.trial_config(Spec('r0-k0', 'round 0', Point(lr, 0.5), 0.2)).param_scheduler[1].eta_min == 0.003


def test_the_ratio_of_a_linked_number_is_part_of_the_search(write_config):
    def identity(search=LINKED, lr=0.1, eta_min=0.003):
        extra = SCHEDULE.replace('0.003', str(eta_min)) + f'optim_wrapper = dict(optimizer=dict(lr={lr}))\n'
        return load_problem(write_config(search, extra=extra)).identity

    assert identity() == identity(lr=0.2, eta_min=0.006)
    assert differences(identity(), identity(lr=0.2)) == ['config.param_scheduler.1.eta_min']
    without = identity('lr_range=(0.05, 0.4)')
    assert 'search.linked_keys' not in without  # searches from before there were any continue
    assert differences(without, identity()) == ['search.linked_keys', 'config.param_scheduler.1.eta_min']


@pytest.mark.parametrize(
    ('search', 'message'),
    [
        ("linked_keys='param_scheduler.1.eta_mni'", r"search\.linked_keys: .*no key 'eta_mni', did you mean 'eta_min'"),
        ("linked_keys='param_scheduler.1.type'", r'search\.linked_keys: .* must be a number in the config'),
        ("linked_keys=['optim_wrapper.optimizer.lr']", r"search\.linked_keys: 'optim_wrapper\.optimizer\.lr' is tuned"),
        ("linked_keys=['a.b', 'a.b']", r'search\.linked_keys: must be a dotted key .* or a list of different ones'),
        ('linked_keys=3', r'search\.linked_keys: must be a dotted key'),
        ("linked_keys=['']", r'search\.linked_keys: must be a dotted key'),
    ],
)
def test_linked_keys_that_mean_nothing_are_refused(write_config, search, message):
    with pytest.raises(ConfigError, match=message):
        load_problem(write_config(search, extra=SCHEDULE))


def test_a_learning_rate_of_0_has_no_ratio(write_config):
    extra = SCHEDULE + 'optim_wrapper = dict(optimizer=dict(lr=0.0))\n'
    with pytest.raises(ConfigError, match=r'search\.linked_keys: optim_wrapper\.optimizer\.lr must be > 0'):
        load_problem(write_config(LINKED, extra=extra))


def test_several_places_get_the_same_learning_rate(write_config):
    two = 'optim_wrapper = dict(a=dict(optimizer=dict(lr=1.0)), b=[dict(lr=1.0)])\n'
    keys = "lr_key=['optim_wrapper.a.optimizer.lr', 'optim_wrapper.b.0.lr']"
    cfg = load_problem(write_config(keys, extra=two)).trial_config(SPEC)
    assert (cfg.optim_wrapper.a.optimizer.lr, cfg.optim_wrapper.b[0].lr) == (2.6, 2.6)


def test_a_search_that_starts_from_the_configs_own_learning_rate_needs_one(write_config):
    keys = ['optim_wrapper.a.optimizer.lr', 'optim_wrapper.b.optimizer.lr']
    two = 'optim_wrapper = dict(a=dict(optimizer=dict(lr=1.0)), b=dict(optimizer=dict(lr={})))\n'
    block = f"type='LRFitSearch', lr_range=(0.1, 1.6), lr_key={keys}"
    assert load_problem(write_config(block, extra=two.format(1.0))).settings.own_lr == 1.0
    with pytest.raises(ConfigError, match=r"needs one, got .*a\.optimizer\.lr': 1\.0, .*b\.optimizer\.lr': 0\.1"):
        load_problem(write_config(block, extra=two.format(0.1)))
    one = f"type='LRFitSearch', lr_range=(0.1, 1.6), lr_key='{keys[0]}', linked_keys=['{keys[1]}']"
    cfg = load_problem(write_config(one, extra=two.format(0.1))).trial_config(SPEC)
    assert (cfg.optim_wrapper.a.optimizer.lr, cfg.optim_wrapper.b.optimizer.lr) == (2.6, pytest.approx(0.26))


def test_a_seed_of_none_leaves_the_configs_own(write_config):
    extra = 'randomness = dict(seed=7, deterministic=True)\n'
    own = load_problem(write_config('seed=None', extra=extra)).trial_config(SPEC)
    ours = load_problem(write_config('seed=3', extra=extra)).trial_config(SPEC)
    assert own.randomness.to_dict() == dict(seed=7, deterministic=True)
    assert ours.randomness.to_dict() == dict(seed=3, deterministic=True)


def test_trials_do_not_share_a_folder_for_checkpoints(write_config):
    extra = "default_hooks = dict(checkpoint=dict(type='CheckpointHook', out_dir='all', max_keep_ckpts=1))\n"
    hook = load_problem(write_config(extra=extra)).trial_config(SPEC).default_hooks.checkpoint
    assert 'out_dir' not in hook
    assert hook.max_keep_ckpts == 2


def test_the_cost_is_that_of_the_real_lengths(write_config):
    config = write_config(extra='train_cfg = dict(by_epoch=True, max_epochs=38)\n')
    assert load_problem(config).cost(0.2) == 8 / 38
    stages = load_problem(write_config()).planned_costs()
    assert sum(cost for _, _, cost in stages) == 11


def test_the_work_dir_is_named_after_the_config(write_config, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert load_problem(write_config()).work_dir == tmp_path / 'work_dirs' / 'config_search'


DATASETS = [  # data set, what it reads
    (dict(data_root='d', data_prefix='train'), {'data_root': 'd', 'data_prefix': 'd/train'}),
    (
        dict(data_root='d', data_prefix=dict(img='i/'), ann_file='a.json'),
        {'data_root': 'd', 'data_prefix.img': 'd/i/', 'ann_file': 'd/a.json'},
    ),
    (dict(data_prefix='/abs/train'), {'data_prefix': '/abs/train'}),
    (dict(type='CIFAR10', data_root='d'), {}),
    (dict(type='CIFAR10', data_root='d', download=False), {'data_root': 'd'}),
    (dict(data_root='s3://bucket', ann_file='a.txt'), {}),
    (dict(data_root='d', backend_args=dict(backend='petrel')), {}),
    (dict(dataset=dict(data_root='d')), {'dataset.data_root': 'd'}),
    (dict(datasets=[dict(data_root='d')]), {'datasets.0.data_root': 'd'}),
    (dict(num=3), {}),
]


@pytest.mark.parametrize(('dataset', 'expected'), DATASETS)
def test_data_paths_are_found_as_the_toolboxes_join_them(dataset, expected):
    cfg = Config(dict(train_dataloader=dict(dataset=dataset)))
    assert data_paths(cfg) == {f'train_dataloader.dataset.{k}': v for k, v in expected.items()}


def test_a_missing_data_folder_is_told_with_its_key():
    cfg = Config(dict(val_dataloader=dict(dataset=dict(data_root='/no/such'))))
    with pytest.raises(ConfigError, match=r"val_dataloader\.dataset\.data_root: no such .*'/no/such'"):
        check_data(cfg)


def test_a_new_file_deep_in_the_data_is_noticed_and_a_hidden_one_is_not(tmp_path):
    (tmp_path / 'cat').mkdir()
    cfg = Config(dict(train_dataloader=dict(dataset=dict(data_root=str(tmp_path)))))
    before = describe_data(cfg)
    (tmp_path / '.cache').touch()
    assert describe_data(cfg) == before
    (tmp_path / 'cat' / '1.png').touch()
    assert describe_data(cfg) != before


def test_dotted_keys_go_through_lists():
    assert get_key({'a': [{'b': 1}, {'b': 2}]}, 'a.1.b', named_by='x') == 2
    with pytest.raises(ConfigError, match=r"x: 'a\.2' is not in the config: `a` has no key '2'"):
        get_key({'a': [1, 2]}, 'a.2', named_by='x')


def test_nest_is_the_inverse_of_flatten():
    nested = {'a': {'b': 1, 'c': {'d': 'x'}}, 'e': {}}
    assert nest(dict(flatten(nested))) == nested


REFUSED = {
    'one cycle': (
        "param_scheduler = [dict(type='OneCycleLR', eta_max=0.1, total_steps=8)]\n",
        'param_scheduler: OneCycleLR takes the learning rate from its eta_max',
    ),
    'an angle beyond pi': (
        "optim_wrapper = dict(type='FixNormOptimWrapper', update='angle', optimizer=dict(type='SGD', lr=0.02))\n",
        r"search\.lr_range: with update='angle' the learning rate is an angle of at most pi, in radians, got 4",
    ),
    'a start that is missing': ("load_from = 'missing.pth'\n", "load_from: no such checkpoint: 'missing.pth'"),
}


@pytest.mark.parametrize(('extra', 'message'), REFUSED.values(), ids=REFUSED)
def test_a_search_whose_trials_would_all_fail_is_refused(write_config, extra, message):
    config = write_config("type='FixNormSearch', lr_range=(0.02, 4.0)", extra=extra)
    with pytest.raises(ConfigError, match=message):
        load_problem(config)


def test_what_a_run_needs_and_is_not_here_is_listed_with_the_weights_to_start_from(write_config):
    config = write_config("type='FixNormSearch', lr_range=(0.02, 4.0)", extra="load_from = 'missing.pth'\n")
    assert missing_data(load_problem(config, needs_data=False).cfg)[-1] == 'load_from'
