"""The process through which :mod:`.ray` talks to Ray: JSON in, JSON out, a line each.

Ray is kept out of the driver: it aborts a process that has lost its cluster for a minute, it can
hang in a call, and it would be most of the driver's memory. This file runs as ``__main__``, so what
it sends to the cluster is sent by value and imports nothing but Ray there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import ray
from ray.util import list_named_actors

NAMESPACE = 'mmfixnorm'


class Attempt:
    """An actor that runs one attempt in a process group on its node, and ends with it.

    It claims the attempt exclusively before anything else and adds to the claim how it has ended.
    """

    def __init__(self, task: dict[str, Any]) -> None:
        context = ray.get_runtime_context()
        self._task = task
        self._mine = f'ray {os.uname().nodename} {os.getpid()} {context.get_node_id()}'
        self._gpus = ','.join(context.get_accelerator_ids().get('GPU', []))
        threading.Thread(target=self._run_and_exit).start()  # the actor is there at once

    def _run_and_exit(self) -> None:
        try:
            with open(self._task['claim'], 'x', encoding='utf-8') as f:
                f.write(self._mine + '\n')
            self._write_end(self._run())
        finally:
            os._exit(0)  # gives back its resources, whether a driver looks or not

    def _run(self) -> str:
        """Run the trial; return its status, or in words why there is none."""
        task = self._task
        with open(task['log'], 'ab') as log:
            try:
                process = subprocess.Popen(
                    ['/bin/sh', '-c', task['script'], task['claim'], self._mine],
                    cwd=task['folder'],
                    env={**os.environ, **task['env'], 'CUDA_VISIBLE_DEVICES': self._gpus},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as err:
                return f'it could not be started: {err}'
        try:
            return str(process.wait(task['timeout_s']))
        except subprocess.TimeoutExpired:
            return f'search.timeout_s = {task["timeout_s"]:g} passed'
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the watch, and what has outlived the trial
            process.wait()

    def _write_end(self, how: str) -> None:
        draft = f'{self._task["claim"]}.{os.getpid()}'
        with open(draft, 'w', encoding='utf-8') as f:
            f.write(f'{self._mine} ended {how}\n')
            f.flush()
            os.fsync(f.fileno())
        os.replace(draft, self._task['claim'])


def start(name: str, task: dict[str, Any], cpus: int, gpus: int, resources: dict[str, float]) -> bool:
    """Run an attempt as soon as there is a place; return whether a node is large enough for it."""
    ray.remote(Attempt).options(
        name=name,
        namespace=NAMESPACE,
        get_if_exists=True,
        lifetime='detached',  # it outlives the driver
        max_restarts=0,
        num_cpus=cpus,
        num_gpus=gpus,
        resources=resources,
    ).remote(task)
    requested = {'CPU': cpus, 'GPU': gpus, **resources}
    nodes = [node['Resources'] for node in ray.nodes() if node['Alive']]
    return any(all(node.get(k, 0) >= v for k, v in requested.items()) for node in nodes)


def look() -> list[str]:
    """List the names of the attempts that wait or run."""
    return list_named_actors()


def kill(name: str) -> None:
    """Kill the actor of an attempt; no error if there is none."""
    if name in list_named_actors():
        ray.kill(ray.get_actor(name))


def main() -> None:
    """Answer requests until the driver is gone."""
    replies = os.fdopen(os.dup(1), 'w', encoding='utf-8')
    os.dup2(2, 1)  # what Ray prints is no reply
    commands: dict[str, Callable[..., Any]] = {'start': start, 'look': look, 'kill': kill}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if not ray.is_initialized():
                ray.init(
                    sys.argv[1],
                    namespace=NAMESPACE,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    configure_logging=False,
                )
            answer = {'answer': commands[request.pop('do')](**request)}
        except Exception as err:  # the driver reports it
            answer = {'error': f'{type(err).__name__}: {err}'}
        replies.write(json.dumps(answer) + '\n')
        replies.flush()


if __name__ == '__main__':
    main()
