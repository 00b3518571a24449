"""One line about what the code of a config, or code that the config names, raised."""

from __future__ import annotations

import ast
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

from mmengine.config.utils import ConfigParsingError, _is_builtin_module

from mmfixnorm.errors import ConfigError, RaisedError

__all__ = [
    'PACKAGES',
    'explain_failure',
    'explain_missing',
    'failed_download',
    'how_to_install',
    'last_own_line',
    'message_of',
    'not_valid',
    'raised_by',
]

# Import name of a toolbox, or of mmcv, to the packages that have it: the maintained fork first.
PACKAGES = {
    'mmcv': ('onedl-mmcv', 'mmcv'),
    'mmpretrain': ('onedl-mmpretrain', 'mmpretrain'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
}
# How Python and the toolboxes say that a package is missing, whatever the class of the error. The group is the package.
_NO_MODULE = re.compile(r'No module named [\'"]')
_MISSING = (
    re.compile(r'pip install (?!-r|git\+)(?:-\S+ )*["\'`]?([\w.\-\[\]]*[\w\]])'),
    re.compile(r'[`\'"]?([\w.-]+)[`\'"]? is not installed'),
    re.compile(r'[Pp]lease install (?:the )?["\'`]?([\w.-]*\w)'),
)
# Code in these is no user's own: the packages by their import names, the standard library, what pip has installed.
_FRAMEWORKS = frozenset({*PACKAGES, 'mmengine', 'mmfixnorm', 'torch'}) | sys.stdlib_module_names
_STDLIB = Path(sysconfig.get_paths()['stdlib'])


def message_of(err: BaseException) -> str:
    """Return the text of an exception; ``str(KeyError)`` would put quotes around it."""
    return str(err.args[0]) if isinstance(err, KeyError) and err.args else str(err)


def how_to_install(module: str) -> str:
    """Say that a toolbox is missing, and which packages have it."""
    fork, classic = PACKAGES[module]
    return f"{module} is not installed: pip install 'mmfixnorm[onedl]' (or {fork}, or the classic {classic})"


def explain_missing(err: BaseException, key: str = '') -> str | None:
    """Name the package that is missing according to an error; None if it is about something else.

    Args:
        err (BaseException): An ``ImportError``, or any error in which a toolbox asks for a package.
        key (str): The config key that asks for it, which is put in front unless a toolbox itself is missing.
    """
    start = f'{key}: ' if key else ''
    chain = list(_chain(err))
    for cause in reversed(chain):
        if not isinstance(cause, ImportError) or not cause.name:
            continue
        root = cause.name.partition('.')[0]
        if cause.name == 'mmcv._ext':
            return 'mmcv was built without its ops, which this config needs: see docs/get_started.md'
        if root in PACKAGES and isinstance(cause, ModuleNotFoundError):
            return how_to_install(root)
    for cause in chain:
        text = ' '.join(message_of(cause).split())
        if _NO_MODULE.search(text):
            return f'{start}{text}'
        if package := next((found[1] for pattern in _MISSING if (found := pattern.search(text))), None):
            return f'{start}the package {package} is missing: {text}'
    return None


def explain_failure(err: BaseException) -> str:
    """Say what was raised and where: the last line of the user's own code, and the line that raised."""
    missing = explain_missing(err)
    text = missing or f'{type(err).__name__}: {message_of(err)}'.removesuffix(': ')
    if failed_download(err):
        text = f'a file is downloaded, which failed: {text}'
    raised = traceback.extract_tb(err.__traceback__)[-1]
    where = f'raised in {raised.filename}:{raised.lineno}'
    own = last_own_line(err)
    if own and own != (raised.filename, raised.lineno):
        where = f'from {own[0]}:{own[1]}, {where}'
    return f'{text} ({where})'


def failed_download(err: BaseException) -> URLError | None:
    """Return what a download failed with; None if an error is about something else."""
    return next((cause for cause in _chain(err) if isinstance(cause, URLError)), None)


def raised_by(err: BaseException) -> RaisedError:
    """Return the error that tells of ``err`` in one line."""
    return RaisedError(explain_failure(err))


def last_own_line(err: BaseException) -> tuple[str, int] | None:
    """Return file and line of the last code in a traceback that is the user's own; None if there is none."""
    own = None
    for frame, line in traceback.walk_tb(err.__traceback__):
        filename = frame.f_code.co_filename
        path = Path(filename)
        root = str(frame.f_globals.get('__name__', '')).partition('.')[0]
        installed = {'site-packages', 'dist-packages'} & {*path.parts} or _STDLIB in path.parents
        if not (installed or root in _FRAMEWORKS or filename.startswith('<')):
            own = filename, line
    return own


def not_valid(err: Exception, filename: str) -> ConfigError:
    """Return the error for what reading a config raised, with the line of the config if one was running."""
    running = last_own_line(err) or _line_of_installed_config(err)
    if isinstance(err, ImportError) and running is None:
        # mmengine's own words; otherwise the package of a base is missing.
        key = 'custom_imports' if message_of(err).startswith('Failed to import') else '_base_'
        missing = explain_missing(err, key)
        return ConfigError(missing) if missing else RaisedError(f'{key}: {message_of(err.__cause__ or err)}')
    if isinstance(err, FileNotFoundError) and Path(str(err.filename)).parts[-2:] == ('.mim', 'model-index.yml'):
        package = Path(err.filename).parents[1]
        return ConfigError(
            f'_base_: mmengine looks for the configs of {package.name} in {package}, where an editable install has '
            'none; install it without -e, or give the path of the config'
        )
    advice = _pure_python_advice(err, filename)
    if advice and running is None and 'lazy_import' in message_of(err):
        return ConfigError(f'not a valid config: {advice}')
    text = message_of(err)
    if not isinstance(err, (ConfigParsingError, SyntaxError, OSError)):  # these name the file themselves
        where = f'{running[0]}, line {running[1]}: ' if running else ''
        text = f'{where}{type(err).__name__}: {text}'.removesuffix(': ')
    return RaisedError(f'not a valid config: {text}{advice and f". {advice}"}')


def _line_of_installed_config(err: Exception) -> tuple[str, int] | None:
    lines = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(err.__traceback__)]
    return next((line for line in reversed(lines) if '/.mim/configs/' in Path(line[0]).as_posix()), None)


def _pure_python_advice(err: Exception, filename: str) -> str:
    """Say which import makes a config one in pure Python, and what to do instead; nothing if there is none."""
    files = [filename]  # and the bases: mmengine reads each in a call of its own
    files += [frame.f_locals.get('filename', '') for frame, _ in traceback.walk_tb(err.__traceback__)]
    for file in files[::-1]:
        if isinstance(file, str) and file.endswith('.py') and (line := _import_line(file)):
            return (
                f'{line} makes it a config in pure Python: an imported name is then a class to build later, not a '
                'value to compute with, and neither it nor a config that inherits from it can have _base_. To compute '
                "with a library, write NAME = __import__('LIBRARY') instead of importing it; to inherit, write with "
                'read_base() in all files'
            )
    return ''


def _import_line(filename: str) -> str | None:
    """Return the first line of a config that makes it one in pure Python, with its place."""
    try:
        lines = Path(filename).read_text(encoding='utf-8').splitlines()
        nodes: list[Any] = [node for node in ast.walk(ast.parse('\n'.join(lines))) if _makes_pure_python(node)]
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None
    if not nodes:
        return None
    first = min(node.lineno for node in nodes)
    return f'{filename}, line {first}: `{lines[first - 1].strip()}`'


def _makes_pure_python(node: Any) -> bool:
    if isinstance(node, ast.With):
        return True
    if isinstance(node, ast.ImportFrom):
        return node.level != 0 or not _is_builtin_module(node.module or '')
    return isinstance(node, ast.Import) and not all(_is_builtin_module(alias.name) for alias in node.names)


def _chain(err: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = err
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
