"""What is measured: every experiment is a function of a lab.

The searches rank on 300 images of each class that are not trained on; what they choose is trained again with
seeds that no search has seen, and measured on the test set. FixNorm searches have the paper's settings. Weight decay
has a wider range than in the paper on both axes. Where a best was seen at an edge, the network is searched again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.evidence import fine_tune, lr_fit, rotation
from benchmarks.evidence.lab import RESULTS, Lab, read_lines
from mmfixnorm.search import Point

FIXNORM: dict[str, Any] = dict(type='FixNormSearch', lr_range=(0.2, 3.2))
UNIMODAL: dict[str, Any] = dict(type='UnimodalFixNormSearch', lr_range=(0.2, 3.2))
BO: dict[str, Any] = dict(
    type='BayesianSearch', lr_range=(0.05, 3.2), weight_decay_range=(1e-5, 1e-2), num_trials=25, sampler='gp'
)
LRS = (0.2, 0.4, 0.8, 1.6, 3.2)
TEN = tuple(range(1, 11))  # seeds of what the verdicts are about

# The best of the mobile network lies at the edge of FixNorm's range and in a corner of weight decay's.
LOWER = dict(lr_range=(0.05, 0.8))
MOBILE = {
    'fixnorm': FIXNORM,
    'bo': BO,
    'fixnorm-low': {**FIXNORM, **LOWER},
    'unimodal': {**UNIMODAL, **LOWER},
    'bo-low': {**BO, 'lr_range': (0.0125, 0.8), 'weight_decay_range': (1e-4, 0.1)},
}
RESIDUAL = {'fixnorm': FIXNORM, 'bo': BO, 'unimodal': UNIMODAL}


def table1(
    network: str, searches: Mapping[str, dict[str, Any]], reference: Point, untested: Sequence[str] = ()
) -> Callable[[Lab], None]:
    """FixNorm searches, BO + WD and untuned weight decay on one network.

    Args:
        network (str): The first word of its configs.
        searches (Mapping): Settings of each search by the name of its group; ``bo`` begins those of weight decay.
        reference (Point): What is trained untuned.
        untested (Sequence[str]): Groups whose winner is not trained again.
    """

    def run(lab: Lab) -> None:
        wd, fixnorm = f'{network}_wd.py', f'{network}_fixnorm.py'
        for group, settings in searches.items():
            config = wd if group.startswith('bo') else fixnorm
            winner = lab.search(group, config, **settings)
            if group not in untested:
                seeds = TEN if group in TUNED[network] else TEN[:5]
                lab.finals(f'{group}-test', config, winner, seeds=seeds)
        lab.finals('reference-test', wd, reference)

    return run


def chosen(experiment: str, group: str) -> Point:
    """The winner of a search that has been run before."""
    for line in read_lines(RESULTS / f'{experiment}.jsonl'):
        if line['group'] == group and 'winner' in line:
            return Point(*line['winner'])
    raise SystemExit(f'{experiment}, {group}: not in {RESULTS} yet; run {experiment} first')


def fig4(lab: Lab) -> None:
    """Learning rate and alpha on a grid, at two thirds of the length, with two seeds."""
    for seed in (0, 1):
        lab.search(f'grid-seed{seed}', 'residual_fixnorm.py', type='GridSearch', lrs=LRS,
                   alphas=(0.25, 0.5, 1.0, 2.0, 4.0), schedule_fraction=2 / 3, seed=seed)  # fmt: skip


def fig1_2(lab: Lab) -> None:
    """Algorithm 1 and @WN-FC; weight decay and FixNorm are those of table 1."""
    decay = chosen('table1-residual', 'bo').weight_decay
    options = {'optim_wrapper.paramwise_cfg.lambda_fc': decay}
    winner = lab.search('alg1', 'residual_alg1.py', options, type='GridSearch', lrs=LRS)
    lab.finals('alg1-test', 'residual_alg1.py', winner, options=options)
    winner = lab.search('wn-fc', 'residual_wn-fc.py', type='GridSearch', lrs=LRS)
    lab.finals('wn-fc-test', 'residual_wn-fc.py', winner)


def fig2_fit(lab: Lab) -> None:
    """The same where the training set is fitted."""
    decay = chosen('table1-residual', 'bo').weight_decay
    for name in ('wn-fc', 'fixnorm', 'alg1'):
        seeds = TEN if name != 'alg1' else TEN[:3]
        options = {'optim_wrapper.paramwise_cfg.lambda_fc': decay} if name == 'alg1' else {}
        grid: dict[str, Any] = dict(type='GridSearch', lrs=(0.2, 0.8, 3.2))
        if name == 'fixnorm':
            grid = dict(type='GridSearch', lrs=(0.2, 0.8, 3.2), alphas=(0.5, 1.0))
        winner = lab.search(name, f'fit_{name}.py', options, **grid)
        lab.finals(f'{name}-test', f'fit_{name}.py', winner, options=options, seeds=seeds)


def peers(lab: Lab) -> None:
    """Others at the cost of Algorithm 4; weight decay's is the first 11 trainings of BO in table 1."""
    seeds = (1, 2, 3)
    winner = lab.search('per-layer', 'residual_per-layer.py', **FIXNORM)
    lab.finals('per-layer-test', 'residual_per-layer.py', winner, seeds=seeds)
    ranges: dict[str, dict[str, Any]] = {
        'sgdp': {},
        'adamw': dict(lr_range=(2e-4, 2e-2), weight_decay_range=(1e-3, 1.0)),
    }
    for name, own in ranges.items():
        winner = lab.search(name, f'residual_{name}.py', **{**BO, **own, 'num_trials': 11})
        lab.finals(f'{name}-test', f'residual_{name}.py', winner, seeds=seeds)


def beyond(lab: Lab) -> None:
    """Alpha from the measured risk, and equal norms, over the learning rates of Fig. 4."""
    winner = lab.search('auto', 'residual_auto.py', type='GridSearch', lrs=LRS)
    lab.finals('auto-test', 'residual_auto.py', winner)
    alpha = chosen('table1-residual', 'fixnorm').alpha
    options = {'model.head.alpha': alpha}
    for name in ('equal', 'per-layer'):
        winner = lab.search(name, f'residual_{name}.py', options, type='GridSearch', lrs=LRS)
        lab.finals(f'{name}-test', f'residual_{name}.py', winner, options=options)


def ablations(lab: Lab) -> None:
    """One choice of this project changed at a time, at the winner of tuned FixNorm."""
    winner = chosen('table1-residual', 'fixnorm')
    for name in ('projected', 'no-warm-up', 'ema', 'ema-rescaled'):
        lab.finals(name, f'residual_{name}.py', winner)


def transfer(configs: str, lr_range: tuple[float, float] | None = None) -> Callable[[Lab], None]:
    """The same methods on another task, at equal cost: 11 T_max each.

    Args:
        configs (str): Their path, with ``{method}`` for ``fixnorm`` and ``wd``.
        lr_range (tuple): Of both methods, where those of CIFAR-10 do not hold the best.
    """

    def run(lab: Lab) -> None:
        own: dict[str, Any] = {} if lr_range is None else {'lr_range': lr_range}
        for group, method, search in (('fixnorm', 'fixnorm', FIXNORM), ('bo', 'wd', {**BO, 'num_trials': 11})):
            config = configs.format(method=method)
            winner = lab.search(group, config, **{**search, **own})
            lab.finals(f'{group}-test', config, winner, seeds=TEN)

    return run


def deit(lab: Lab) -> None:
    """AdamW on the small transformer, its learning rate and weight decay tuned as those of SGD are on the others."""
    config = 'configs/cifar10/deit-thin_adamw_1xb128-20e_cifar10-5k.py'
    winner = lab.search('bo', config, **{**BO, 'lr_range': (2.5e-4, 0.016), 'weight_decay_range': (1e-3, 1.0)})
    lab.finals('bo-test', config, winner, seeds=rotation.TEST_SEEDS)


EXPERIMENTS: dict[str, Callable[[Lab], None]] = {
    'table1-residual': table1('residual', RESIDUAL, Point(0.4, None, 1e-4)),
    'fig4': fig4,
    'fig1-2': fig1_2,
    'table1-mobile': table1('mobile', MOBILE, Point(0.2, None, 4e-5), untested=['bo']),  # a corner is no baseline
    'fig2-fit': fig2_fit,
    'transfer-digits': transfer('configs/digits/resnet8_{method}_1xb64-20e_digits.py'),
    'transfer-bccd': transfer('bccd_{method}.py', lr_range=(0.01, 0.2)),
    'transfer-camvid': transfer('camvid_{method}.py', lr_range=(0.05, 1.0)),
    'transfer-deit': deit,
    **{f'fine-tune-{name}': fine_tune.task(name) for name in fine_tune.TASKS},
    'beyond': beyond,
    'ablations': ablations,
    'peers': peers,
    **{f'rotation-{name}': rotation.task(name) for name in rotation.TASKS},
    **{f'rotation-{name}': rotation.network(name) for name in rotation.NETWORKS},
    'rotation-law': rotation.law,
    'rotation-default': rotation.default,
    'rotation-short': rotation.short,
    'lr-range': rotation.other_networks,
    'rotation-longer': rotation.longer,
    'rotation-clip': rotation.clip,
    'rotation-decay': rotation.decay,
    'rotation-others': rotation.others,
    'rotation-raised': rotation.raised,
    **{f'lr-fit-{name}': lr_fit.task(name) for name in lr_fit.STOCK_LRS},
}
#: The searches of FixNorm and of weight decay on each task: their experiment and groups.
TUNED = {
    'residual': ('table1-residual', 'fixnorm', 'bo'),
    'mobile': ('table1-mobile', 'fixnorm-low', 'bo-low'),
    'digits': ('transfer-digits', 'fixnorm', 'bo'),
    'bccd': ('transfer-bccd', 'fixnorm', 'bo'),
    'camvid': ('transfer-camvid', 'fixnorm', 'bo'),
}


def marked(name: str, task: str) -> str:
    """A name, with ‡ if the range of learning rates in :data:`TUNED` was chosen for the task after a first look."""
    return f'{name} ‡' if task in ('mobile', 'bccd', 'camvid') else name
