"""The scale-invariance audit of the model of a config, with a generated batch."""

from __future__ import annotations

import copy
import gc
import math
import os
import re
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS, WEIGHT_INITIALIZERS, Registry
from mmengine.runner.checkpoint import load_checkpoint
from torch import Tensor, nn

from mmfixnorm.config import PARTS, dicts_in
from mmfixnorm.core import AuditReport, audit, fill_scales, norm_fixing_parameters
from mmfixnorm.core.layer_kinds import is_norm_layer
from mmfixnorm.core.membership import flagged
from mmfixnorm.engine import AutoAlphaHook, FixNormHook, FixNormOptimWrapperConstructor
from mmfixnorm.errors import ConfigError
from mmfixnorm.failures import message_of, raised_by
from mmfixnorm.fold import NO_CHECKPOINT
from mmfixnorm.launch import build_model, initialise
from mmfixnorm.type_names import registered, type_name

__all__ = [
    'SET',
    'ConfigAudit',
    'adapt',
    'audit_config',
    'audit_model',
    'check_scope',
    'first_epoch',
    'hooks_of_class',
    'images_of',
    'load_weights',
    'model_of',
    'norm_fixing_set',
    'prepared_model',
    'with_scope',
    'with_usual_images',
]

SET = 'norm-fixing set'
"""Name of the group that holds the norm-fixing set of the config."""

_SIZE_KEYS = ('scale', 'crop_size', 'size')  # of the transforms of a pipeline
_LIGHT = 64, 128  # pixels of the images with which single weights are measured
_QUERIES = 50  # of a transformer's decoder
_FAILURES = (
    ArithmeticError, AssertionError, AttributeError, KeyError, IndexError, NotImplementedError, RuntimeError, TypeError,
    ValueError,
)  # fmt: skip
# What torch says where a feature map is smaller than a kernel, its padding, or a normalisation can work with.
_TOO_SMALL = re.compile(
    r"Kernel size can't be greater|[Pp]adding size should be less|is too small|more than 1 value per|"
    r'selected index k out of range|smaller than kernel'
)
# What it says where a classifier takes feature maps of one size only.
_ONE_SIZE = re.compile(r'shapes cannot be multiplied|must match the size of tensor')


class _SizeError(ConfigError):
    """The model takes images of another size.

    Args:
        text (str): The message.
        larger (int, optional): A size that may do, if they are too small.
    """

    def __init__(self, text: str, larger: int | None) -> None:
        super().__init__(text)
        self.larger = larger


@dataclass(frozen=True)
class ConfigAudit:
    """The result of auditing a config.

    Attributes:
        report: The report on all weights. With a norm-fixing set, ``report.groups[0]`` is that set, unless the audit
            was brief.
        norm_fixing_set: Names of the weights in the set of the config; None without norm fixing.
        size: Height and width of the images, in pixels.
    """

    report: AuditReport
    norm_fixing_set: tuple[str, ...] | None
    size: int

    @property
    def failing(self) -> tuple[str, ...]:
        """The weights of the set that are not scale-invariant by themselves."""
        return tuple(name for name in self.norm_fixing_set or () if not self.report[name].scale_invariant)

    @property
    def passes(self) -> bool:
        """Whether the set, if there is one, consists of scale-invariant weights only."""
        return not self.failing

    def to_dict(self) -> dict[str, Any]:
        """Convert the result to plain data, for JSON."""
        return dict(
            passes=self.passes,
            size=self.size,
            norm_fixing_set=None if self.norm_fixing_set is None else list(self.norm_fixing_set),
            failing=list(self.failing),
            **self.report.to_dict(),
        )


def audit_config(
    cfg: Config,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    device: str = 'cpu',
    **kwargs: Any,
) -> ConfigAudit:
    """Build the model of a config and audit it with a generated batch; no data set is needed.

    Args:
        cfg (Config): A config of mmpretrain, mmdet or mmseg.
        checkpoint (str, optional): Weights to load. Defaults to None: initialised weights, without a download of
            pretrained ones.
        device (str): The device to run on.
        **kwargs: Arguments of :func:`audit_model`.

    Raises:
        ConfigError: If the device or the toolbox is unknown, the model cannot be built, the checkpoint does not fit, or
            the model cannot run with the generated batch.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as err:  # an unknown name; a device that is missing, or torch without it
        reason = message_of(err).partition('\n')[0]
        raise ConfigError(f"--device: {device!r} cannot be used ({reason}); 'cpu' always can") from err
    cfg = with_scope(cfg)
    if checkpoint is None and kwargs.get('size') is None:
        cfg = with_usual_images(cfg)
    model = prepared_model(cfg, checkpoint).to(device)
    return audit_model(model, cfg, **kwargs)


def audit_model(
    model: nn.Module,
    cfg: Config,
    *,
    images: int | None = None,
    size: int | None = None,
    dtype: torch.dtype | None = None,
    seed: int = 0,
    explain: bool = True,
    find_groups: bool = True,
    follow: Collection[str] | None = None,
    brief: bool = False,
    progress: Callable[[str], None] | None = None,
) -> ConfigAudit:
    """Audit the built model of a config, on the losses of one training forward with a generated batch.

    Args:
        model (nn.Module): The model of ``cfg``, with its weights.
        cfg (Config): The config; names the toolbox, the image size and the norm-fixing set.
        images (int, optional): Batch size. Defaults to 3 for classification, 2 for detection and 4 for segmentation,
            or 2 of a size at which more would take too much memory.
        size (int, optional): Height and width of the images. Defaults to the ``img_size`` of a transformer, else to
            224 for classification, 192 for detection and 128 for segmentation, and up to four times that where those
            are too small for the model, or the size of the training's images where it takes no other.
        dtype (torch.dtype, optional): The dtype of the computation. Defaults to float64, or float32 if the model
            cannot run in float64; the report says which.
        seed (int): Seed of the batch and of the forwards.
        explain (bool): Whether to find the reasons for failures, which takes most of the time.
        find_groups (bool): Whether to look for tensors that hold only together, if ``explain``.
        follow (Collection[str], optional): The weights to follow through the forward, if ``explain``. Defaults to None:
            all that fail for no other reason.
        brief (bool): As in :func:`mmfixnorm.core.audit`; the set is not scaled together either.
        progress (Callable, optional): Is called with a few words on what is measured next.

    Raises:
        ConfigError: If the toolbox is unknown, the model trains on something else than images with labels, boxes or
            masks, or it cannot run with the generated batch.
    """
    cfg = with_scope(cfg)
    toolbox = _toolbox(cfg)
    if needed := toolbox.what_it_needs(model):
        raise ConfigError(f'model: {type(model).__name__} trains on {needed}, which a generated batch does not have')
    # As the runner does before each epoch; puts batch normalisations with norm_eval into evaluation mode.
    model.train()
    preprocessor = copy.deepcopy(getattr(model, 'data_preprocessor', None))
    in_set = norm_fixing_set(model, cfg)
    options: dict[str, Any] = dict(seed=seed, explain=explain, find_groups=find_groups, progress=progress)
    options['follow'] = follow
    options |= dict(groups={} if in_set is None or brief else {SET: in_set}, brief=brief)
    asked = size or _fixed_size(cfg)
    side, report = asked or int(toolbox.SIZE), None
    largest, tried = side if asked else 4 * side, set[int]()
    try:
        while report is None:
            tried.add(side)
            try:
                report = _in_its_precision(model, toolbox, images or images_of(toolbox, side), side, dtype, **options)
            except _SizeError as err:
                other = err.larger or _loaded_size(cfg)
                if other is None or other in tried or other > largest:
                    raise
                side = other
    except ImportError as err:  # of a package that only the forward needs
        raise raised_by(err) from err
    finally:
        if preprocessor is not None:
            model.data_preprocessor = preprocessor
    gc.collect()  # the copies of the model, whose hooks refer to what holds them
    return ConfigAudit(report, None if in_set is None else tuple(in_set), side)


def images_of(toolbox: Any, side: int) -> int:
    """Return how many images of ``side`` x ``side`` pixels a generated batch has.

    No more pixels than the usual batch has at twice the usual size, but two images, without which a batch normalisation
    behind a global pooling has one value.
    """
    return max(2, min(toolbox.IMAGES, toolbox.IMAGES * (2 * toolbox.SIZE) ** 2 // side**2))


def _in_its_precision(
    model: nn.Module, toolbox: Any, images: int, side: int, dtype: torch.dtype | None, **options: Any
) -> AuditReport:
    """Audit in ``dtype``, or in float64 and else in float32; the error of the wider one tells more."""
    try:
        return _measured(model, toolbox, images, side, dtype or torch.float64, **options)
    except _FAILURES as err:
        if dtype is None:
            with suppress(*_FAILURES):
                return _measured(model, toolbox, images, side, torch.float32, **options)
        raise _not_audited(model, side, dtype or torch.float64, err) from err


def _measured(model: Any, toolbox: Any, images: int, side: int, dtype: torch.dtype, **options: Any) -> AuditReport:
    def losses_of(images: int, side: int) -> Callable[[nn.Module], Any]:
        # Of either type, as the audit also runs quick forwards in float32.
        batches = {
            own: toolbox.generate_batch(model, images=images, size=(side, side), dtype=own, seed=options['seed'])
            for own in {dtype, torch.float32}
        }
        return _losses(batches, toolbox)

    losses = losses_of(images, side)
    # Smaller ones would leave the batch normalisation of the last feature maps too few values.
    light = []
    for small in _LIGHT:
        with suppress(*_FAILURES):  # a model of one size
            if small <= side / 1.5:
                light.append(losses_of(min(images, 2), small))
    with _double_precision(toolbox, dtype), first_epoch(model):
        return audit(model, losses, dtype=dtype, light=light, quick=light or [losses], **options)


def model_of(cfg: Config) -> nn.Module:
    """Build the model of a config without any download and in one process, as its classes initialise it.

    Raises:
        ConfigError: If the model cannot be built.
    """
    cfg = copy.deepcopy(cfg)
    _without_pretrained(cfg.get('model'))
    for node in dicts_in(cfg.get('model')):
        if node.get('type') == 'MMSyncBN':  # mmcv's cannot be built outside a process group; torch's computes the same
            node['type'] = 'SyncBN'
    return build_model(cfg)


def _loaded_size(cfg: Config) -> int | None:
    """Return the height and width to which the pipeline of the training data brings its images; None if unknown."""
    sizes = [
        value for node in dicts_in(cfg.get('train_dataloader')) for key, value in node.items() if key in _SIZE_KEYS
    ]
    return next((value for value in reversed(sizes) if isinstance(value, int)), None)


def _fixed_size(cfg: Config) -> int | None:
    model = cfg.get('model')
    backbone = model.get('backbone') if isinstance(model, Mapping) else None
    size = backbone.get('img_size') if isinstance(backbone, Mapping) else None
    return size if size is None or isinstance(size, int) else int(size[0])


def with_usual_images(cfg: Config) -> Config:
    """Let a transformer that is built for much larger images take those of the usual size, in a copy of its config.

    The same layers with fewer tokens; attention between all of them takes memory with the fourth power of the size,
    more than 21 GB for BEiT with UPerNet at 640 pixels. A config with smaller images, or with none, is returned as it
    is. For weights of a checkpoint it does not do: some tables of positions are for one size.
    """
    largest, usual = _fixed_size(cfg), int(_toolbox(cfg).SIZE)
    if largest is None or largest <= 2 * usual:
        return cfg
    cfg = copy.deepcopy(cfg)
    cfg.model.backbone.img_size = usual
    return cfg


def prepared_model(cfg: Config, checkpoint: str | os.PathLike[str] | None = None) -> nn.Module:
    """Build the model of a config with initialised or loaded weights, without any download.

    Without a checkpoint, a frozen norm layer that starts at zero, as the last one of a residual block does, gets ones:
    nothing but the pretrained weights could open its branch. A weight that its class leaves as the memory was, as the
    convolutions of TridentNet, is drawn as torch draws those of a convolution.

    Raises:
        ConfigError: If the model cannot be built or initialised, or the checkpoint does not fit.
    """
    with _nan_where_nothing_is_set():
        model: Any = model_of(cfg)
        initialise(model)
    _fill(model)
    if checkpoint is not None:
        state = load_weights(model, str(checkpoint), named_by='--load-from')
        loaded = {key.removeprefix('module.') for key in state.get('state_dict', state)}
        if not loaded & set(model.state_dict()):
            raise ConfigError(f'--load-from {checkpoint}: it contains no tensor of this model')
    else:
        for norm in filter(is_norm_layer, model.modules()):
            weight = norm._parameters.get('weight')
            if weight is not None and not weight.requires_grad and not weight.any():
                nn.init.ones_(weight)
    fill_scales(model)
    if hooks_of_class(cfg, AutoAlphaHook):
        for module in model.modules():  # the hook sets alpha in training, but no hook runs here
            if hasattr(module, 'waits_for_alpha'):
                module.waits_for_alpha = False
    return model


def load_weights(model: nn.Module, checkpoint: str, *, named_by: str) -> dict[str, Any]:
    """Load the weights of a checkpoint, a file or what else mmengine can load, into a model; return the checkpoint.

    Raises:
        ConfigError: If there is none, or it is damaged; the message begins with ``named_by``.
    """
    try:
        return dict(load_checkpoint(model, checkpoint, map_location='cpu'))
    except OSError as err:
        raise ConfigError(f'{named_by} {checkpoint}: {err}') from err
    except NO_CHECKPOINT as err:
        raise ConfigError(f'{named_by} {checkpoint}: not a checkpoint ({type(err).__name__}: {err})') from err


@contextmanager
def _nan_where_nothing_is_set() -> Iterator[None]:
    """Let new tensors that nothing initialises be nan, not what is in the memory by chance; needs torch 2.2."""
    options: Any = getattr(torch.utils, 'deterministic', None)
    if options is None:
        yield
        return
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fills = options.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    options.fill_uninitialized_memory = True
    try:
        yield
    finally:
        options.fill_uninitialized_memory = fills
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


@torch.no_grad()
def _fill(model: nn.Module) -> None:
    for param in model.parameters():
        if param.is_floating_point() and param.isnan().any():
            if param.ndim > 1:
                nn.init.kaiming_uniform_(param, a=math.sqrt(5))
            else:
                param.zero_()


@contextmanager
def first_epoch(model: Any) -> Iterator[None]:
    """Tell a model that asks, as the runner and mmdet's ``SetEpochInfoHook`` do, that it is in its first epoch.

    Some heads and losses change in training. The message hub is as before after the context.
    """
    hub = MessageHub.get_current_instance()
    begin = dict(loop_stage='train', epoch=0, iter=0, max_epochs=1, max_iters=1)
    before = {key: hub.get_info(key) for key in begin}
    hub.update_info_dict(begin)
    if hasattr(model, 'set_epoch'):
        model.set_epoch(0)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                hub.pop_info(key)
            else:
                hub.update_info(key, value)


def norm_fixing_set(model: nn.Module, cfg: Config) -> list[str] | None:
    """Name the weights in the norm-fixing set, as the constructor or the hook chooses them; None without either.

    Raises:
        ConfigError: If the settings do not fit the model.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    wrapper = cfg.get('optim_wrapper') or {}
    if _is_a(wrapper.get('constructor'), FixNormOptimWrapperConstructor, OPTIM_WRAPPER_CONSTRUCTORS, cfg):
        # A plain wrapper, as the one for mixed precision needs an accelerator.
        settings = dict(type='OptimWrapper', optimizer=wrapper.get('optimizer', dict(type='SGD', lr=0.1)))
        constructor = OPTIM_WRAPPER_CONSTRUCTORS.build(
            dict(type=wrapper['constructor'], optim_wrapper_cfg=settings, paramwise_cfg=wrapper.get('paramwise_cfg'))
        )
        if in_set := [names[id(p)] for p in flagged(constructor(model).optimizer)]:
            return in_set  # some peers have the groups of FixNorm, and fix no norm
    for hook_cfg in hooks_of_class(cfg, FixNormHook):
        try:
            hook = HOOKS.build(hook_cfg)  # a subclass may have other defaults
            return [*norm_fixing_parameters(model, fc=hook.fc, exclude=hook.exclude)]
        except (TypeError, ValueError) as err:
            raise ConfigError(f'custom_hooks: {type_name(hook_cfg["type"])}: {err}') from err
    return None


def hooks_of_class(cfg: Config, parent: type) -> list[Mapping[str, Any]]:
    """Return the entries of ``custom_hooks`` for a hook or a subclass of it, under any name."""
    return [hook for hook in cfg.get('custom_hooks') or [] if _is_a(hook.get('type'), parent, HOOKS, cfg)]


def _is_a(kind: Any, parent: type, registry: Registry, cfg: Config) -> bool:
    """Tell whether a ``type``, in any form that mmengine builds, is a class or a subclass of it."""
    found = registered(kind, registry, cfg.get('default_scope')) if isinstance(kind, str) else kind
    return isinstance(found, type) and issubclass(found, parent)


def _larger(side: int) -> int:
    """The next multiple of 64, which all strides divide, at least 1.3 times as large."""
    return math.ceil(1.3 * side / 64) * 64


def _not_audited(model: nn.Module, side: int, dtype: torch.dtype, err: Exception) -> ConfigError:
    """Say that the forward failed, and what may help; the error of the widest type is the one that tells most."""
    text = message_of(err)
    if not text:  # a bare assertion: the line is all that it says
        frame = traceback.extract_tb(err.__traceback__)[-1]
        text = f'{frame.line} ({os.path.basename(frame.filename)}, line {frame.lineno})'
    too_small, one_size = _TOO_SMALL.search(text), _ONE_SIZE.search(text)
    larger = _larger(side) if too_small else None
    message = (
        f'model: {type(model).__name__} cannot be audited with a generated batch of {side} x {side} pixels in '
        f'{dtype}: {type(err).__name__}: {text}'
        + (f'; the images may be too small: --size {larger}' if too_small else '')
        + ('; it may take images of one size only, as it is trained on: --size PX' if one_size else '')
    )
    return _SizeError(message, larger) if too_small or one_size else ConfigError(message)


def with_scope(cfg: Config) -> Config:
    """Set ``default_scope`` where a config has none, as mmdet's in pure Python, in a copy of it.

    The toolbox is the one that has the class of the model, or a class that it inherits from.
    """
    model = cfg.get('model')
    if cfg.get('default_scope') not in (None, 'mmengine') or not isinstance(model, Mapping):
        return cfg
    for kind in (model.get('type'), (model.get('fixnorm') or {}).get('plain_type')):
        found = registered(kind, MODELS, 'mmengine') if isinstance(kind, str) else kind
        for base in found.__mro__ if isinstance(found, type) else ():
            if (toolbox := base.__module__.partition('.')[0]) in PARTS:
                cfg = copy.deepcopy(cfg)
                cfg.default_scope = toolbox
                return cfg
    return cfg


def _toolbox(cfg: Config) -> Any:
    return import_module(f'{PARTS[check_scope(cfg)]}.generated_batch')


def check_scope(cfg: Config) -> str:
    """Return the toolbox of a config.

    Raises:
        ConfigError: If ``default_scope`` names none.
    """
    scope = cfg.get('default_scope')
    if scope not in PARTS:
        raise ConfigError(
            f'default_scope: must be one of {sorted(PARTS)}, got {scope!r}; set it to the toolbox that the model is '
            "from, such as default_scope = 'mmdet'"
        )
    return str(scope)


def _double_precision(toolbox: Any, dtype: torch.dtype) -> AbstractContextManager[None]:
    return (
        toolbox.double_precision() if dtype == torch.float64 and hasattr(toolbox, 'double_precision') else nullcontext()
    )


def adapt(model: nn.Module, toolbox: Any) -> None:
    """Let a copy of a model work with few queries, and as its toolbox needs it, in place; again, it changes nothing.

    Attention between 900 queries takes most of the time of DINO, and as many are more than a small image has points.
    """
    if hasattr(toolbox, 'adapt'):
        toolbox.adapt(model)
    for module in model.modules():
        for name in ('num_queries', 'num_matching_queries', 'num_proposals'):
            count = vars(module).get(name)
            if not isinstance(count, int) or count <= _QUERIES:
                continue
            setattr(module, name, _QUERIES)
            for table in module.children():
                if isinstance(table, nn.Embedding) and table.num_embeddings == count:
                    table.num_embeddings = _QUERIES
                    table.weight = nn.Parameter(table.weight[:_QUERIES].detach().clone(), table.weight.requires_grad)


def _losses(batches: Mapping[torch.dtype, dict[str, Any]], toolbox: Any) -> Callable[[nn.Module], Any]:
    def losses(model: Any) -> Any:
        dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
        # A copy, because detectors write to their samples.
        data = model.data_preprocessor(copy.deepcopy(batches[dtype]), True)
        data['inputs'] = _cast(data['inputs'], dtype)
        adapt(model, toolbox)
        return model._run_forward(data, mode='loss')

    return losses


def _cast(inputs: Any, dtype: torch.dtype) -> Any:
    if isinstance(inputs, Tensor):
        return inputs.to(dtype) if inputs.is_floating_point() else inputs
    return type(inputs)(_cast(tensor, dtype) for tensor in inputs)


def _without_pretrained(model: Any) -> None:
    """Remove all settings that would download weights, in place."""
    for node in dicts_in(model):
        init_cfg = node.get('init_cfg')
        if isinstance(init_cfg, Mapping) and _is_pretrained(init_cfg):
            node['init_cfg'] = None
        elif isinstance(init_cfg, (list, tuple)):
            node['init_cfg'] = [own for own in init_cfg if not _is_pretrained(own)]
        if isinstance(node.get('pretrained'), str):
            node['pretrained'] = None
        elif node.get('pretrained') is True:  # of a backbone of timm
            node['pretrained'] = False


def _is_pretrained(init_cfg: Mapping[str, Any]) -> bool:
    # PVT names a checkpoint and no type.
    return 'checkpoint' in init_cfg or type_name(init_cfg.get('type'), WEIGHT_INITIALIZERS) == 'Pretrained'
