"""Trials as actors of a Ray cluster that is running already; nothing here starts or stops one."""

from __future__ import annotations

import importlib.util
import json
import os
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils import checks
from mmfixnorm.search.executors.base import (
    Executor,
    Exit,
    NodesSettings,
    UnavailableError,
    in_processes,
    lines_of_shell,
)
from mmfixnorm.search.executors.claim import (
    WAIT_SCRIPT,
    WATCH_SCRIPT,
    attempt_name,
    attempt_names,
    check_owner,
    claim_file,
    claim_words,
    has_result,
    revoke,
)
from mmfixnorm.search.trial.folder import LATE_S, LOG_FILE, read_task

# What the actor runs, with the claim as $0 and its words as $1. A trial ends with its actor as well.
_SCRIPT = """claim=$0 mine=$1
{wait}
{watch}
( while sleep 2 && kill -s 0 $$; do kill -s 0 $PPID || kill -s KILL -- -$$; done ) >/dev/null 2>&1 &
{setup}
exec {command}
"""
_CANCEL_S = 30.0
_CALL_S = 30.0
_FIRST_CALL_S = 60.0  # which imports Ray and connects


@dataclass(frozen=True)
class RaySettings(NodesSettings):
    """One actor of a Ray cluster per trial, which on several nodes has one actor on each.

    Args:
        gpus_per_trial (int): GPUs on all nodes of a trial together; 0 asks for none and trains on the CPU, in one
            process on each node.
        nodes_per_trial (int): Nodes of a trial: bundles of a placement group, each on another node, all or none.
        address (str): The cluster, as for ``ray.init``; ``'auto'`` is the one that this machine
            is a node of.
        cpus_per_trial (int): CPUs that Ray sets aside for a trial, on all nodes together; None means one on each.
        resources (dict[str, float]): What else it sets aside on each node, such as
            ``{'accelerator_type:A100': 0.001}``.
        setup (list[str]): Lines of shell that a trial runs first, such as ``module load cuda``.
        poll_s (float): Time between two questions to Ray, in seconds.
    """

    kind: ClassVar[str] = 'ray'

    address: str = 'auto'
    cpus_per_trial: int | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    setup: tuple[str, ...] = ()
    poll_s: float = 2.0

    def __post_init__(self) -> None:
        checks.integer('executor.gpus_per_trial', self.gpus_per_trial, at_least=0)
        if self.cpus_per_trial is not None:
            checks.integer('executor.cpus_per_trial', self.cpus_per_trial, at_least=1)
        self.check_nodes('cpus_per_trial')
        if not isinstance(self.address, str) or not self.address:
            raise checks.fail('executor.address', "'auto' or an address", self.address)
        if not isinstance(self.resources, Mapping):
            raise checks.fail('executor.resources', 'a dict of names and amounts', self.resources)
        for name, amount in self.resources.items():
            if name in ('CPU', 'GPU'):
                raise checks.fail('executor.resources', 'without CPU and GPU (cpus_per_trial, gpus_per_trial)', name)
            checks.positive(f'executor.resources.{name}', amount)
        object.__setattr__(self, 'setup', lines_of_shell('setup', self.setup))
        checks.positive('executor.poll_s', self.poll_s)

    @property
    def cpus_per_node(self) -> int:
        """CPUs that Ray sets aside for a trial on each of its nodes."""
        return (self.cpus_per_trial or self.nodes) // self.nodes

    def build(self, *, workers: int, command: Sequence[str], timeout_s: float | None) -> RayExecutor:
        return RayExecutor(workers, in_processes(command, self), self, timeout_s=timeout_s)


class RayExecutor(Executor):
    """One detached actor per attempt, adopted by its name, which follows from its claim.

    The actor starts the trial on its node and writes into the claim how it has ended. One that is
    gone without that has failed: its process, its node or Ray there was killed, or Ray has given the
    node up because it does not answer. In that case the trial may still run and write, so its claim
    is revoked first, and the next attempt waits for ``settle_s``: a trial ends itself some seconds
    after its claim is revoked, or after its actor is gone. While Ray does not answer, nothing is
    concluded.

    A trial on several nodes has its processes in actors of this one, in a placement group of this one, so both end with
    it, with or without a driver. The end of one process ends the attempt.

    Args:
        workers (int): Actors at a time, waiting ones included.
        command (Sequence[str]): The trial's command, to which its folder is appended.
        settings (RaySettings): What to ask of Ray.
        timeout_s (float, optional): Wall-clock limit of an attempt, in seconds from its start.
        settle_s (float): How long to wait for the result of a trial whose actor is gone, or for its
            end, in seconds; NFS shows new files after 60 s, by default.
    """

    limits_time = True

    def __init__(
        self,
        workers: int,
        command: Sequence[str],
        settings: RaySettings,
        *,
        timeout_s: float | None = None,
        settle_s: float = 70.0,
    ) -> None:
        if not is_installed():
            raise ConfigError(
                "search.executor: 'ray' needs the package ray, which is not installed here; "
                "pip install 'mmfixnorm[ray]', or use 'local', 'slurm' or 'manual'"
            )
        self.workers = workers
        self._command = list(command)
        self._settings = settings
        self._timeout_s = timeout_s
        self._settle_s = settle_s
        self._client = RayClient(settings.address)
        self._names: set[str] = set()
        self._next_look = 0.0
        self._looks = 0
        self._submitted: dict[str, int] = {}  # handle -> looks before
        self._gone: set[str] = set()
        self._unclear: dict[str, float] = {}  # handle -> since when
        self._no_node: set[str] = set()

    def refresh(self) -> None:
        if time.monotonic() >= self._next_look:
            self._look()

    def submit(self, trial_dir: Path, attempt: int) -> str:
        s = self._settings
        path = claim_file(trial_dir, attempt)
        threads = str(max(1, s.cpus_per_node // s.processes_per_node))
        inherited = {k: os.environ[k] for k in ('PYTHONPATH',) if k in os.environ}
        task = {
            'claim': str(path),
            'script': _SCRIPT.format(
                wait=WAIT_SCRIPT.format(late_s=LATE_S),
                watch=WATCH_SCRIPT,
                setup='\n'.join(s.setup),
                command=shlex.join([*self._command, str(trial_dir)]),
            ),
            'folder': os.getcwd(),
            'log': str(trial_dir / LOG_FILE),
            'env': {**inherited, 'OMP_NUM_THREADS': os.environ.get('OMP_NUM_THREADS', threads)},
            'timeout_s': self._timeout_s,
            'name': attempt_name(path),
        }
        node = {'CPU': s.cpus_per_node, 'GPU': s.gpus_per_trial // s.nodes, **s.resources}
        fits = self._client.ask('start', name=attempt_name(path), task=task, node=node, nodes=s.nodes)
        self._submitted[str(path)] = self._looks
        if not fits:
            self._no_node.add(str(path))
        return str(path)

    def adopt(self, trial_dir: Path, attempt: int) -> str | None:
        path = claim_file(trial_dir, attempt)
        check_owner(path, 'ray')
        if path.exists():
            return str(path)
        if read_task(trial_dir) is None:  # an actor of a folder that was deleted or moved aside has nothing to train
            self._end_actor(path)
            return None
        return str(path) if self._is_listed(path) else None

    def poll(self, handle: str) -> Exit | None:
        path = Path(handle)
        end = _end(path)
        if end is None:
            if self._submitted.get(handle) == self._looks or self._is_listed(path):
                return None
            end = _end(path)  # it may have ended just before the look
        if end is None and handle not in self._gone:
            revoke(path, 'ray')
            self._gone.add(handle)
        if handle in self._gone:
            waited = end is not None or self._has_waited(handle)
            reason = 'its Ray actor is gone (its process or its node was killed, or Ray has given the node up)'
            return Exit(None, reason) if waited or has_result(path) else None
        if end == Exit(0) and not has_result(path) and not self._has_waited(handle):
            return None  # other machines may see a new file late
        return end

    def request_end(self, handle: str) -> None:
        path = Path(handle)
        if _end(path) is None and path.exists():
            revoke(path, 'ray')

    def cancel(self, handle: str) -> None:
        """End the attempt.

        Raises:
            UnavailableError: Ray does not answer, or the trial's node does not; it has been asked to end.
        """
        path = Path(handle)
        if _end(path) is not None:
            return
        has_started = path.exists()
        revoke(path, 'ray')
        give_up = time.monotonic() + _CANCEL_S
        while has_started and _end(path) is None and self._is_there(path):
            if time.monotonic() > give_up:
                raise UnavailableError(f'{self.describe(handle)} has not ended {_CANCEL_S:g} s after it was asked to')
            time.sleep(0.1)
        self._client.ask('kill', name=self._name(path))

    def describe(self, handle: str) -> str:
        words = claim_words(Path(handle))
        if len(words) >= 4:
            return f'Ray actor {self._name(Path(handle))} on {words[1]}, node {words[3][:8]}'
        missing = ', which waits for a node: none has what it needs' if handle in self._no_node else ''
        return f'Ray actor {self._name(Path(handle))}{missing}'

    def _look(self) -> None:
        self._next_look = 0.0  # if the question fails, the next one is not put off
        self._names = set(self._client.ask('look'))
        self._looks += 1
        self._next_look = time.monotonic() + self._settings.poll_s

    def _is_there(self, path: Path) -> bool:
        self._look()
        return self._is_listed(path)

    def _end_actor(self, path: Path) -> None:
        """End the actor of an attempt, if Ray lists one, and wait until it does not."""
        give_up = time.monotonic() + _CANCEL_S
        while self._is_listed(path):
            self._client.ask('kill', name=self._name(path))
            if time.monotonic() > give_up:
                raise UnavailableError(f'{self.describe(str(path))} is still there {_CANCEL_S:g} s after it was killed')
            time.sleep(0.1)
            self._look()

    def _is_listed(self, path: Path) -> bool:
        return self._name(path) in self._names

    def _name(self, path: Path) -> str:
        """Return the name of the actor of an attempt, which an earlier version may have named."""
        names = attempt_names(path)
        return next((name for name in names if name in self._names), names[0])

    def _has_waited(self, handle: str) -> bool:
        since = self._unclear.setdefault(handle, time.monotonic())
        return time.monotonic() - since > self._settle_s


def is_installed() -> bool:
    """Return whether Ray is installed; importing it takes a second, so it is not tried."""
    return importlib.util.find_spec('ray') is not None


class RayClient:
    """Asks Ray through a process, :mod:`.ray_client`, which is started when it is needed.

    Args:
        address (str): As for ``ray.init``.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, do: str, **what: Any) -> Any:
        """Ask Ray and return its answer.

        Raises:
            UnavailableError: Ray does not answer, or answers with an error.
        """
        limit_s = _CALL_S if self._process else _FIRST_CALL_S
        process = self._process = self._process or self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps({'do': do, **what}).encode() + b'\n')
            process.stdin.flush()
            answer = json.loads(_read_line(process, limit_s))
        except (OSError, EOFError, ValueError) as err:
            self.close()
            raise UnavailableError(f'Ray at {self._address!r} does not answer ({err})') from err
        if 'error' in answer:
            raise UnavailableError(f'Ray at {self._address!r}: {answer["error"]}')
        return answer['answer']

    def close(self) -> None:
        """End the process; it is started again when it is needed."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()  # closes its pipes
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, '-m', 'mmfixnorm.search.executors.ray_client', self._address],
            stdin=subprocess.PIPE,  # it ends when this is closed, however this process ends
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the driver, which then cancels by it
        )


def _read_line(process: subprocess.Popen[bytes], limit_s: float) -> bytes:
    assert process.stdout is not None
    line, give_up = b'', time.monotonic() + limit_s
    while not line.endswith(b'\n'):
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, give_up - time.monotonic()))
        if not ready:
            raise TimeoutError(f'within {limit_s:g} s')
        part = os.read(process.stdout.fileno(), 1 << 16)
        if not part:
            raise EOFError('its client has ended')
        line += part
    return line


def _end(path: Path) -> Exit | None:
    """Read how the attempt has ended, as its actor has written it."""
    words = claim_words(path)
    if len(words) < 6:
        return None
    how = ' '.join(words[5:])
    try:
        return Exit(int(how))
    except ValueError:
        return Exit(None, how)
