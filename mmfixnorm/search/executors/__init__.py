"""The executor that the settings ask for."""

from __future__ import annotations

import glob
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmfixnorm.errors import ConfigError
from mmfixnorm.search.executors.local import Executor, LocalExecutor
from mmfixnorm.search.executors.manual import ManualExecutor
from mmfixnorm.search.executors.ray import RayExecutor
from mmfixnorm.search.executors.settings import LocalSettings, RaySettings, SlurmSettings
from mmfixnorm.search.executors.slurm import SlurmExecutor

if TYPE_CHECKING:
    from mmfixnorm.search.base_settings import SearchSettings

# One of these is there where torch can find a GPU: NVIDIA's driver, its Jetson boards, ROCm, WSL.
_GPU_DEVICES = ('/dev/nvidia*', '/dev/nvhost*', '/dev/nvmap', '/dev/kfd', '/dev/dxg')


def build_executor(settings: SearchSettings, command: Sequence[str]) -> Executor:
    """Build what ``search.executor`` names.

    Args:
        settings (SearchSettings): The settings of the search.
        command (Sequence[str]): The trial's command, to which its folder is appended.

    Raises:
        ConfigError: This machine cannot do what is asked for.
    """
    wanted = settings.executor_settings
    command = in_processes(command, wanted.processes)
    if isinstance(wanted, LocalSettings):
        gpus = visible_gpus()
        wanted.check_places(settings.workers, len(gpus))
        return LocalExecutor(settings.workers, command, gpus=gpus, gpus_per_trial=wanted.gpus_per_trial)
    if isinstance(wanted, SlurmSettings):
        limit_s = settings.timeout_s
        time_min = wanted.time_min or (math.ceil(limit_s / 60) if limit_s else None)
        return SlurmExecutor(settings.workers, command, wanted, time_min=time_min)
    if isinstance(wanted, RaySettings):
        return RayExecutor(settings.workers, command, wanted, timeout_s=settings.timeout_s)
    return ManualExecutor(command)


def in_processes(command: Sequence[str], number: int) -> list[str]:
    """The command in so many processes that train together, on one machine and a free port."""
    if number == 1:
        return list(command)
    return [
        *(sys.executable, '-m', 'torch.distributed.run', '--nnodes=1', f'--nproc-per-node={number}'),
        # Not --standalone: in older torch it means a fixed port, and trials run side by side.
        *('--rdzv-backend=c10d', '--rdzv-endpoint=localhost:0', '--local-addr=127.0.0.1'),
        *('--no-python', *command),
    ]


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as entries of ``CUDA_VISIBLE_DEVICES``."""
    count = _count_gpus()
    listed = os.environ.get('CUDA_VISIBLE_DEVICES')
    names = listed.split(',') if listed else [str(i) for i in range(count)]
    return names[:count]


def _count_gpus() -> int:
    """What torch counts, asked in a process of its own: the driver stays small without torch."""
    if not any(glob.glob(pattern) for pattern in _GPU_DEVICES):
        return 0
    ask = [sys.executable, '-c', 'import torch; print(torch.cuda.device_count())']
    done = subprocess.run(ask, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f'search.executor: torch cannot count the GPUs of this machine:\n{done.stderr.strip()}')
    return int(done.stdout.split()[-1])
