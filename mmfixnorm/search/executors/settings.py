"""``search.executor``: what runs the trials, as checked, frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils import checks
from mmfixnorm.search._utils.keys import nearest


def _lines(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
        raise checks.fail(f'executor.{key}', 'a list of strings', value)
    return tuple(value)


@dataclass(frozen=True)
class ExecutorSettings:
    """What every executor has.

    Args:
        gpus_per_trial (int): GPUs of a trial. Each gets a process of its own, by
            ``torch.distributed.run``, with the config's batch size, so another number is another
            search.

    Raises:
        ConfigError: A value breaks its rule; the message names the key.
    """

    kind: ClassVar[str]

    gpus_per_trial: int = 1

    def __post_init__(self) -> None:
        checks.integer('executor.gpus_per_trial', self.gpus_per_trial, at_least=1)

    @property
    def processes(self) -> int:
        """Processes of each trial."""
        return max(1, self.gpus_per_trial)


@dataclass(frozen=True)
class LocalSettings(ExecutorSettings):
    """Processes of this machine.

    Args:
        trials_per_gpu (int, optional): Trials that share a GPU at most; None means no limit.
    """

    kind: ClassVar[str] = 'local'

    trials_per_gpu: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trials_per_gpu is not None:
            checks.integer('executor.trials_per_gpu', self.trials_per_gpu, at_least=1)

    def check_places(self, workers: int, gpus: int) -> None:
        """Check that so many workers find a place on so many GPUs; without a GPU all run on the CPU.

        Raises:
            ConfigError: They do not.
        """
        if gpus and gpus < self.gpus_per_trial:
            raise ConfigError(
                f'search.executor.gpus_per_trial: must be at most the number of visible GPUs, {gpus}, '
                f'got {self.gpus_per_trial}'
            )
        places = gpus // self.gpus_per_trial * (self.trials_per_gpu or 0)
        if gpus and self.trials_per_gpu is not None and workers > places:
            raise ConfigError(
                f'search.workers: {gpus} GPUs with trials_per_gpu={self.trials_per_gpu} and '
                f'gpus_per_trial={self.gpus_per_trial} have places for {places} trials, got {workers} workers; '
                'use fewer workers, or raise search.executor.trials_per_gpu'
            )


@dataclass(frozen=True)
class SlurmSettings(ExecutorSettings):
    """One Slurm job per trial, on one node.

    Args:
        gpus_per_trial (int): As for every executor; 0 asks for none and trains on the CPU.
        partition (str, optional): ``sbatch --partition``.
        account (str, optional): ``sbatch --account``.
        cpus_per_trial (int, optional): ``sbatch --cpus-per-task``; None leaves it to the cluster.
        time_min (int, optional): ``sbatch --time``, in minutes; None means ``search.timeout_s``,
            rounded up, and without that the partition's own limit.
        setup (list[str]): Lines of shell that a job runs first, such as ``module load cuda``.
        sbatch_args (list[str]): More options of sbatch, such as ``--mem=32G``.
        poll_s (float): Time between two questions to Slurm, in seconds.
    """

    kind: ClassVar[str] = 'slurm'

    partition: str | None = None
    account: str | None = None
    cpus_per_trial: int | None = None
    time_min: int | None = None
    setup: tuple[str, ...] = ()
    sbatch_args: tuple[str, ...] = ()
    poll_s: float = 10.0

    def __post_init__(self) -> None:
        checks.integer('executor.gpus_per_trial', self.gpus_per_trial, at_least=0)
        for key in ('cpus_per_trial', 'time_min'):
            if getattr(self, key) is not None:
                checks.integer(f'executor.{key}', getattr(self, key), at_least=1)
        for key in ('partition', 'account'):
            value = getattr(self, key)
            if value is not None and (not isinstance(value, str) or not value):
                raise checks.fail(f'executor.{key}', 'a name', value)
        for key in ('setup', 'sbatch_args'):
            object.__setattr__(self, key, _lines(key, getattr(self, key)))
        checks.positive('executor.poll_s', self.poll_s)


@dataclass(frozen=True)
class RaySettings(ExecutorSettings):
    """One actor of a Ray cluster per trial, on one node.

    Args:
        gpus_per_trial (int): As for every executor; 0 asks for none and trains on the CPU.
        address (str): The cluster, as for ``ray.init``; ``'auto'`` is the one that this machine
            is a node of.
        cpus_per_trial (int): CPUs that Ray sets aside for a trial.
        resources (dict[str, float]): What else it sets aside, such as ``{'accelerator_type:A100': 0.001}``.
        setup (list[str]): Lines of shell that a trial runs first, such as ``module load cuda``.
        poll_s (float): Time between two questions to Ray, in seconds.
    """

    kind: ClassVar[str] = 'ray'

    address: str = 'auto'
    cpus_per_trial: int = 1
    resources: Mapping[str, float] = field(default_factory=dict)
    setup: tuple[str, ...] = ()
    poll_s: float = 2.0

    def __post_init__(self) -> None:
        checks.integer('executor.gpus_per_trial', self.gpus_per_trial, at_least=0)
        checks.integer('executor.cpus_per_trial', self.cpus_per_trial, at_least=1)
        if not isinstance(self.address, str) or not self.address:
            raise checks.fail('executor.address', "'auto' or an address", self.address)
        if not isinstance(self.resources, Mapping):
            raise checks.fail('executor.resources', 'a dict of names and amounts', self.resources)
        for name, amount in self.resources.items():
            if name in ('CPU', 'GPU'):
                raise checks.fail('executor.resources', 'without CPU and GPU (cpus_per_trial, gpus_per_trial)', name)
            checks.positive(f'executor.resources.{name}', amount)
        object.__setattr__(self, 'setup', _lines('setup', self.setup))
        checks.positive('executor.poll_s', self.poll_s)


@dataclass(frozen=True)
class ManualSettings(ExecutorSettings):
    """Commands that somebody else runs."""

    kind: ClassVar[str] = 'manual'


KINDS: dict[str, type[ExecutorSettings]] = {
    c.kind: c for c in (LocalSettings, SlurmSettings, RaySettings, ManualSettings)
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
    if not isinstance(name, str) or name not in KINDS:
        raise ConfigError(
            f'search.executor: must be one of {sorted(KINDS)}, or a dict with one of them as type, '
            f'got {value!r}{nearest(str(name), KINDS)}'
        )
    valid = {f.name for f in fields(KINDS[name])}
    for key in block:
        if key not in valid:
            raise ConfigError(
                f'search.executor.{key}: {name} has no such key{nearest(str(key), valid)} '
                f'(it has: {", ".join(sorted(valid))})'
            )
    return KINDS[name](**block)


def choose_executor(settings: ExecutorSettings, name: str | None) -> ExecutorSettings:
    """The executor that the command line names: the config's own settings if it is the same one.

    Another one has the same number of processes per trial, which is part of the search, and defaults.
    """
    return settings if name is None or name == settings.kind else KINDS[name](gpus_per_trial=settings.processes)
