"""Is an angle a better learning rate? Scans of it and of its rivals, and what each chooses on test data.

Seven learning rates a factor of 2 apart for each method and task, ranked on validation data. What of a rival is not
scanned, the weight decay, is what its own search has found on that task (``results``), and Adam's common 0.05.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmengine.config import Config

from benchmarks.evidence.lab import Lab, Lines, Results, config_file
from mmfixnorm.convert.angle import ANGLE
from mmfixnorm.launch import load_config
from mmfixnorm.search import Point

ANGLES = 0.0025  # the lowest of seven, everywhere: 0.0025 to 0.16 rad
SEEDS = (0, 1, 2)
TEST_SEEDS = (3, 4, 5, 6, 7)
MORE_SEEDS = (8, 9, 10, 11, 12)

#: Shorter trainings, as fractions of a task's schedule, and of what.
SHORT = (0.1, 0.2)
SHORT_METHODS = ('angle', 'fixnorm', 'wd')
SHORT_TASKS = ('digits', 'bccd', 'camvid', 'residual', 'mobile')

#: Detection and segmentation in longer trainings, as two multiples of a task's schedule: is a gain one of speed?
LONGER_TASKS = ('bccd', 'camvid')
LONGER_METHODS = ('angle', 'wd-clip', 'lars', 'angle-filter', 'fixnorm', 'wd')
LONGER = {3: TEST_SEEDS, 10: TEST_SEEDS[:3]}

#: Where gradients are clipped, by the method of a network's own config, and at which other norms that is tried.
CLIP_NORM = {'wd': 5.0, 'adamw': 1.0}
CLIP_NORMS = {'wd': (0.5, 1.0, 2.0, 10.0), 'adamw': (0.25, 0.5, 2.0)}
#: Which methods that is tried with, by the same.
CLIPPED = {'wd': ('wd',), 'adamw': ('adamw', 'sgd')}

#: The learning rate of what is outside the set as a multiple of the angle, and what that is multiplied by.
OTHER_LR = {'wd': 20.0, 'adamw': 0.1}
OTHER_FACTORS = {'wd': (1 / 16, 1 / 4, 4.0), 'adamw': (1 / 16, 1 / 4, 4.0, 16.0)}

#: Weight decay, and AdamW, whose biases and norm layers have so many times the learning rate, as they have by angle.
RAISED = {
    **dict.fromkeys(('bccd', 'gfl', 'uper'), 'wd-clip'),
    **dict.fromkeys(('camvid', 'mobile'), 'wd'),
    **dict.fromkeys(('deit', 'convnext'), 'adamw-clip'),
}
RAISED_BY = {**dict.fromkeys(RAISED, (4.0, 16.0)), 'deit': (4.0, 16.0, 64.0)}

#: Where the search of the weight decay ended at the upper edge of its range.
HIGHER_DECAYS = {'camvid': (0.03, 0.1)}

#: Which config a method starts from, and what it changes there.
Methods = Mapping[str, tuple[str, dict[str, Any]]]


def seven(lowest: float) -> list[float]:
    """Seven learning rates, each twice the one before."""
    return [float(f'{lowest * 2**k:.6g}') for k in range(7)]


def _angle(per: str) -> tuple[str, dict[str, Any]]:
    return 'fixnorm', {'optim_wrapper.update': 'angle', 'optim_wrapper.per': per}


def _clipped(norm: float) -> dict[str, Any]:
    return {'optim_wrapper.clip_grad': dict(max_norm=norm)}


def _rival(**optimizer: Any) -> dict[str, Any]:
    return {'optim_wrapper.optimizer': dict(_delete_=True, lr=1.0, **optimizer)}


_BY_GROUP = 'mmfixnorm.peers.DecayedGroupsOptimWrapperConstructor'


def _layerwise(optimizer: dict[str, Any], **groups: dict[str, Any]) -> dict[str, Any]:
    """Norm layers and biases, which take no share of their norm, have a learning rate of their own."""
    return {
        **_rival(**optimizer),
        'optim_wrapper.constructor': _BY_GROUP,
        'optim_wrapper.paramwise_cfg': dict(_delete_=True, groups=groups),
    }


# As in their configs for ResNet-20.
_LARS = dict(type='mmpretrain.LARS', momentum=0.9, weight_decay=1e-4)
_LARS_OTHERS = dict(lr_mult=0.025, lars_exclude=True)
_LAMB = dict(type='mmpretrain.Lamb', weight_decay=0.01)
_LAMB_OTHERS = dict(lr_mult=0.2)
_PLAIN = {
    'optim_wrapper.type': 'mmfixnorm.engine.FixNormOptimWrapper',
    'optim_wrapper.constructor': 'mmfixnorm.engine.FixNormOptimWrapperConstructor',
    'optim_wrapper.update': 'angle',
    'optim_wrapper.per': 'layer',
    'optim_wrapper.optimizer.weight_decay': 0.0,
}
_SGD = _rival(type='SGD', momentum=0.9, nesterov=True, weight_decay=1e-4)

METHODS: Methods = {
    'angle': _angle('layer'),
    'fixnorm': ('fixnorm', {}),
    'wd': ('wd', {}),
    'wd-clip': ('wd', _clipped(CLIP_NORM['wd'])),
    'fixnorm-clip': ('fixnorm', _clipped(CLIP_NORM['wd'])),
    'adamw': ('wd', _rival(type='AdamW', weight_decay=0.05)),
    'lars': ('wd', _layerwise(_LARS, no_decay=_LARS_OTHERS)),
    'lamb': ('wd', _layerwise(_LAMB, no_decay=_LAMB_OTHERS)),
}

#: One switch at a time, between the paper's update and the angle of each layer.
SWITCHES: Methods = {
    # One angle for the set: layers turn as their gradients say.
    'angle-set': _angle('set'),
    # Each filter by the same angle.
    'angle-filter': _angle('filter'),
    # Hyperball's form: each weight its own norm and a step of a given length, whose radial part stays.
    'hyperball': ('fixnorm', {'optim_wrapper.type': 'mmfixnorm.peers.HyperballOptimWrapper'}),
    # Each weight its own norm, and SGD's step as it is.
    'per-layer': ('fixnorm', {'optim_wrapper.type': 'mmfixnorm.peers.PerLayerFixNormOptimWrapper'}),
    # The angle with the plain heads: no weight normalisation and no bound.
    'angle-plain': ('wd', _PLAIN),
}

#: The plain head of OCNet begins with a projection that is zero, which has no direction to turn from.
NO_PLAIN = {name: change for name, change in SWITCHES.items() if name != 'angle-plain'}

#: What is outside the set has AdamW's own learning rate at an angle of 0.02; the converter writes 4 times that.
_OWN_LR = {'optim_wrapper.other_lr': 0.1}

#: Networks that are trained by AdamW have configs of their own for each method. Where the method leaves it open, the
#: directions are AdamW's, but for ``angle-sgd``. SGD's weight decay and that of LARS and LAMB are the usual ones.
TRANSFORMERS: Methods = {
    'angle': ('angle', _OWN_LR),
    **{name: (name, {}) for name in ('angle-sgd', 'fixnorm', 'adamw')},
    # Clipped at 1, as is usual for transformers.
    'adamw-clip': ('adamw', _clipped(CLIP_NORM['adamw'])),
    'fixnorm-clip': ('fixnorm', _clipped(CLIP_NORM['adamw'])),
    'sgd': ('adamw', _SGD),
    'sgd-clip': ('adamw', {**_SGD, **_clipped(CLIP_NORM['adamw'])}),
    'lars': ('adamw', _layerwise(_LARS, no_decay=_LARS_OTHERS)),
    'lamb': ('adamw', _layerwise(_LAMB, no_decay=_LAMB_OTHERS)),
}
TRANSFORMER_SWITCHES: Methods = {
    'angle-set': ('angle', {**_OWN_LR, 'optim_wrapper.per': 'set'}),
    'angle-filter': ('angle', {**_OWN_LR, 'optim_wrapper.per': 'filter'}),
    # Clipping does not change how far the set turns; it does change what AdamW gathers, and the other parameters.
    'angle-clip': ('angle', {**_OWN_LR, **_clipped(CLIP_NORM['adamw'])}),
    'angle-set-clip': ('angle', {**_OWN_LR, 'optim_wrapper.per': 'set', **_clipped(CLIP_NORM['adamw'])}),
    'hyperball': ('fixnorm', {**_OWN_LR, 'optim_wrapper.type': 'mmfixnorm.peers.HyperballOptimWrapper'}),
    # The angle with all layers plain.
    'angle-plain': (
        'adamw',
        {**_PLAIN, **_OWN_LR, 'optim_wrapper.paramwise_cfg': dict(_delete_=True)},
    ),
    # As the converter writes it, what is outside the set with 4 times AdamW's learning rate; and with 16 times.
    'angle-other-lr': ('angle', {'optim_wrapper.other_lr': 0.4}),
    'angle-raised': ('angle', {'optim_wrapper.other_lr': 1.6}),
    # All three: one angle for the set, clipped gradients, and 4 times the learning rate outside the set.
    'angle-set-clip-other-lr': (
        'angle',
        {'optim_wrapper.other_lr': 0.4, 'optim_wrapper.per': 'set', **_clipped(CLIP_NORM['adamw'])},
    ),
}

#: DeiT's classifier begins at zero, which has no direction to turn from and no norm to take a share of; its tokens and
#: position embeddings are with the norm layers.
_HEAD = {'model.head.init_cfg': [dict(type='Normal', layer='Linear', std=0.01)]}
DEIT: Methods = {
    **TRANSFORMERS,
    'lars': (
        'adamw',
        {**_HEAD, **_layerwise(_LARS, no_decay=_LARS_OTHERS, others=dict(weight_decay=0.0, **_LARS_OTHERS))},
    ),
    'lamb': (
        'adamw',
        {**_HEAD, **_layerwise(_LAMB, no_decay=_LAMB_OTHERS, others=dict(weight_decay=0.0, **_LAMB_OTHERS))},
    ),
}
DEIT_SWITCHES: Methods = {
    **{
        name: (config, {**changes, **(_HEAD if name == 'angle-plain' else {})})
        for name, (config, changes) in TRANSFORMER_SWITCHES.items()
    },
    'angle-raised-64': ('angle', {'optim_wrapper.other_lr': 6.4}),
}


@dataclass(frozen=True)
class Task:
    """Configs of one task, and the lowest learning rate of each method there.

    Attributes:
        configs (str): Their path, with ``{method}`` for ``fixnorm`` and ``wd``.
        lowest (dict): By the method's name up to the hyphen, of those that are not angles or shares of a norm.
        decay (float): The weight decay of SGD: the best of 11 or 25 trainings.
        recipe (str): The method of the network's own config.
        converted (str): The method by angle that the converter writes.
        methods (dict): What is compared.
        switches (dict): What differs from the angle in one thing.
        decided (tuple): Methods whose choice is trained with twice as many seeds, as its intervals decide something.
    """

    configs: str
    lowest: dict[str, float]
    decay: float = 0.0
    recipe: str = 'wd'
    converted: str = 'angle'
    methods: Methods = field(default_factory=lambda: METHODS)
    switches: Methods = field(default_factory=dict)
    decided: tuple[str, ...] = ()


DECIDED = ('angle', 'wd-clip', 'lars', 'angle-filter', 'wd')

TASKS = {
    'bccd': Task(
        'bccd_{method}.py', dict(fixnorm=0.005, wd=0.005, adamw=5e-4, lars=0.4), 1e-5,
        switches=SWITCHES, decided=DECIDED,
    ),
    'camvid': Task(
        'camvid_{method}.py', dict(fixnorm=0.05, wd=0.0125, adamw=1e-3, lars=0.5), 0.01,
        switches=NO_PLAIN, decided=DECIDED,
    ),
    'digits': Task(
        'configs/digits/resnet8_{method}_1xb64-20e_digits.py',
        dict(fixnorm=0.1, wd=0.1, adamw=2.5e-4, lars=0.5), 4.7e-4, switches=SWITCHES,
    ),
    'residual': Task(
        'residual_{method}.py', dict(fixnorm=0.1, wd=0.05, adamw=5e-4, lars=0.5), 3.9e-4, switches=SWITCHES
    ),
    'mobile': Task(
        'mobile_{method}.py', dict(fixnorm=0.05, wd=0.0125, adamw=2.5e-4, lars=0.5), 0.0137, switches=SWITCHES
    ),
    'deit': Task(
        'configs/cifar10/deit-thin_{method}_1xb128-20e_cifar10-5k.py',
        dict(fixnorm=2.5e-4, adamw=2.5e-4, sgd=0.003125, lars=0.5), recipe='adamw', converted='angle-other-lr',
        methods=DEIT, switches=DEIT_SWITCHES,
    ),
    'convnext': Task(
        'configs/cifar10/convnext-thin_{method}_1xb128-20e_cifar10-5k.py',
        dict(fixnorm=2.5e-4, adamw=2.5e-4, sgd=0.0125, lars=0.5), recipe='adamw', converted='angle-other-lr',
        methods=TRANSFORMERS, switches=TRANSFORMER_SWITCHES,
    ),
}  # fmt: skip


#: FixNorm as the converter wrote it for other networks, and the lowest of seven learning rates: does a measured range
#: hold the best of them?
OTHER_NETWORKS = {'resnet18': 0.1, 'gfl': 0.005, 'faster-rcnn': 0.01, 'pspnet': 0.05, 'fcos': 0.005, 'uper': 0.05}

#: The same networks by angle, beside weight decay with clipped gradients: neither update nor angle was chosen with a
#: look at them. The decay is that of the network whose data and schedule they share.
NETWORK_METHODS: Methods = {name: METHODS[name] for name in ('angle', 'wd-clip')}
_DECAYS = {'resnet18': 3.9e-4, 'pspnet': 0.01, 'uper': 0.01}
_LOWEST_WD = {'resnet18': 0.05, 'pspnet': 0.0125, 'uper': 0.0125}
NETWORKS = {
    name: Task(
        f'{name}_{{method}}.py', dict(wd=_LOWEST_WD.get(name, lowest_fixnorm)), _DECAYS.get(name, 1e-5),
        methods=NETWORK_METHODS,
    )
    for name, lowest_fixnorm in OTHER_NETWORKS.items()
}  # fmt: skip

ALL_TASKS = {**TASKS, **NETWORKS}

#: Five learning rates each, whose middle is the best of the residual network as it is.
BESIDE = {'angle': [0.01, 0.02, 0.04, 0.08, 0.16], 'fixnorm': [0.4, 0.8, 1.6, 3.2, 6.4]}


def _epochs(epochs: int) -> dict[str, Any]:
    shared = dict(by_epoch=True, convert_to_iter_based=True)
    return {
        'train_cfg.max_epochs': epochs,
        'train_cfg.val_interval': epochs,
        'param_scheduler': [
            dict(type='LinearLR', start_factor=0.01, begin=0, end=1, **shared),
            dict(type='CosineAnnealingLR', begin=1, end=epochs, T_max=epochs - 1, **shared),
        ],
    }


#: One thing of the residual network's training changed at a time; those that take least first.
VARIANTS: dict[str, dict[str, Any]] = {
    'length x 0.2': _epochs(3),
    'batch x 4': {'train_dataloader.batch_size': 400},
    'momentum 0.8': {'optim_wrapper.optimizer.momentum': 0.8},
    'momentum 0.95': {'optim_wrapper.optimizer.momentum': 0.95},
    'depth x 3': {'model.backbone.depth': 20},
    'length x 5': _epochs(75),
    'width x 4': {'model.backbone.base_channels': 64, 'model.head.in_channels': 256},
}


def lowest(task: Task, method: str) -> float:
    """The lowest learning rate of a scan."""
    name = 'fixnorm' if method == 'per-layer' else method.split('-')[0]
    return ANGLES if name in ('angle', 'hyperball', 'lamb') else task.lowest[name]


def trained_by(task: Task, method: str) -> tuple[str, dict[str, Any]]:
    """The config of a method on a task, and the keys that it changes."""
    base, changes = {**task.methods, **task.switches}[method]
    decay = {'optim_wrapper.optimizer.weight_decay': task.decay} if method in ('wd', 'wd-clip') else {}
    return task.configs.format(method=base), {**changes, **decay}


def clips_at(task: Task, method: str) -> float:
    """The norm at which a method's config clips gradients; inf if it does not."""
    config, options = trained_by(task, method)
    cfg = load_config(config_file(config))
    cfg.merge_from_dict(copy.deepcopy(options))  # merging takes `_delete_` out of it
    return float((cfg.optim_wrapper.get('clip_grad') or {}).get('max_norm', math.inf))


def task(name: str) -> Callable[[Lab], None]:
    """One task: each method's scan with one seed, and what it chose there on test data; then other scans."""
    of = TASKS[name]

    def run(lab: Lab) -> None:
        for method in (*of.methods, *of.switches):
            finals(lab, of, method)
        for method in of.decided:
            finals(lab, of, method, (*TEST_SEEDS, *MORE_SEEDS))
        for seed in SEEDS[1:]:
            for method in of.methods:
                scan(lab, of, method, seed)

    return run


def scan(lab: Lab, of: Task, method: str, seed: int, *, fraction: float = 1.0, group: str = '') -> Point:
    """Seven learning rates of a method, on validation data; the best."""
    config, options = trained_by(of, method)
    block = dict(lrs=seven(lowest(of, method)), schedule_fraction=fraction, seed=seed)
    return lab.search(group or f'{method}/seed{seed}', config, options, type='GridSearch', **block)


def finals(lab: Lab, of: Task, method: str, seeds: Sequence[int] = TEST_SEEDS) -> None:
    """The first scan, and its best on test data with seeds that no scan has."""
    config, options = trained_by(of, method)
    winner = scan(lab, of, method, SEEDS[0])
    lab.finals(f'{method}/test', config, Point(winner.lr, None, None), options=options, seeds=seeds)


def other_networks(lab: Lab) -> None:
    """One scan of each of the other networks."""
    for name, lowest_lr in OTHER_NETWORKS.items():
        group, lrs = f'{name}/seed{SEEDS[0]}', seven(lowest_lr)
        lab.search(group, f'{name}_fixnorm.py', type='GridSearch', lrs=lrs, seed=SEEDS[0])


def network(name: str) -> Callable[[Lab], None]:
    """One of the other networks: each method's scan and what it chose, and the angle that nobody has tuned."""

    def run(lab: Lab) -> None:
        of = NETWORKS[name]
        for method in of.methods:
            finals(lab, of, method)
        if scan(lab, of, 'angle', SEEDS[0]).lr != ANGLE:  # else these are its trainings
            config, options = trained_by(of, 'angle')
            lab.finals('untuned/test', config, Point(ANGLE, None, None), options=options, seeds=TEST_SEEDS)

    return run


def longer(lab: Lab) -> None:
    """Longer trainings on test data: the best of three learning rates around what the scan of the task chose.

    Where that is the lowest of the three, two lower ones are tried too. Of the longest trainings only the learning rate
    that the others have chosen is trained.
    """
    usual = min(LONGER)
    for times, seeds in LONGER.items():
        for name in LONGER_TASKS:
            for method in LONGER_METHODS:
                config, options = trained_by(TASKS[name], method)
                changes = {**options, **_times(load_config(config_file(config)), times)}
                group = f'{name}/{method}/x{usual}'
                if times == usual:
                    of_task = _chosen(f'rotation-{name}', f'{method}/seed0')
                    lrs = [float(f'{of_task * 2.0**k:.6g}') for k in (-3, -2, -1, 0, 1)]
                    block: dict[str, Any] = dict(type='GridSearch', seed=SEEDS[0])
                    if lab.search(group, config, changes, lrs=lrs[2:], **block).lr == lrs[2]:
                        lab.search(f'{group}/lower', config, changes, lrs=lrs[:2], **block)
                chosen = _chosen('rotation-longer', group)
                tested = f'{name}/{method}/x{times}/test'
                lab.finals(tested, config, Point(chosen, None, None), options=changes, seeds=seeds)


def clip(lab: Lab, tasks: Sequence[str] = tuple(TASKS)) -> None:
    """Each task's recipe, and SGD, with gradients clipped at other norms; the best on test data."""
    for name in tasks:
        recipe = TASKS[name].recipe
        norms = {norm: _clipped(norm) for norm in CLIP_NORMS[recipe]}
        for method in CLIPPED[recipe]:
            _swept(lab, name, f'{method}-clip', f'{name}/{method}', norms)


def others(lab: Lab, tasks: Sequence[str] = tuple(TASKS)) -> None:
    """The best angle of each task with other learning rates for what is outside the set, on validation data."""
    results = Results()
    for name in tasks:
        config, options = trained_by(TASKS[name], 'angle')
        angle, _, _ = top_of(angle_scans(results, name))
        recipe = TASKS[name].recipe
        for factor in OTHER_FACTORS[recipe]:
            share = {'optim_wrapper.other_lr': factor * OTHER_LR[recipe]}
            for seed in SEEDS:
                group = f'{name}/{factor:g}/seed{seed}'
                lab.search(group, config, {**options, **share}, type='GridSearch', lrs=[angle], seed=seed)


def raised(lab: Lab, tasks: Sequence[str] = tuple(RAISED)) -> None:
    """Weight decay with a higher learning rate of biases and norm layers; the best on test data."""
    for name in tasks:
        changes = {factor: raised_by(factor, tokens=name == 'deit') for factor in RAISED_BY[name]}
        _swept(lab, name, RAISED[name], f'{name}/{RAISED[name].split("-")[0]}', changes)


def raised_by(factor: float, *, tokens: bool = False) -> dict[str, Any]:
    """The keys that give norm layers and biases so many times the learning rate, and tokens and position embeddings."""
    raised: dict[str, Any] = dict(no_decay=dict(lr_mult=factor))
    if tokens:
        raised['others'] = dict(lr_mult=factor, weight_decay=0.0)
    return {
        'optim_wrapper.constructor': _BY_GROUP,
        'optim_wrapper.paramwise_cfg': dict(_delete_=True, groups=raised),
    }


def angle_scans(results: Results, name: str) -> list[Lines]:
    """The seven angles of a task with each seed."""
    return [results.runs(f'rotation-{name}', f'angle/seed{seed}') for seed in SEEDS]


def decay(lab: Lab) -> None:
    """Weight decay beyond the range of its search, where that ended at an edge; the best of all on test data."""
    for name, decays in HIGHER_DECAYS.items():
        changes = {decay: {'optim_wrapper.optimizer.weight_decay': decay} for decay in decays}
        _swept(lab, name, 'wd', f'{name}/wd', changes)


def _swept(lab: Lab, name: str, method: str, group: str, changes: Mapping[float, dict[str, Any]]) -> None:
    """A scan of the learning rate at each value of something else; the best of all on test data.

    Where the highest learning rate of a scan is its best, two higher ones are tried too.
    """
    of = ALL_TASKS[name]
    config, options = trained_by(of, method)
    lrs = seven(lowest(of, method))
    found: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for value, change in changes.items():
        groups = [f'{group}/{value:g}']
        block: dict[str, Any] = dict(type='GridSearch', seed=SEEDS[0])
        if lab.search(groups[0], config, {**options, **change}, lrs=lrs, **block).lr == lrs[-1]:
            groups.append(f'{groups[0]}/higher')
            lab.search(groups[1], config, {**options, **change}, lrs=[2 * lrs[-1], 4 * lrs[-1]], **block)
        runs = [run for run in lab.lines if run['group'] in groups and 'kind' not in run]
        found.append((max(runs, key=value_of), change))
    best, change = max(found, key=lambda of: value_of(of[0]))
    lab.finals(f'{group}/test', config, Point(best['lr'], None, None), options={**options, **change}, seeds=TEST_SEEDS)


def _chosen(experiment: str, group: str) -> float:
    """The learning rate that a scan chose, of lower ones too where it went on."""
    results = Results()
    heads = [head for ending in ('', '/lower') if (head := results.head(experiment, f'{group}{ending}'))]
    if not heads:
        raise SystemExit(f'{group} is not in the results of {experiment} yet; run that first')
    return float(max(heads, key=lambda head: head['value'])['winner'][0])


def _times(cfg: Config, times: int) -> dict[str, Any]:
    """The keys that make a training by iterations so many times as long; its warm-up stays."""
    length = cfg.train_cfg.max_iters * times
    warm_up, cosine = cfg.param_scheduler
    return {
        'train_cfg.max_iters': length,
        'train_cfg.val_interval': length,
        'default_hooks.checkpoint.interval': length,
        'param_scheduler': [dict(warm_up), dict(cosine, end=length, T_max=length - warm_up.end)],
    }


def default(lab: Lab) -> None:
    """The angle of a converted config, which nobody has tuned, on test data, where no scan has chosen it."""
    for name in ('residual', 'mobile', 'deit'):
        method = TASKS[name].converted
        config, options = trained_by(TASKS[name], method)
        lab.finals(f'{name}/{method}', config, Point(ANGLE, None, None), options=options, seeds=TEST_SEEDS)


def where_default(results: Results, name: str) -> tuple[str, str]:
    """Experiment and group of a task's trainings with that angle, on test data."""
    own, method = f'rotation-{name}', ALL_TASKS[name].converted
    scanned = results.head(own, f'{method}/test')
    if scanned is not None and scanned['point'][0] == ANGLE:
        return own, f'{method}/test'
    return (own, 'untuned/test') if name in NETWORKS else ('rotation-default', f'{name}/{method}')


def short(lab: Lab) -> None:
    """The scans of the methods that a search tunes, in shorter trainings: what can be learnt from these?"""
    for seed in SEEDS:
        for name in SHORT_TASKS:
            for method in SHORT_METHODS:
                for fraction in SHORT:
                    group = f'{name}/{method}/x{fraction:g}/seed{seed}'
                    scan(lab, TASKS[name], method, seed, fraction=fraction, group=group)


def law(lab: Lab) -> None:
    """How far the best learning rate moves with the network and its training."""
    for variant, changes in VARIANTS.items():
        for method, lrs in BESIDE.items():
            config, options = trained_by(TASKS['residual'], method)
            group = f'{variant}/{method}'
            lab.search(group, config, {**options, **changes}, type='GridSearch', lrs=lrs, seed=SEEDS[0])


def top_of(of_seeds: Sequence[Lines]) -> tuple[float, float, float]:
    """The best learning rate, and the ends of those around it whose mean is less than 1 point below its own."""
    means = means_of(of_seeds)
    lrs, values = list(means), list(means.values())
    low = high = top = max(range(len(lrs)), key=values.__getitem__)
    while low > 0 and values[low - 1] > values[top] - 1:
        low -= 1
    while high < len(lrs) - 1 and values[high + 1] > values[top] - 1:
        high += 1
    return lrs[top], lrs[low], lrs[high]


def value_of(run: Mapping[str, Any]) -> float:
    """The value of a training; one that diverged is worse than any other."""
    return -math.inf if run['value'] is None else run['value']


def means_of(of_seeds: Sequence[Lines]) -> dict[float, float]:
    """The mean of the seeds at each learning rate, in order; one at which a seed diverged has none."""
    by_lr: dict[float, list[float | None]] = {}
    for run in (run for runs in of_seeds for run in runs):
        by_lr.setdefault(run['lr'], []).append(run['value'])
    return {
        lr: -math.inf if None in values else statistics.mean(v for v in values if v is not None)
        for lr, values in sorted(by_lr.items())
    }
