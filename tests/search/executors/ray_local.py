"""A Ray cluster of two nodes on this machine, in a network of its own.

Ray listens on every address of its machine, so it is started where there is only the loopback one.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

PORT = 6379
ADDRESS = f'127.0.0.1:{PORT}'
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET in <sched.h>
#: A node that does not answer is given up after 3 seconds; Ray's own values make it about 75.
_SOON = {
    'RAY_health_check_period_ms': '500',
    'RAY_health_check_timeout_ms': '1000',
    'RAY_health_check_failure_threshold': '2',
}


def _call(name, *arguments):
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f'{name}: {os.strerror(number)}')


@contextlib.contextmanager
def network_of_its_own():
    """Put this thread, and what it starts, into a new network with only a loopback device.

    Raises:
        OSError: It needs the rights of root.
    """
    before = os.open('/proc/thread-self/ns/net', os.O_RDONLY)
    try:
        _call('unshare', _NEW_NETWORK)
        try:
            subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)
            yield
        finally:
            _call('setns', before, _NEW_NETWORK)
    finally:
        os.close(before)


class Node:
    """A node of the cluster.

    Args:
        folder (Path): For Ray's files; its path must be short.
        name (str): Name of its log.
        options: Of ``ray start``.
    """

    def __init__(self, folder, name, *options):
        ray = str(Path(sys.executable).with_name('ray'))
        common = ('--node-ip-address=127.0.0.1', '--object-store-memory=100000000', '--disable-usage-stats', '--block')
        self._log = folder / f'{name}.log'
        with open(self._log, 'wb') as log:
            self._process = subprocess.Popen(
                [sys.executable, ray, 'start', *options, *common],
                env={**os.environ, **_SOON},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_up(self):
        give_up = time.monotonic() + 90
        while 'Ray runtime started' not in self._log.read_text():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < give_up, self._log.read_text()
            time.sleep(0.1)
        self._raylet = self.pid_of('raylet')
        return self

    def pid_of(self, name):
        """The process with this name among those of the node."""
        (found,) = [p.pid for p in psutil.Process(self._process.pid).children(recursive=True) if p.name() == name]
        return found

    def runs(self, pid):
        """Whether a process of Ray belongs to this node."""
        return psutil.Process(pid).ppid() == self._raylet

    def signal(self, number):
        """Send a signal to the daemon that makes this machine a node."""
        os.kill(self._raylet, number)

    def stop(self):
        """End what this node has started, by their numbers; no error if it has ended."""
        if self._process.poll() is None:
            started = psutil.Process(self._process.pid).children(recursive=True)
            self._process.send_signal(signal.SIGTERM)
            psutil.wait_procs([*started, psutil.Process(self._process.pid)], timeout=2)
            for process in (p for p in started if p.is_running()):
                process.kill()
            self._process.kill()
        self._process.wait()


class Cluster:
    """The head, with one CPU, and ``far``: one CPU and two GPUs, as far as Ray knows."""

    def __init__(self, folder, head_gpus=0):
        self._folder = folder
        self.head = Node(
            *(folder, 'head', '--head', f'--port={PORT}', '--include-dashboard=false', f'--temp-dir={folder}'),
            *('--num-cpus=1', f'--num-gpus={head_gpus}'),
        ).wait_until_up()
        self.far = self.add_far()

    def add_far(self):
        options = (f'--address={ADDRESS}', '--num-cpus=1', '--num-gpus=2', '--resources={"far":1}')
        self.far = Node(self._folder, 'far', *options).wait_until_up()
        return self.far

    def stop(self):
        self.far.stop()
        self.head.stop()
