"""Reading configs, without torch, as the driver of a search needs.

Mistakes of the user become a :class:`~mmfixnorm.errors.ConfigError`.
"""

import importlib.util
import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mmengine
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE, ConfigParsingError

from mmfixnorm.errors import ConfigError

# Import name of a toolbox, or of mmcv, to the packages that have it: the maintained fork first.
PACKAGES = {
    'mmcv': ('onedl-mmcv', 'mmcv'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
}
# Import name of a toolbox to the part of this package that registers the heads for it.
PARTS = {'mmpretrain': 'mmfixnorm.cls', 'mmdet': 'mmfixnorm.det', 'mmseg': 'mmfixnorm.seg'}
# Name of a hook to all names under which it is registered: the present one and the one in older configs.
HOOK_NAMES = {
    'WeightNormLoggerHook': ['WeightNormLoggerHook', 'WeightNormHook'],
    'WNScaleInitHook': ['WNScaleInitHook', 'ScaleInitHook'],
}
_MMENGINE = Path(mmengine.__file__).parent
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
    filename = os.fspath(filename)
    if not os.path.isfile(filename):
        raise ConfigError(f'no such config file: {filename!r} (in {os.getcwd()})')
    # Lets `_base_ = 'mmfixnorm::...'` find the configs of the installed package.
    MODULE2PACKAGE.setdefault('mmfixnorm', 'mmfixnorm')
    try:
        cfg = Config.fromfile(filename, import_custom_modules=import_custom_modules)
    except ImportError as err:
        raise ConfigError(explain_import(err)) from err
    except Exception as err:  # a config is a program: whatever it raises is a mistake in it
        raise ConfigError(f'not a valid config: {_located(err)}') from err
    # A class that the file has imported for its own use is no setting, and cannot be written again.
    for name in [name for name, value in cfg.items() if isinstance(value, type)]:
        cfg.pop(name)
    if cfg_options:
        try:
            cfg.merge_from_dict(dict(cfg_options))
        except (KeyError, TypeError, AssertionError) as err:
            raise ConfigError(f'--cfg-options {dict(cfg_options)}: {message_of(err)}') from err
    move_fixnorm_into_model(cfg)
    scope = cfg.get('default_scope')
    if scope in PACKAGES and importlib.util.find_spec(scope) is None:
        raise ConfigError(f"default_scope = '{scope}': {_how_to_install(scope)}")
    return cfg


def move_fixnorm_into_model(cfg: Config) -> None:
    """Move a ``fixnorm`` block from the top of a config into its model, in place.

    Only the tools of this package read the block at the top; inside the model, every tool does.

    Raises:
        ConfigError: If the model already has such a block.
    """
    block = cfg.get('fixnorm')
    if block is None:
        return
    model = cfg.get('model') or {}
    if model.get('type') == MODEL_TYPE:
        raise ConfigError(f"fixnorm: the model already has type '{MODEL_TYPE}'; write the block into model.fixnorm")
    cfg.model = dict(model, type=MODEL_TYPE, fixnorm=dict(block, plain_type=model.get('type')))
    cfg.pop('fixnorm')


def hooks_of_type(cfg: Config, name: str) -> list[Mapping[str, Any]]:
    """Return the entries of ``custom_hooks`` for a hook, under its name or a former one."""
    names = HOOK_NAMES.get(name, [name])
    return [hook for hook in cfg.get('custom_hooks') or [] if hook.get('type') in names]


def message_of(err: BaseException) -> str:
    """Return the text of an exception; ``str(KeyError)`` would put quotes around it."""
    return str(err.args[0]) if isinstance(err, KeyError) and err.args else str(err)


def _located(err: Exception) -> str:
    """Return the text of what a config raised, after the line of the config if one was running."""
    if isinstance(err, (ConfigParsingError, SyntaxError, OSError)):
        return message_of(err)  # names the file itself
    text = f'{type(err).__name__}: {message_of(err)}'.removesuffix(': ')
    of_config = [
        frame
        for frame in traceback.extract_tb(err.__traceback__)
        if frame.filename.endswith('.py') and _MMENGINE not in Path(frame.filename).parents
    ]
    frame = of_config[-1]
    return text if frame.filename == __file__ else f'{frame.filename}, line {frame.lineno}: {text}'


def explain_import(err: BaseException) -> str:
    """Name the missing module, at the bottom of a chain of import errors."""
    while isinstance(cause := err.__cause__ or err.__context__, ImportError):
        err = cause
    name = getattr(err, 'name', None) or ''
    if name == 'mmcv._ext':
        return 'mmcv was built without its ops, which this config needs: see README, "Installation"'
    name = name.split('.')[0]
    if name in PACKAGES:
        return _how_to_install(name)
    return f'custom_imports: {err}'


def _how_to_install(module: str) -> str:
    fork, classic = PACKAGES[module]
    return f"{module} is not installed: pip install 'mmfixnorm[onedl]' (or {fork}, or the classic {classic})"
