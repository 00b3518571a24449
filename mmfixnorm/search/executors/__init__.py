"""What runs trials: one file for each executor, and the table that names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils.keys import nearest
from mmfixnorm.search.executors.base import Executor, ExecutorSettings, NodesSettings
from mmfixnorm.search.executors.local import LocalSettings
from mmfixnorm.search.executors.manual import ManualSettings
from mmfixnorm.search.executors.ray import RaySettings
from mmfixnorm.search.executors.slurm import SlurmSettings

if TYPE_CHECKING:
    from mmfixnorm.search.settings import SearchSettings

__all__ = ['EXECUTORS', 'Executor', 'ExecutorSettings', 'build_executor', 'choose_executor', 'parse_executor']

#: Every executor's settings by its name. To add one: a file beside this one, and its line here.
EXECUTORS: dict[str, type[ExecutorSettings]] = {
    settings.kind: settings
    for settings in (
        LocalSettings,
        SlurmSettings,
        RaySettings,
        ManualSettings,
    )
}


def parse_executor(value: Any) -> ExecutorSettings:
    """Check ``search.executor``.

    Args:
        value (str or dict): A name, or ``dict(type=name, ...)`` with settings of that executor.

    Raises:
        ConfigError: An unknown executor or key, or a value that breaks its rule.

    Example:
        >>> parse_executor(dict(type='slurm', partition='gpu')).partition
        'gpu'
    """
    if isinstance(value, ExecutorSettings):
        return value
    block = dict(value) if isinstance(value, Mapping) else {'type': value}
    name = block.pop('type', None)
    if not isinstance(name, str) or name not in EXECUTORS:
        raise ConfigError(
            f'search.executor: must be one of {sorted(EXECUTORS)}, or a dict with one of them as type, '
            f'got {value!r}{nearest(str(name), EXECUTORS)}'
        )
    valid = {f.name for f in fields(EXECUTORS[name])}
    for key in block:
        if key not in valid:
            raise ConfigError(
                f'search.executor.{key}: {name} has no such key{nearest(str(key), valid)} '
                f'(it has: {", ".join(sorted(valid))})'
            )
    return EXECUTORS[name](**block)


def choose_executor(settings: ExecutorSettings, name: str | None) -> ExecutorSettings:
    """Return the settings of the executor that the command line names, or the config's own.

    Another executor than the config's has the same number of processes per trial, which is part of the search, on as
    many nodes if it can, and defaults otherwise.
    """
    if name is None or name == settings.kind:
        return settings
    nodes = {'nodes_per_trial': settings.nodes} if issubclass(EXECUTORS[name], NodesSettings) else {}
    return EXECUTORS[name](gpus_per_trial=settings.processes, **nodes)


def build_executor(settings: SearchSettings, command: Sequence[str]) -> Executor:
    """Build the executor that ``search.executor`` names.

    Args:
        settings (SearchSettings): The settings of the search.
        command (Sequence[str]): The trial's command, to which its folder is appended.

    Raises:
        ConfigError: This machine cannot do what is asked for.
    """
    executor = settings.executor_settings
    return executor.build(workers=settings.workers, command=command, timeout_s=settings.timeout_s)
