"""The parts of a FixNorm config besides the model: optim wrapper, hooks, search."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import HOOKS, METRICS, OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS

from mmfixnorm.config import hooks_of_type
from mmfixnorm.convert.lr_from import LearningRate
from mmfixnorm.errors import ConfigError
from mmfixnorm.search.methods import parse_settings
from mmfixnorm.search.settings import EXECUTION_KEYS
from mmfixnorm.type_names import type_name

__all__ = ['check_optim_wrapper', 'default_hooks_edit', 'hooks_with_fixnorm', 'optim_wrapper_edit', 'search_block']

_WRAPPERS = {'OptimWrapper': 'FixNormOptimWrapper', 'AmpOptimWrapper': 'FixNormAmpOptimWrapper'}
_CONSTRUCTOR = 'FixNormOptimWrapperConstructor'
# The options of the default constructor that the one of FixNorm takes too, with 0.
_ALLOWED = ('norm_decay_mult', 'bias_decay_mult')
# Constructors that differ from the default one in the learning rates, which FixNorm's takes from them: of mmpretrain;
# of mmdet and mmseg; of mmseg, its former name.
_LAYER_WISE = (
    'LearningRateDecayOptimWrapperConstructor',
    'LearningRateDecayOptimizerConstructor',
    'LayerDecayOptimizerConstructor',
)
# The paper searches from half to 8 times (ImageNet) or 10 times (COCO, Cityscapes) the lr of weight decay.
_LR_FACTORS = (0.5, 8.0)
# What the search of a plain config says of the metric and of how trials are run. The rest is about what it tunes.
_KEPT_OF_SEARCH = EXECUTION_KEYS | {'metric', 'rule', 'select', 'lr_key', 'seed', 'confirm_seeds', 'keep_total_batch'}


def check_optim_wrapper(cfg: Config) -> None:
    """Refuse optim wrappers and constructors that those of FixNorm cannot replace.

    Raises:
        ConfigError: If there is no optim wrapper with one optimizer, or it is of a special kind.
    """
    wrapper = cfg.get('optim_wrapper')
    if not isinstance(wrapper, Mapping) or not isinstance(wrapper.get('optimizer'), Mapping):
        raise ConfigError(f'optim_wrapper: must be a dict with optimizer, got {wrapper!r}; is the config for training?')
    kind = _wrapper_type(cfg)
    if kind not in _WRAPPERS:
        raise ConfigError(
            f'optim_wrapper.type: {kind!r} has no form with norm fixing (only {sorted(_WRAPPERS)} have); '
            "add custom_hooks=[dict(type='FixNormHook')] to the config by hand"
        )
    constructor = _constructor_type(cfg)
    if constructor not in ('DefaultOptimWrapperConstructor', *_LAYER_WISE):
        raise ConfigError(
            f'optim_wrapper.constructor: {constructor!r} is unknown, so what it does besides grouping the parameters '
            f'would be lost; only {[*_LAYER_WISE]} are taken over. If it gives learning rates and nothing else, '
            'convert the config without it, and add to the child '
            f'paramwise_cfg=dict(lr_constructor=dict(type={constructor!r}, ...)); else add '
            "custom_hooks=[dict(type='FixNormHook')] to the config by hand"
        )
    if constructor == 'DefaultOptimWrapperConstructor':
        for key, own in (wrapper.get('paramwise_cfg') or {}).get('custom_keys', {}).items():
            if 'lr' in own:
                raise ConfigError(
                    f'optim_wrapper.paramwise_cfg.custom_keys[{key!r}].lr: got {own["lr"]!r}, but the child takes '
                    'multiples of optim_wrapper.optimizer.lr alone; write it as lr_mult'
                )
    lr = wrapper['optimizer'].get('lr')
    if isinstance(lr, bool) or not isinstance(lr, (int, float)) or not lr > 0:
        raise ConfigError(f'optim_wrapper.optimizer.lr: must be a number > 0 to start from, got {lr!r}')


def optim_wrapper_edit(
    cfg: Config, exclude: Sequence[str], *, decay: bool, rate: LearningRate | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Write the child's ``optim_wrapper``, and comments on it.

    Args:
        cfg (Config): The plain config.
        exclude (Sequence[str]): Patterns of weights that stay out of the set.
        decay (bool): Whether weights outside the set keep the weight decay of the config.
        rate (LearningRate, optional): The learning rate of the child. Defaults to None: the config's.
    """
    wrapper = cfg.optim_wrapper
    edit: dict[str, Any] = dict(type=_WRAPPERS[_wrapper_type(cfg)], constructor=_CONSTRUCTOR)
    comments = []
    if decay:
        comments.append('The weight decay of the base is kept: it acts only on weights outside the set.')
    elif _takes_weight_decay(wrapper.optimizer):
        edit['optimizer'] = dict(weight_decay=0.0)
    if rate is not None:
        edit['optimizer'] = dict(lr=rate.lr, **edit.get('optimizer', {}))
        comments.append(rate.comment)
    inherited = {key: value for key, value in (wrapper.get('paramwise_cfg') or {}).items() if key != '_scope_'}
    if _constructor_type(cfg) in _LAYER_WISE:
        paramwise, dropped = _layer_wise(wrapper.constructor, _constructor_type(cfg), inherited, decay=decay)
        comments.append('lr_constructor: each parameter has the learning rate that the base gives it.')
    else:
        paramwise, dropped = _paramwise(inherited, decay=decay)
    if exclude:
        paramwise['exclude'] = list(exclude)
    if any(key not in _ALLOWED or value != 0 for key, value in inherited.items()):
        edit['paramwise_cfg'] = dict(_delete_=True, **paramwise)
    elif paramwise:
        edit['paramwise_cfg'] = paramwise
    if dropped:
        comments.append(f'Not carried over from paramwise_cfg: {", ".join(dropped)}.')
    return edit, comments


def _wrapper_type(cfg: Config) -> str:
    return type_name(cfg.optim_wrapper.get('type') or 'OptimWrapper', OPTIM_WRAPPERS, cfg.get('default_scope'))


def _constructor_type(cfg: Config) -> str:
    kind = cfg.optim_wrapper.get('constructor') or 'DefaultOptimWrapperConstructor'
    return type_name(kind, OPTIM_WRAPPER_CONSTRUCTORS, cfg.get('default_scope'))


def _takes_weight_decay(optimizer: Mapping[str, Any]) -> bool:
    if 'weight_decay' in optimizer:
        return True
    built = OPTIMIZERS.get(optimizer['type'])
    return built is not None and 'weight_decay' in inspect.signature(built).parameters


def _paramwise(cfg: Mapping[str, Any], *, decay: bool) -> tuple[dict[str, Any], list[str]]:
    """Return the options for the constructor of FixNorm, and the names of dropped options that had an effect."""
    keys = cfg.get('custom_keys', {})
    custom = _custom_keys(keys, ('lr_mult', 'decay_mult') if decay else ('lr_mult',))
    # Options that only switch decay off are dropped silently: the constructor does it, or there is no decay.
    decaying = ('dwconv_decay_mult',) if decay else ()
    dropped = [f'{k}={v}' for k, v in cfg.items() if (k.endswith('lr_mult') or k in decaying) and v not in (1, None)]
    return dict(custom_keys=custom) if custom else {}, dropped + _dropped_of(keys)


def _layer_wise(
    constructor: Any, kind: str, cfg: Mapping[str, Any], *, decay: bool
) -> tuple[dict[str, Any], list[str]]:
    """As :func:`_paramwise`, for a constructor whose learning rates depend on the layer.

    In ``custom_keys``, ``lr_mult`` has no effect with mmpretrain's, and nothing has with those of mmdet and mmseg.
    """
    options = {key: o for key, o in cfg.items() if key != 'custom_keys' and not key.endswith('decay_mult')}
    kept: dict[str, Any] = dict(lr_constructor=dict(type=constructor, **options))
    keys = cfg.get('custom_keys', {}) if kind == 'LearningRateDecayOptimWrapperConstructor' else {}
    if decay and (custom := _custom_keys(keys, ('decay_mult',))):
        kept['custom_keys'] = custom
    return kept, _dropped_of(keys, without_effect=('lr',))


def _custom_keys(keys: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the factors of these names in ``custom_keys``, without keys that make no difference.

    The longest key that a name contains applies alone, so one with factors of 1 counts beside a shorter one.
    """
    factors = dict(
        lr_mult={key: own.get('lr_mult', 1.0) for key, own in keys.items()},
        decay_mult={key: 0.0 if own.get('decay_mult', 1.0) == 0 else 1.0 for key, own in keys.items()},
    )
    used = [name for name in names if any(factor != 1 for factor in factors[name].values())]
    order = sorted(sorted(keys), key=len, reverse=True)  # mmengine's, the first match applies
    while order and all(factors[name][order[-1]] == 1 for name in used):
        order.pop()
    return {key: {name: factors[name][key] for name in used} for key in keys if key in order}


def _dropped_of(keys: Mapping[str, Mapping[str, Any]], without_effect: Sequence[str] = ()) -> list[str]:
    """Name what ``custom_keys`` has besides what FixNorm's constructor takes or has no use for."""
    dropped = []
    for key, own in keys.items():
        taken = {'lr_mult', *without_effect, *(['decay_mult'] if own.get('decay_mult', 1) in (0, 1) else [])}
        if rest := {name: value for name, value in own.items() if name not in taken}:
            dropped.append(f'custom_keys[{key!r}] {rest}')
    return dropped


def default_hooks_edit(cfg: Config) -> dict[str, Any]:
    """Return the child's ``default_hooks``: those that average weights, with averages rescaled to the norm."""
    hooks = (cfg.get('default_hooks') or {}).items()
    return {name: dict(type='FixNormEMAHook') for name, hook in hooks if hook and _averages(cfg, hook)}


def _averages(cfg: Config, hook: Mapping[str, Any]) -> bool:
    return type_name(hook.get('type'), HOOKS, cfg.get('default_scope')) == 'EMAHook'


def hooks_with_fixnorm(cfg: Config) -> list[dict[str, Any]]:
    """Return the hooks of the config, with averages rescaled to the norm, logs of the set and checks of the classes."""
    hooks = [dict(hook) for hook in cfg.get('custom_hooks') or []]
    for hook in hooks:
        if _averages(cfg, hook):
            hook['type'] = 'FixNormEMAHook'
    if not hooks_of_type(cfg, 'WeightNormLoggerHook', HOOKS):
        hooks.append(dict(type='WeightNormLoggerHook', interval=100, per_layer=False))
    if not hooks_of_type(cfg, 'ClassCheckHook', HOOKS):
        hooks.append(dict(type='ClassCheckHook'))
    return hooks


def search_block(
    cfg: Config,
    alpha_keys: Sequence[str],
    lr_range: Sequence[float] | None = None,
    *,
    method: str = 'FixNormSearch',
    linked: Sequence[str] = (),
) -> dict[str, Any] | None:
    """Write the ``search`` block, around the config's learning rate; None if its metric is unknown.

    A search of the plain config is replaced: its weight decay or its learning rates are not those of the child. What it
    says of the metric and of how trials are run stays.

    Args:
        cfg (Config): The plain config.
        alpha_keys (Sequence[str]): Where alpha is.
        lr_range (Sequence[float], optional): Instead of half to 8 times the config's learning rate.
        method (str): ``type`` of the search.
        linked (Sequence[str]): Keys of the numbers that move with the learning rate.

    Raises:
        ConfigError: If ``lr_range`` is not a valid range, or the config's own ``search`` is no dict.
    """
    replaced = cfg.get('search')
    if replaced is not None and not isinstance(replaced, Mapping):
        raise ConfigError(f'search: must be a dict, got {replaced!r}; remove it, or write search=dict(type=..., ...)')
    own = {key: value for key, value in (replaced or {}).items() if key in _KEPT_OF_SEARCH}
    metric = own.pop('metric', None) or _metric(cfg)
    if metric is None:
        return None
    lr = float(cfg.optim_wrapper.optimizer.lr)
    low, high = lr_range or (float(f'{lr * factor:.3g}') for factor in _LR_FACTORS)
    block = {'type': method, 'lr_range': (low, high), 'metric': metric, 'rule': 'greater', **own}
    block['alpha_key'] = alpha_keys[0] if len(alpha_keys) == 1 else list(alpha_keys)
    if linked:
        block['linked_keys'] = list(linked)
    parse_settings(block)
    return block if replaced is None else dict(_delete_=True, **block)


def _metric(cfg: Config) -> str | None:
    evaluators = cfg.get('val_evaluator') or []
    for evaluator in [evaluators] if isinstance(evaluators, Mapping) else evaluators:
        prefix, name_of = _METRICS.get(type_name(evaluator.get('type'), METRICS, cfg.get('default_scope')), ('', None))
        name = name_of and name_of(evaluator)
        if name:
            prefix = evaluator.get('prefix') or prefix
            return f'{prefix}/{name}' if prefix else name
    return None


def _accuracy(options: Mapping[str, Any]) -> str:
    return f'top{min(_several(options.get("topk", 1)))}{_of_threshold(options)}'


def _single_label(options: Mapping[str, Any]) -> str | None:
    item = _item(options)
    average = options.get('average', 'macro')
    if not item or average is None:  # one number for each class
        return None
    return f'{item}{_of_threshold(options)}{"_micro" if average == "micro" else ""}'


def _multi_label(options: Mapping[str, Any]) -> str | None:
    item = _item(options)
    average = options.get('average', 'macro')
    if not item or average is None:
        return None
    thr, topk = options.get('thr'), options.get('topk')
    if thr is None and topk is None:
        thr = 0.5
    at = ('' if thr == 0.5 else f'_thr-{thr:.2f}') if thr else f'_top{topk}'
    return f'{item}{at}{"" if average == "macro" else f"_{average}"}'


def _average_precision(options: Mapping[str, Any]) -> str | None:
    return 'mAP' if options.get('average', 'macro') else None


def _coco(options: Mapping[str, Any]) -> str | None:
    if options.get('format_only'):
        return None
    first = _several(options.get('metric', 'bbox'))[0]
    if first == 'proposal_fast':
        return f'AR@{options.get("proposal_nums", (100,))[0]}'
    by_default = 'AR@100' if first == 'proposal' else 'mAP'
    items = options.get('metric_items') or [by_default]
    item = by_default if by_default in items else items[0]
    return item if first == 'proposal' else f'{first}_{item}'


def _voc(options: Mapping[str, Any]) -> str:
    if _several(options.get('metric', 'mAP'))[0] == 'mAP':
        return 'mAP'
    return f'recall@{options.get("proposal_nums", (100,))[0]}@{_several(options.get("iou_thrs", 0.5))[0]}'


def _iou(options: Mapping[str, Any]) -> str | None:
    return None if options.get('format_only') else _several(options.get('iou_metrics', 'mIoU'))[0]


def _several(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else [value]


def _item(options: Mapping[str, Any]) -> str | None:
    items = options.get('items', ('f1-score',))
    return next((item for item in ('f1-score', 'precision', 'recall') if item in items), None)


def _of_threshold(options: Mapping[str, Any]) -> str:
    thrs = _several(options.get('thrs', 0.0))
    if len(thrs) == 1:
        return ''
    return '_no-thr' if thrs[0] is None else f'_thr-{thrs[0]:.2f}'


# Evaluator to its prefix, and what tells the name of its first number from its options: None if it reports none.
_METRICS: dict[str, tuple[str, Callable[[Mapping[str, Any]], str | None]]] = {
    'Accuracy': ('accuracy', _accuracy),
    'SingleLabelMetric': ('single-label', _single_label),
    'MultiLabelMetric': ('multi-label', _multi_label),
    'AveragePrecision': ('multi-label', _average_precision),
    'CocoMetric': ('coco', _coco),
    'VOCMetric': ('pascal_voc', _voc),
    'IoUMetric': ('', _iou),
}
