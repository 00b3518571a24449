"""From a config file to a Runner, for the tools and the trials of a search.

Needs only mmengine and torch. Mistakes of the user become a :class:`~mmfixnorm.errors.ConfigError`;
all other errors keep their traceback.
"""

import copy
import logging
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlparse

import torch
import torch.distributed as dist
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.registry import MODEL_WRAPPERS, MODELS, OPTIM_WRAPPERS, RUNNERS, init_default_scope
from mmengine.runner import Runner
from torch import nn

import mmfixnorm.engine  # noqa: F401  # registers optim wrappers and hooks, also for configs that import nothing
from mmfixnorm.config import dicts_in, load_config
from mmfixnorm.data_checks.datasets import check_not_empty, leaf_datasets
from mmfixnorm.data_checks.explain import explain_failure
from mmfixnorm.data_checks.paths import (
    check_checkpoint,
    check_exists,
    data_paths,
    local_starts,
    weights_to_start_from,
)
from mmfixnorm.engine.evaluation import check_evaluation
from mmfixnorm.engine.hooks.update_param_scheduler_hook import UpdateParamSchedulerHook
from mmfixnorm.errors import ConfigError, RaisedError
from mmfixnorm.failures import explain_missing, failed_download, raised_by
from mmfixnorm.type_names import type_name

__all__ = [
    'CPUDistributedDataParallel',
    'build_model',
    'build_runner',
    'build_testing',
    'build_training',
    'initialise',
    'load_config',
    'set_work_dir',
    'train',
    'use_amp',
]

AMP_WRAPPERS = {
    'OptimWrapper': 'AmpOptimWrapper',
    'AmpOptimWrapper': 'AmpOptimWrapper',
    'FixNormOptimWrapper': 'FixNormAmpOptimWrapper',
    'HyperballOptimWrapper': 'HyperballAmpOptimWrapper',
    'HyperballAmpOptimWrapper': 'HyperballAmpOptimWrapper',
    'FixNormAmpOptimWrapper': 'FixNormAmpOptimWrapper',
    'PerLayerFixNormOptimWrapper': 'PerLayerFixNormAmpOptimWrapper',
    'PerLayerFixNormAmpOptimWrapper': 'PerLayerFixNormAmpOptimWrapper',
    'RotationalOptimWrapper': 'RotationalAmpOptimWrapper',
    'RotationalAmpOptimWrapper': 'RotationalAmpOptimWrapper',
}
_OTHER_GROUPS = (
    'loaded state dict '  # torch's: 'has a different number of parameter groups', 'contains a parameter group ...'
)
# The errors of mmengine, the toolboxes and this package for a config that cannot be built.
# mmengine checks arguments by assertions too.
_BUILD_ERRORS = (
    AssertionError,
    ImportError,
    KeyError,
    OSError,
    TypeError,
    ValueError,
)


def set_work_dir(cfg: Config, work_dir: str | None) -> None:
    """Set ``cfg.work_dir``: the option first, then the config, then the config's file name."""
    stem = os.path.splitext(os.path.basename(cfg.filename))[0]
    cfg.work_dir = work_dir or cfg.get('work_dir') or os.path.join('work_dirs', stem)


def use_amp(cfg: Config) -> None:
    """Replace the optim wrapper by its automatic-mixed-precision form, in place.

    Raises:
        ConfigError: If the wrapper of the config has no such form.
    """
    wrapper = cfg.get('optim_wrapper')
    if not isinstance(wrapper, ConfigDict):
        raise ConfigError(f'--amp: optim_wrapper must be a dict, got {wrapper!r}')
    kind = type_name(wrapper.get('type', 'OptimWrapper'), OPTIM_WRAPPERS, cfg.get('default_scope'))
    if kind not in AMP_WRAPPERS:
        raise ConfigError(
            f'--amp: optim_wrapper.type must be one of {sorted(AMP_WRAPPERS)}, got {kind!r}; '
            'name the mixed-precision wrapper in the config instead'
        )
    wrapper['type'] = AMP_WRAPPERS[kind]
    wrapper.setdefault('loss_scale', 'dynamic')


def build_runner(cfg: Config) -> Runner:
    """Build the Runner of a config, on any number of processes, with or without a GPU.

    ``cfg.launcher`` and ``cfg.work_dir`` must be set. On a machine without an accelerator and with launcher
    ``pytorch`` or ``slurm``, the processes communicate by gloo and SyncBN layers become BN.

    Raises:
        ConfigError: If a part of the config cannot be built, or the work dir cannot be written.
    """
    _check_work_dir(cfg.work_dir)
    _fill_dataloader_defaults(cfg)
    if cfg.get('launcher', 'none') in ('pytorch', 'slurm') and get_device() == 'cpu':
        _join_gloo_group(cfg)
        _wrap_for_cpu(cfg)
    with _config_errors():
        if 'runner_type' in cfg:
            return RUNNERS.build(cfg)
        return Runner.from_cfg(cfg)


def build_model(cfg: Config) -> nn.Module:
    """Build only the model of a config, as a Runner would; its weights are not initialised.

    Raises:
        ConfigError: If it cannot be built.
    """
    if not isinstance(cfg.get('model'), ConfigDict):
        raise ConfigError(f'model: must be a dict, got {cfg.get("model")!r}')
    model = copy.deepcopy(cfg.model)  # mmseg writes `pretrained` into the dict of the backbone
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    with _config_errors():
        init_default_scope(cfg.get('default_scope') or 'mmengine')
        return MODELS.build(model)


def initialise(model: Any) -> None:
    """Give a model the weights that its classes start with, as a Runner does before the first iteration.

    Raises:
        ConfigError: If its own code cannot, such as that of a model that nothing but pretrained weights can fill.
    """
    if not hasattr(model, 'init_weights'):
        return
    try:
        model.init_weights()
    except Exception as err:  # of any kind: it is code of a toolbox, or of the user
        raise RaisedError(
            f'model: {type(model).__name__} cannot initialise its weights, without pretrained ones for instance: '
            f'{raised_by(err)}'
        ) from err


def build_training(runner: Runner) -> set[str] | None:
    """Build ahead the loops, data sets and optim wrapper that ``runner.train()`` needs.

    This separates a mistake in the config (a missing data folder, an empty set of weights to fix)
    from an error of the training itself. ``train`` keeps the parts that are already built.

    Returns:
        set[str]: Names of the numbers that a validation will report; None if its evaluator cannot be asked.

    Raises:
        ConfigError: If a part of the config cannot be built, or a validation would fail.
    """
    for key, path in local_starts(runner.cfg).items():
        check_checkpoint(path, key)
    if _build_loop(runner, 'train') is None:
        raise ConfigError('train_cfg, train_dataloader and optim_wrapper must be set to train')
    with _config_errors():
        if isinstance(runner, Runner):  # the strategy of a FlexibleRunner builds its own
            runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    for hook in _update_hooks(runner):
        hook.count_updates(runner)
    _warn_of_warm_up(runner)
    _build_loop(runner, 'val')
    return check_evaluation(runner, 'val')


def train(runner: Runner) -> None:
    """Train.

    Raises:
        ConfigError: Weights to start from cannot be downloaded; the message names their config key. Or the optimizer of
            a checkpoint to resume does not fit. All other errors of a training keep their traceback.
    """
    try:
        runner.train()
    except Exception as err:
        if isinstance(err, ValueError) and _OTHER_GROUPS in str(err):
            raise ConfigError(
                f'resume: the optimizer of the checkpoint has other parameter groups than this config makes ({err}). '
                'Resume with the config of its run, or start a new run from its weights with load_from'
            ) from err
        reason, starts = failed_download(err), _missing_downloads(runner)
        if reason is None or not starts or runner.iter:
            raise
        names = ', '.join(f'{key}={checkpoint!r}' for key, checkpoint in starts.items())
        raise ConfigError(
            f'{names}: weights that cannot be downloaded ({reason}). Put the file into '
            f'{_download_dir()!r}, from a machine with a network, or give the path of '
            f'a local one; to train from scratch, set {" and ".join(starts)} to None'
        ) from err


def build_testing(runner: Runner) -> None:
    """Build ahead the loop and data that ``runner.test()`` needs, as :func:`build_training` does."""
    if _build_loop(runner, 'test') is None:
        raise ConfigError('test_cfg, test_dataloader and test_evaluator must be set to test')
    check_evaluation(runner, 'test')


@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """``MMDistributedDataParallel`` for a machine without a GPU.

    Has no device ids, which torch refuses for a model on the CPU, and BN instead of SyncBN, which
    needs a GPU.
    """

    def __init__(self, module: nn.Module, device_ids: list[int] | None = None, **kwargs: Any) -> None:
        del device_ids
        if any(isinstance(m, nn.SyncBatchNorm) for m in module.modules()):
            print_log('No GPU: every SyncBN layer becomes BN.', logger='current')
            module = revert_sync_batchnorm(module)
        super().__init__(module=module, device_ids=None, **kwargs)


def _build_loop(runner: Runner, mode: str) -> Any:
    """Build the loop of a runner and check its data, so that errors name their config key."""
    with _config_errors():
        try:
            loop = getattr(runner, f'{mode}_loop')  # a property that builds
        except (*_BUILD_ERRORS, RuntimeError) as err:  # data sets raise RuntimeErrors too
            explain_failure(err, runner.cfg, mode)
            raise
    dataset = getattr(getattr(loop, 'dataloader', None), 'dataset', None)
    for key, leaf in leaf_datasets(dataset, f'{mode}_dataloader.dataset'):
        check_not_empty(leaf, key)
    for key, path in data_paths(runner.cfg, [mode] if dataset is not None else []).items():
        # Otherwise a missing image folder shows up in a worker's traceback. Masks are optional in testing.
        if '.data_prefix' in key and not (mode == 'test' and 'seg' in key.rsplit('.', 1)[-1]):
            check_exists(key, path)
    return loop


def _update_hooks(runner: Runner) -> list[UpdateParamSchedulerHook]:
    return [hook for hook in runner.hooks if isinstance(hook, UpdateParamSchedulerHook)]


def _warn_of_warm_up(runner: Runner) -> None:
    """Warn of a warm-up that is as long as the training: the learning rate of the config is then never reached."""
    iterations, epochs = runner.max_iters, runner.max_epochs
    for hook in _update_hooks(runner):
        iterations //= hook.interval_of(runner)
    for schedule in dicts_in(runner.param_schedulers):
        unit, length = ('epoch', epochs) if schedule.get('by_epoch', True) else ('iteration', iterations)
        end = schedule.get('end')
        if end is not None and end >= length and _is_warm_up(schedule):
            print_log(
                f'param_scheduler: {type_name(schedule["type"])} warms up to {unit} {end}, and the training has '
                f'{length}: it never reaches the learning rate of the config; lower end',
                logger='current',
                level=logging.WARNING,
            )


def _is_warm_up(schedule: dict[str, Any]) -> bool:
    kind = type_name(schedule.get('type', ''))
    factors = {'LinearLR': schedule.get('start_factor', 1 / 3), 'ConstantLR': schedule.get('factor', 1 / 3)}
    raised = any(kind.endswith(name) and factor < schedule.get('end_factor', 1) for name, factor in factors.items())
    return schedule.get('begin', 0) == 0 and (raised or 'Warmup' in kind)


def _download_dir() -> str:
    return os.path.join(torch.hub.get_dir(), 'checkpoints')


def _missing_downloads(runner: Runner) -> dict[str, str]:
    """Return the addresses of weights to start from whose file may not be downloaded yet, by their config keys."""
    found = {}
    for key, value in weights_to_start_from(runner.cfg).items():
        if '://' in value:
            address = urlparse(value)
            # Names such as torchvision://resnet50 do not say what their file is called.
            file = os.path.basename(address.path) if address.scheme in ('http', 'https') else ''
            if not file or not os.path.exists(os.path.join(_download_dir(), file)):
                # An entry of a list of initialisers cannot be None, the list can.
                found[re.sub(r'\.\d+$', '', key.removesuffix('.checkpoint'))] = value
    return found


def _check_work_dir(work_dir: str) -> None:
    try:
        os.makedirs(work_dir, exist_ok=True)
        with tempfile.TemporaryFile(dir=work_dir):
            pass
    except OSError as err:
        raise ConfigError(f'work_dir: cannot write to {work_dir!r} ({err.strerror})') from err


def _fill_dataloader_defaults(cfg: Config) -> None:
    """Set the defaults that mmpretrain's own train.py sets; only its configs rely on them."""
    if cfg.get('default_scope') != 'mmpretrain':
        return
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(key)
        if isinstance(loader, ConfigDict):
            loader.setdefault('pin_memory', torch.cuda.is_available())
            loader.setdefault('persistent_workers', loader.get('num_workers', 0) > 0)
            loader.setdefault('collate_fn', dict(type='default_collate'))


def _join_gloo_group(cfg: Config) -> None:
    """Start the process group before ``Runner.setup_env``, which would need a GPU."""
    if dist.is_initialized():
        return
    env = os.environ
    if cfg.launcher == 'slurm':
        env.setdefault('MASTER_PORT', '29500')
        if 'MASTER_ADDR' not in env:
            nodes = ['scontrol', 'show', 'hostnames', env['SLURM_NODELIST']]
            env['MASTER_ADDR'] = subprocess.check_output(nodes, text=True).split()[0]
        env['RANK'], env['WORLD_SIZE'] = env['SLURM_PROCID'], env['SLURM_NTASKS']
        env['LOCAL_RANK'] = env['SLURM_LOCALID']
    missing = [name for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT') if name not in env]
    if missing:
        raise ConfigError(
            f'--launcher {cfg.launcher}: {", ".join(missing)} not set in the environment; '
            'start it by tools/dist_train.sh, or omit the option for a single process'
        )
    dist.init_process_group(backend='gloo')


def _wrap_for_cpu(cfg: Config) -> None:
    wrapper = cfg.get('model_wrapper_cfg')
    if wrapper is None:
        wrapper = ConfigDict(
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
    kind = wrapper.get('type', 'MMDistributedDataParallel')
    if type_name(kind, MODEL_WRAPPERS, cfg.get('default_scope')) == 'MMDistributedDataParallel':
        wrapper['type'] = 'CPUDistributedDataParallel'
    cfg.model_wrapper_cfg = wrapper


@contextmanager
def _config_errors() -> Iterator[None]:
    try:
        yield
    except ConfigError:
        raise
    except (*_BUILD_ERRORS, RuntimeError) as err:
        # Some toolboxes ask for a package by a RuntimeError; every other one keeps its traceback.
        if isinstance(err, _BUILD_ERRORS) or explain_missing(err):
            raise raised_by(err) from err
        raise
