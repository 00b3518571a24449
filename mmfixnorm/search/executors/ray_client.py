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
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import ray
from ray.util import list_named_actors
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

NAMESPACE = 'mmfixnorm'
_STOP_S = 10.0


class TrialProcess:
    """The process group of a trial on the node of an actor, which ends with that actor."""

    def __init__(self, task: dict[str, Any]) -> None:
        self._task = task
        self._gpus = ','.join(ray.get_runtime_context().get_accelerator_ids().get('GPU', []))
        self._process: subprocess.Popen[bytes] | None = None

    def address(self) -> tuple[str, int]:
        """Return the address of this node, and a port that is free there."""
        with socket.socket() as s:
            s.bind(('', 0))
            return ray.util.get_node_ip_address(), s.getsockname()[1]

    def run(self, mine: str, env: dict[str, str]) -> str:
        """Run the trial; return its status, or in words why there is none.

        Args:
            mine (str): What the claim says while the attempt may run.
            env (dict[str, str]): What the trial has in its environment beside Ray's own.
        """
        task = self._task
        with open(task['log'], 'ab') as log:
            try:
                self._process = subprocess.Popen(
                    ['/bin/sh', '-c', task['script'], task['claim'], mine],
                    cwd=task['folder'],
                    env={**os.environ, **task['env'], **env, 'CUDA_VISIBLE_DEVICES': self._gpus},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as err:
                return f'it could not be started: {err}'
        try:
            return str(self._process.wait(task['timeout_s']))
        except subprocess.TimeoutExpired:
            return f'search.timeout_s = {task["timeout_s"]:g} passed'
        finally:
            self.stop()

    def stop(self) -> None:
        """End the trial, its watch, and what has outlived it; no error if it has ended."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class Attempt:
    """An actor that runs one attempt and ends with it.

    It claims the attempt exclusively before anything else and adds to the claim how it has ended.
    """

    def __init__(self, task: dict[str, Any]) -> None:
        self._task = task
        self._mine = f'ray {os.uname().nodename} {os.getpid()} {ray.get_runtime_context().get_node_id()}'
        threading.Thread(target=self._run_and_exit).start()  # the actor is there at once

    def _run_and_exit(self) -> None:
        try:
            self._claim_and_run()
        finally:
            os._exit(0)  # gives back its resources, whether a driver looks or not

    def _claim_and_run(self) -> None:
        self._claim()
        self._write_end(TrialProcess(self._task).run(self._mine, {}))

    def _claim(self) -> None:
        with open(self._task['claim'], 'x', encoding='utf-8') as f:
            f.write(self._mine + '\n')

    def _write_end(self, how: str) -> None:
        self._write_claim(f'{self._mine} ended {how}')

    def _write_claim(self, text: str) -> None:
        draft = f'{self._task["claim"]}.{os.getpid()}'
        with open(draft, 'w', encoding='utf-8') as f:
            f.write(f'{text}\n')
            f.flush()
            os.fsync(f.fileno())
        os.replace(draft, self._task['claim'])


class AttemptOnNodes(Attempt):
    """An actor that runs one attempt on several nodes, in an actor on each.

    It takes no place itself. The placement group and the actors in it belong to it, so Ray removes them when it ends,
    however that is. It claims the attempt when all nodes are there.

    Args:
        task (dict): What to run.
        node (dict[str, float]): What Ray sets aside on each node.
        nodes (int): Nodes.
    """

    def __init__(self, task: dict[str, Any], node: dict[str, float], nodes: int) -> None:
        self._bundles = [{name: amount for name, amount in node.items() if amount}] * nodes
        super().__init__(task)

    def _claim_and_run(self) -> None:
        group = placement_group(self._bundles, strategy='STRICT_SPREAD', name=self._task['name'])
        ray.get(group.ready())
        self._claim()
        actors = [self._actor(group, i) for i in range(len(self._bundles))]
        host, port = ray.get(actors[0].address.remote())
        meet = {'PET_MASTER_ADDR': host, 'PET_MASTER_PORT': str(port), 'PET_RDZV_ID': self._task['name']}
        runs = [a.run.remote(self._mine, {**meet, 'PET_NODE_RANK': str(i)}) for i, a in enumerate(actors)]
        how = self._first_failure(runs) or '0'
        try:
            ray.get([actor.stop.remote() for actor in actors], timeout=_STOP_S)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            # Its processes may still run and write: they end at a claim that says something else, and a driver waits.
            self._write_claim('ray revoked')
            return
        self._write_end(how)

    def _actor(self, group: PlacementGroup, index: int) -> Any:
        bundle = dict(self._bundles[index])
        return (
            ray.remote(TrialProcess)
            .options(
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
                max_concurrency=2,  # to be stopped while it runs
                max_restarts=0,
                num_cpus=bundle.pop('CPU', 0),
                num_gpus=bundle.pop('GPU', 0),
                resources=bundle,
            )
            .remote(self._task)
        )

    def _first_failure(self, runs: list[Any]) -> str:
        """Wait until one has not ended with status 0; return its end, empty if all have."""
        while runs:
            (ended,), runs = ray.wait(runs, num_returns=1)
            try:
                how = ray.get(ended)
            except ray.exceptions.RayActorError as err:
                return f'an actor of it has ended: {err}'.split('\n')[0]
            if how != '0':
                return str(how)
        return ''


def start(name: str, task: dict[str, Any], node: dict[str, float], nodes: int) -> bool:
    """Run an attempt as soon as there is a place; return whether there are nodes large enough for it."""
    options: dict[str, Any] = {
        'name': name,
        'namespace': NAMESPACE,
        'get_if_exists': True,
        'lifetime': 'detached',  # it outlives the driver
        'max_restarts': 0,
    }
    if nodes == 1:
        others = {k: v for k, v in node.items() if k not in ('CPU', 'GPU')}
        places = {'num_cpus': node['CPU'], 'num_gpus': node['GPU'], 'resources': others}
        ray.remote(Attempt).options(**options, **places).remote(task)
    else:
        ray.remote(AttemptOnNodes).options(**options, num_cpus=0).remote(task, node, nodes)
    there = [n['Resources'] for n in ray.nodes() if n['Alive']]
    return sum(all(n.get(k, 0) >= v for k, v in node.items()) for n in there) >= nodes


def look() -> list[str]:
    """List the names of the attempts that wait or run."""
    return list_named_actors()


def placement_groups() -> list[str]:
    """List the names of the attempts whose places on several nodes are waited for or held."""
    return [group['name'] for group in placement_group_table().values() if group['state'] != 'REMOVED']


def kill(name: str) -> None:
    """Kill the actor of an attempt; no error if there is none."""
    if name in list_named_actors():
        ray.kill(ray.get_actor(name))


def main() -> None:
    """Answer requests until the driver is gone."""
    replies = os.fdopen(os.dup(1), 'w', encoding='utf-8')
    os.dup2(2, 1)  # what Ray prints is no reply
    commands: dict[str, Callable[..., Any]] = {
        'start': start,
        'look': look,
        'kill': kill,
        'placement_groups': placement_groups,
    }
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
