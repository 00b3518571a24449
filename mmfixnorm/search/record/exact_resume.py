"""Whether a training of a config that continues from a checkpoint is, to the last bit, the one that is not interrupted.

Yes only where all that a checkpoint does not hold is known to be the same again; what is not known counts as no.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from mmfixnorm.config import dicts_in
from mmfixnorm.type_names import type_name

# Hooks without a state, or with one that their checkpoints hold. Of `CheckpointHook` more is asked below.
_HOOKS = frozenset(
    {
        'CheckpointHook',
        'CheckInvalidLossHook',
        'ClassCheckHook',
        'CrossBoundaryRiskHook',
        'DetVisualizationHook',
        'DistSamplerSeedHook',
        'EMAHook',
        'EmptyCacheHook',
        'EpochSeedHook',
        'FixNormEMAHook',
        'FixNormHook',
        'IterTimerHook',
        'LoggerHook',
        'NumClassCheckHook',
        'ParamSchedulerHook',
        'RuntimeInfoHook',
        'ScaleInitHook',
        'SegVisualizationHook',
        'SyncBuffersHook',
        'VisualizationHook',
        'WNScaleInitHook',
        'WeightNormHook',
        'WeightNormLoggerHook',
    }
)
# Samplers whose order follows from seed and epoch.
_SAMPLERS = frozenset({'DefaultSampler', 'RepeatAugSampler'})
_BATCH_SAMPLERS = frozenset({'AspectRatioBatchSampler', 'BatchSampler'})


def why_not_exact(cfg: Config) -> str:
    """Return why a training that continues may differ from one that is not interrupted; empty if it does not.

    What depends on the device is not asked here.
    """
    return next(_obstacles(cfg), '')


def _obstacles(cfg: Config) -> Iterator[str]:
    if cfg.get('runner_type', 'Runner') != 'Runner':
        yield f'runner_type is {cfg.runner_type!r}, not Runner'
    train_cfg = cfg.get('train_cfg') or {}
    loop = type_name(train_cfg.get('type', 'EpochBasedTrainLoop'))
    if train_cfg.get('max_epochs') is None or loop != 'EpochBasedTrainLoop':
        yield 'train_cfg: only a training by epochs draws the same random numbers again'
    hooks = dict(_hooks(cfg))
    kinds = {key: type_name(hook.get('type', '')) for key, hook in hooks.items()}
    if 'EpochSeedHook' not in kinds.values():
        yield 'default_hooks: without EpochSeedHook, a training that continues draws other random numbers'
    for key, kind in kinds.items():
        if kind not in _HOOKS:
            yield f'{key}: {kind} may have a state that is not in checkpoints'
    yield from _about_checkpoints((cfg.get('default_hooks') or {}).get('checkpoint', {}))
    yield from _about_data(cfg)
    if any(part.get('accumulative_counts', 1) != 1 for part in dicts_in(cfg.get('optim_wrapper'))):
        yield 'optim_wrapper.accumulative_counts: gradients that are accumulated are not in checkpoints'
    if any('Plateau' in type_name(part.get('type', '')) for part in dicts_in(cfg.get('param_scheduler'))):
        yield 'param_scheduler: one that follows the metric is not restored with its last validation'


def _hooks(cfg: Config) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, hook in (cfg.get('default_hooks') or {}).items():
        if hook is not None:
            yield f'default_hooks.{name}', hook
    for i, hook in enumerate(cfg.get('custom_hooks') or []):
        yield f'custom_hooks.{i}', hook


def _about_checkpoints(hook: Mapping[str, Any] | None) -> Iterator[str]:
    if hook is None:
        yield 'default_hooks.checkpoint is None'
        return
    required = {
        'type': 'CheckpointHook',
        'by_epoch': True,
        'save_optimizer': True,
        'save_param_scheduler': True,
        'save_best': None,  # the file and its metric belong to another trial's folder
        'published_keys': None,
        'backend_args': None,
        'filename_tmpl': None,
    }
    for name, value in required.items():
        given = hook.get(name, value)
        if (type_name(given) if name == 'type' else given) != value:
            yield f'default_hooks.checkpoint.{name} is {given!r}'


def _about_data(cfg: Config) -> Iterator[str]:
    loader = cfg.get('train_dataloader') or {}
    workers = loader.get('num_workers', 0)
    # What `mmfixnorm.launch` sets where a config of mmpretrain is silent.
    if workers and loader.get('persistent_workers', cfg.get('default_scope') == 'mmpretrain'):
        yield 'train_dataloader.persistent_workers: worker processes keep random states of their own'
    for name, known in (('sampler', _SAMPLERS), ('batch_sampler', _BATCH_SAMPLERS)):
        kind = type_name((loader.get(name) or {}).get('type', ''))
        if kind and kind not in known:
            yield f'train_dataloader.{name}: where {kind} was is not in checkpoints'
