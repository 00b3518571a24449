"""Reading configs, without torch, as the driver of a search needs.

Mistakes of the user become a :class:`~mmfixnorm.errors.ConfigError`.
"""

import difflib
import importlib.metadata
import importlib.util
import os
import re
import types
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import Registry
from mmengine.utils import import_modules_from_strings

from mmfixnorm.errors import ConfigError
from mmfixnorm.failures import PACKAGES, how_to_install, message_of, not_valid
from mmfixnorm.type_names import full_name, type_name

# Import name of a toolbox to the part of this package that registers the heads for it.
PARTS = {'mmpretrain': 'mmfixnorm.cls', 'mmdet': 'mmfixnorm.det', 'mmseg': 'mmfixnorm.seg'}
# Name of a hook to all names under which it is registered: the present one and the one in older configs.
HOOK_NAMES = {
    'WeightNormLoggerHook': ['WeightNormLoggerHook', 'WeightNormHook'],
    'WNScaleInitHook': ['WNScaleInitHook', 'ScaleInitHook'],
}
# What a config may have at its top, for mmengine's Runner and for this package.
_TOP_LEVEL = (
    *('model', 'data_preprocessor', 'optim_wrapper', 'param_scheduler', 'auto_scale_lr', 'default_scope', 'search'),
    *(f'{mode}_{part}' for mode in ('train', 'val', 'test') for part in ('dataloader', 'cfg', 'evaluator')),
    *('default_hooks', 'custom_hooks', 'custom_imports', 'visualizer', 'vis_backends', 'log_processor', 'log_level'),
    *('work_dir', 'load_from', 'resume', 'launcher', 'env_cfg', 'randomness', 'experiment_name', 'model_wrapper_cfg'),
    *('find_unused_parameters', 'compile', 'runner_type', 'strategy', 'tta_model', 'tta_pipeline', 'fixnorm'),
)
# How mmengine lets a config name one of an installed package.
_NAMED_BY_PACKAGE = re.compile(r'\w+::\w+/')
# Type of a model with a block `fixnorm`; `mmfixnorm.engine` registers it.
MODEL_TYPE = 'FixNormModel'


def load_config(
    filename: str | os.PathLike[str],
    *,
    cfg_options: Mapping[str, Any] | None = None,
    import_custom_modules: bool = True,
) -> Config:
    """Read a config file, import its ``custom_imports`` and merge ``--cfg-options`` into it.

    Args:
        filename: A config of any toolbox.
        cfg_options: Dotted keys and their values, e.g. ``{'optim_wrapper.optimizer.lr': 0.4}``.
        import_custom_modules: Whether to import them; not needed if nothing of the config is built.

    Raises:
        ConfigError: If the file is missing or not a valid config, if an option does not fit, or if
            the toolbox that the config needs is not installed.
    """
    given, filename = os.fspath(filename), config_path(filename)
    if not os.path.isfile(filename):
        raise ConfigError(f'no such config file: {given!r} (in {os.getcwd()})')
    _name_installed_packages()
    try:
        cfg = Config.fromfile(filename, import_custom_modules=import_custom_modules)
        if import_custom_modules and is_pure_python(filename) and cfg.get('custom_imports'):
            # Which mmengine does for text configs alone.
            import_modules_from_strings(**cfg.custom_imports)
    except Exception as err:  # a config is a program: whatever it raises is a mistake in it
        raise not_valid(err, filename) from err
    _drop_helpers(cfg)
    _drop_scopes(cfg._cfg_dict)
    if cfg_options:
        _check_names(cfg, cfg_options)
        try:
            cfg.merge_from_dict(dict(cfg_options))
        except (KeyError, TypeError, AssertionError, AttributeError) as err:
            raise ConfigError(f'--cfg-options {dict(cfg_options)}: {message_of(err)}') from err
    move_fixnorm_into_model(cfg)
    scope = cfg.get('default_scope')
    if scope in PACKAGES and importlib.util.find_spec(scope) is None:
        raise ConfigError(f"default_scope = '{scope}': {how_to_install(scope)}")
    return cfg


def _check_names(cfg: Config, options: Mapping[str, Any]) -> None:
    """Refuse an option whose key is not in the config, but for an underscore, an s or the case.

    Nothing would read it, and nothing would be changed by it.
    """
    for option in options:
        node, done = cfg._cfg_dict, ''
        for name in option.split('.'):
            if not isinstance(node, Mapping):
                break
            if f'{done}type' in options:  # of a class that reads other keys
                break
            names = [*map(str, node), *([] if done else _TOP_LEVEL)]
            alike = difflib.get_close_matches(name, names, n=1, cutoff=0.8) if not done else []
            alike += [other for other in names if _spelling(other) == _spelling(name)]
            if name not in names and alike:
                raise ConfigError(f'--cfg-options: {option!r}: no such key, did you mean {done + alike[0]!r}?')
            node, done = node.get(name), f'{done}{name}.'


def _spelling(name: str) -> str:
    return name.replace('_', '').lower().removesuffix('s')


def config_path(filename: str | os.PathLike[str]) -> str:
    """Return the path of a config, which may be named ``'package::path'`` as in ``_base_``.

    Raises:
        ConfigError: If the package before ``::`` is not installed.
    """
    filename = os.fspath(filename)
    package, named, name = filename.partition('::')
    if not (named and package.isidentifier()) or os.path.isfile(filename):
        return filename
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ConfigError(how_to_install(package) if package in PACKAGES else f'{filename}: {package} is not installed')
    return os.path.join(os.path.dirname(spec.origin), '.mim', 'configs', name)


def base_of(filename: str | os.PathLike[str], folder: str | os.PathLike[str]) -> str:
    """Return what a config in ``folder`` writes into ``_base_`` to inherit from another.

    A relative path lets both files move together. Behind a link it would lead elsewhere: the system follows the link
    before ``..``, mmengine does not; then the path is absolute.
    """
    filename = os.fspath(filename)
    if not os.path.isfile(filename) and _NAMED_BY_PACKAGE.match(filename):
        return filename
    target = os.path.abspath(config_path(filename))
    relative = os.path.relpath(target, folder)
    found = os.path.realpath(os.path.join(folder, relative))
    return relative if found == os.path.realpath(target) else target


def is_pure_python(filename: str | os.PathLike[str]) -> bool:
    """Tell whether a config is in mmengine's pure-Python style, from which a text config cannot inherit."""
    return bool(Config._is_lazy_import(config_path(filename)))


def with_names(cfg: Config) -> Config:
    """Return a config whose classes are names, so that it can be written as text and needs no import.

    Raises:
        ConfigError: If something else than a ``type`` is a class or function; the message names the key.
    """
    plain = cfg._cfg_dict._to_lazy_dict()
    classes = [*_classes(plain)]
    if odd := [key for key, name in classes if name not in ('type', 'constructor') and not name.endswith('_type')]:
        raise ConfigError(
            f'{", ".join(odd)}: a class or function of a config in pure Python, which cannot be written as text, as no '
            'part is built from it; give a value, or a name if the part takes one'
        )
    if not classes:
        return cfg
    return Config(_named(plain), cfg_text=cfg.text, filename=cfg.filename, env_variables=cfg.env_variables)


def move_fixnorm_into_model(cfg: Config) -> None:
    """Move a ``fixnorm`` block from the top of a config into its model, in place.

    Only the tools of this package read the block at the top; inside the model, every tool does.

    Raises:
        ConfigError: If the model already has such a block, or the one at the top is no dict.
    """
    block = cfg.get('fixnorm')
    if block is None:
        return
    if not isinstance(block, Mapping):
        raise ConfigError(f'fixnorm: must be a dict of what FixNormModel takes, such as swap and alpha, got {block!r}')
    model = cfg.get('model') or ConfigDict()
    kind = dict.get(model, 'type')  # as it stands: ConfigDict would import a class
    if kind is not None and type_name(kind) == MODEL_TYPE:
        raise ConfigError(f"fixnorm: the model already has type '{MODEL_TYPE}'; write the block into model.fixnorm")
    cfg.model = ConfigDict({**dict(dict.items(model)), 'type': MODEL_TYPE, 'fixnorm': dict(block, plain_type=kind)})
    dict.pop(cfg._cfg_dict, 'fixnorm')


def training_length(cfg: Config) -> tuple[int, str]:
    """Return the length of a training and its unit, ``'epochs'`` or ``'iters'``.

    Raises:
        ConfigError: ``train_cfg`` has neither ``max_epochs`` nor ``max_iters``.
    """
    train_cfg = cfg.get('train_cfg') or {}
    for unit in ('epochs', 'iters'):
        length = train_cfg.get(f'max_{unit}')
        if length is not None:
            return int(length), unit
    raise ConfigError(f'train_cfg: must have max_epochs or max_iters, got {dict(train_cfg)!r}')


def hooks_of_type(cfg: Config, name: str, registry: Registry | None = None) -> list[Mapping[str, Any]]:
    """Return the entries of ``custom_hooks`` for a hook, under its name or a former one.

    Args:
        cfg (Config): A config.
        name (str): The registered name of the hook.
        registry (Registry, optional): As in :func:`~mmfixnorm.type_names.type_name`.
    """
    names, scope = HOOK_NAMES.get(name, [name]), cfg.get('default_scope')
    return [hook for hook in cfg.get('custom_hooks') or [] if type_name(hook.get('type'), registry, scope) in names]


def turns_by_angle(cfg: Config) -> bool:
    """Return whether norm fixing makes the learning rate of a config an angle."""
    fixing = [cfg.get('optim_wrapper') or {}, *hooks_of_type(cfg, 'FixNormHook')]
    return any(part.get('update') == 'angle' for part in fixing)


def dicts_in(node: Any) -> Iterator[Any]:
    """Yield every dict in nested dicts and sequences, from the outside in."""
    if isinstance(node, Mapping):
        yield node
        node = list(node.values())
    for child in node if isinstance(node, (list, tuple)) else ():
        yield from dicts_in(child)


def _name_installed_packages() -> None:
    """Let mmengine find the packages that have another name than it knows: this one, and those that onedl renames.

    Where mmengine finds no package of a name, it takes the module of that name.
    """
    MODULE2PACKAGE.setdefault('mmfixnorm', 'mmfixnorm')
    for module, package in MODULE2PACKAGE.items():
        if package != module and not _is_installed(package) and _is_importable(module):
            MODULE2PACKAGE[module] = module


def _is_importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a finder may say it like this
        return False


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _drop_helpers(cfg: Config) -> None:
    """Drop what a config has imported or defined for its own use: it is no setting, and cannot be written again."""
    helpers = (type, types.FunctionType, types.ModuleType, LazyAttr, LazyObject)
    for name, value in [*dict.items(cfg._cfg_dict)]:
        if isinstance(value, helpers) and not name.endswith('_type'):
            dict.pop(cfg._cfg_dict, name)


def _drop_scopes(node: Any, *, all_scopes: bool = False) -> None:
    """Drop the scope that mmengine notes in what is inherited from ``mmfixnorm::``, and any scope in ``search``.

    This package has no registries of its own: the names in its configs are of the toolbox of ``default_scope``. The
    settings of a search are in no registry at all.
    """
    if isinstance(node, dict):
        if all_scopes or dict.get(node, '_scope_') == 'mmfixnorm':
            dict.pop(node, '_scope_', None)
        for key, child in dict.items(node):
            _drop_scopes(child, all_scopes=all_scopes or key == 'search')
    elif isinstance(node, (list, tuple)):
        for child in node:
            _drop_scopes(child, all_scopes=all_scopes)


def _classes(node: Any, key: str = '', name: str = '') -> Iterator[tuple[str, str]]:
    """Yield the dotted key of everything that mmengine will import, and the last name in the key."""
    if isinstance(node, dict):
        for child, value in node.items():
            yield from _classes(value, f'{key}.{child}' if key else str(child), str(child))
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _classes(value, f'{key}.{i}', str(i))
    elif _is_imported(node):
        yield key, name


def _named(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _named(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(map(_named, node))
    return full_name(node) if _is_imported(node) else node


def _is_imported(value: Any) -> bool:
    return isinstance(value, (LazyAttr, LazyObject))
