"""The shell scripts that Slurm runs for a trial: one for its job, and on several nodes one for each of them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from mmfixnorm.search.executors.claim import (
    NOT_CLAIMED,
    WAIT_SCRIPT,
    WATCH_SCRIPT,
    attempt_name,
    attempt_number,
)
from mmfixnorm.search.trial.folder import LATE_S, NOTICE_VARIABLE, saved_file

# The job claims the attempt, see claim.py. One that Slurm has requeued takes over its own claim.
_JOB = """#!/bin/bash
claim={claim}
job="slurm $SLURM_JOB_ID {cluster}"
mine="$job ${{SLURM_RESTART_COUNT:-0}}"
if ! (set -C; echo "$mine" > "$claim") 2>/dev/null; then
  case "$(cat "$claim")" in
    "$job "*)
      echo "$mine" > "$claim.new" && mv "$claim.new" "$claim" || exit
      sleep 5 ;;  # its earlier process may still run, on a node that Slurm has lost: the watch there ends it
    *)
      echo "job $SLURM_JOB_ID: $claim is there, another process runs this attempt"
      exit {not_claimed} ;;
  esac
fi
{watch}
threads=$((${{SLURM_CPUS_ON_NODE:-1}} / {processes_per_node}))
export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}}"
{setup}
{run}
"""
# The job's script runs on its first node, which is the one where the processes of all nodes meet.
_STEP = """export claim mine PET_RDZV_ID={name}
PET_MASTER_PORT=$({python} -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])') || exit
export PET_MASTER_PORT ${{SLURM_CPUS_PER_TASK:+SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK}}
export {variable}="TERM USR1"
rm -f {saved}
srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --kill-on-bad-exit=1 /bin/bash -c {of_node}
status=$?
if [ -e {saved} ]; then  # it was told to end, and has
  scontrol requeue "$SLURM_JOB_ID" && sleep 600  # Slurm ends this
fi
exit "$status\""""
# Each node watches the claim by itself: the first one may be out of its reach. It may see the file late as well.
_NODE = """export PET_NODE_RANK="$SLURM_NODEID" PET_MASTER_ADDR="$SLURM_LAUNCH_NODE_IPADDR"
trap "" USR1  # a notice, for the training alone
{wait}
{watch}
exec {command}
"""


def job_script(
    claim: Path,
    command: Sequence[str],
    *,
    cluster: str,
    nodes: int,
    processes_per_node: int,
    setup: Sequence[str],
    in_step: bool,
) -> str:
    """Write the script of the job that runs an attempt.

    Args:
        claim (Path): The claim of the attempt.
        command (Sequence[str]): What each node runs, see :func:`.base.in_processes`.
        cluster (str): Name of the cluster.
        nodes (int): Nodes of the job.
        processes_per_node (int): Processes among which the CPUs of a node are shared out.
        setup (Sequence[str]): Lines of shell to run first.
        in_step (bool): Run the command in a job step, which Slurm gives notice; on several nodes always.
    """
    run = f'exec {shlex.join(command)}'
    if in_step or nodes > 1:
        run = _STEP.format(
            name=shlex.quote(attempt_name(claim)),
            python=shlex.quote(sys.executable),
            nodes=nodes,
            variable=NOTICE_VARIABLE,
            saved=shlex.quote(str(saved_file(claim.parent, attempt_number(claim)))),
            of_node=shlex.quote(node_script(command)),
        )
    return _JOB.format(
        claim=shlex.quote(str(claim)),
        cluster=cluster,
        not_claimed=NOT_CLAIMED,
        watch=WATCH_SCRIPT,
        processes_per_node=processes_per_node,
        setup='\n'.join(setup),
        run=run,
    )


def node_script(command: Sequence[str]) -> str:
    """Write what each node of a job with several runs, with the environment of the job's script."""
    wait = WAIT_SCRIPT.format(late_s=LATE_S)
    return _NODE.format(wait=wait, watch=WATCH_SCRIPT, command=shlex.join(command))
