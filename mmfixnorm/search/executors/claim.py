"""The file by which an attempt runs once, however often it is started: ``attempt-N.claim``.

The process that runs the attempt creates it exclusively, before anything else. Its words say which process that is:

- ``PID START HOST SLOT``: a process of :class:`.local.LocalExecutor`, its start time in ticks since
  boot, its machine and its place among the GPUs;
- ``slurm JOB_ID CLUSTER RESTARTS``: a job of :class:`.slurm.SlurmExecutor`;
- ``ray HOST PID NODE``, and later ``ended STATUS``: an actor of :class:`.ray.RayExecutor`;
- ``slurm revoked``, ``ray revoked``: the attempt was given up, and what still runs of it must end itself;
- ``manual HOST``: handed out to be started by hand.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmfixnorm.errors import ConfigError
from mmfixnorm.search._utils.files import write_text, writing_to
from mmfixnorm.search.trial.folder import LOG_FILE, RESULT_FILE

# Beside a trial, in its process group: ends the group when ``$claim`` does not say ``$mine`` any more. A node that was
# given up, or a search that was replaced, may still have a trial running, and two must not write. A claim that cannot
# be read says nothing; one that is gone at every look for half a minute was deleted, or moved with its folder.
WATCH_SCRIPT = f"""(
  gone=0
  while sleep 2 && kill -s 0 $$; do
    if now=$(cat "$claim"); then
      [ "$now" = "$mine" ] && gone=0 && continue
    elif [ -e "$claim" ] || [ $((gone += 1)) -lt 15 ]; then
      continue
    fi
    echo "node $(uname -n): $claim says '$now', not '$mine': this process is ended" >> "${{claim%/*}}/{LOG_FILE}"
    kill -s KILL -- -$$
  done
) >/dev/null 2>&1 &"""
# On a node that did not write the claim itself, before its watch: it may see the file late.
WAIT_SCRIPT = """waited=0
until [ "$(cat "$claim" 2>/dev/null)" = "$mine" ]; do
  if [ $((waited += 1)) -gt {late_s} ]; then
    echo "node $(uname -n): $claim does not say '$mine' after {late_s} s; it must see the work dir under this path"
    exit 1
  fi
  sleep 1
done"""
# `set -C` makes the shell create the file exclusively. So however a driver was killed around the
# start of a trial, an attempt runs once. The process that `exec` makes keeps number and start time.
NOT_CLAIMED = 75
CLAIM_SCRIPT = f"""set -C
started=$(cut -d" " -f22 /proc/$$/stat 2>/dev/null || echo unknown)
claim=$0 mine="$$ $started $(uname -n) $1"
echo "$mine" > "$claim" || exit {NOT_CLAIMED}
shift
{WATCH_SCRIPT}
exec "$@"
"""
_CLAIM_WRITTEN_S = 5.0  # an empty claim older than this was left by a shell that was killed


@dataclass(frozen=True)
class Claim:
    """The claim of a process of this or another machine; ``slot`` is None if the file does not have it."""

    pid: int
    started: str
    host: str
    slot: int | None


def claim_file(trial_dir: Path, attempt: int) -> Path:
    """Return the file that claims this attempt."""
    return trial_dir / f'attempt-{attempt}.claim'


def attempt_number(claim: Path) -> int:
    """Return the number of an attempt, from 1."""
    return int(claim.stem.split('-')[1])


def attempt_name(claim: Path) -> str:
    """Return a name that no other attempt has, for a cluster; Slurm reuses ids after a crash.

    It is the same by whatever path the work dir is reached.
    """
    return attempt_names(claim)[0]


def attempt_names(claim: Path) -> list[str]:
    """Return :func:`attempt_name`, and the name that earlier versions gave, by the path as it was written."""
    hashes = (hashlib.sha256(str(path).encode()).hexdigest() for path in (claim.resolve(), claim))
    return [*dict.fromkeys(f'{name_prefix(claim)}{hashed[:12]}' for hashed in hashes)]


def name_prefix(claim: Path) -> str:
    """Return what the name of this attempt begins with in every work dir."""
    return f'{claim.parent.name}.{attempt_number(claim)}-'


def revoke(claim: Path, executor: str) -> None:
    """Tell what still runs of an attempt to end itself; the watch beside it looks every 2 s.

    Raises:
        CannotWriteError: The trial's folder cannot be written to.
    """
    with writing_to(claim.parent):
        write_text(claim, f'{executor} revoked\n')


def note_file(claim: Path) -> Path:
    """Return the file in which a driver notes the Slurm job that will claim an attempt."""
    return claim.with_suffix('.job')


def has_result(claim: Path) -> bool:
    """Return whether the attempt has left its result.

    A result that cannot be read counts: the driver reads it as well, and says what is wrong.
    """
    try:
        attempt = json.loads((claim.parent / RESULT_FILE).read_text(encoding='utf-8'))['attempt']
    except FileNotFoundError:
        return False
    except (ValueError, TypeError, KeyError):
        return True
    return claim_file(claim.parent, attempt) == claim


def check_owner(path: Path, executor: str) -> None:
    """Refuse an attempt that another kind of executor has started.

    Raises:
        ConfigError: The attempt was started by another executor; the message names it.
    """
    words = claim_words(path)
    note = note_file(path)
    if words:
        owner, found = 'local' if words[0].isdigit() else words[0], path
    else:
        owner, found = 'slurm' if note.exists() else executor, note
    if owner != executor:
        raise ConfigError(
            f'search.executor: {found}: this attempt was started by the executor {owner!r}, this is {executor!r}; '
            f'continue with --executor {owner}, or delete that file if the attempt has ended'
        )


def read_claim(path: Path) -> Claim | None:
    """Read the claim of a process, or None if it is not written, or not by a process."""
    words = claim_words(path)
    if len(words) not in (3, 4) or not words[0].isdigit():
        return None
    return Claim(int(words[0]), words[1], words[2], int(words[3]) if len(words) == 4 else None)


def claimed_pid(path: Path) -> int | None:
    """Return the process that runs the attempt, or None if it has ended.

    Raises:
        ConfigError: It was started on another machine, so nothing is known of it.
    """
    give_up = time.monotonic() + _CLAIM_WRITTEN_S
    while (claim := read_claim(path)) is None:
        if not _is_being_written(path) or time.monotonic() > give_up:
            return None
        time.sleep(0.05)
    if claim.host != os.uname().nodename:
        raise ConfigError(
            f'{path}: this attempt was started on {claim.host!r}, this is {os.uname().nodename!r}; '
            'continue there, or delete that file if the attempt has ended'
        )
    return claim.pid if start_time(claim.pid) == claim.started else None


def claimed_s(claim: Path) -> float:
    """Return for how many seconds an attempt has been claimed; 0 if it is not yet."""
    try:
        return max(0.0, time.time() - claim.stat().st_mtime)
    except FileNotFoundError:
        return 0.0


def waiting_job(claim: Path) -> str | None:
    """Name the Slurm job that is noted for an attempt, or None if there is no note."""
    try:
        return f'Slurm job {json.loads(note_file(claim).read_text(encoding="utf-8"))["job_id"]}'
    except FileNotFoundError:
        return None


def running_claims(trials_dir: Path, next_attempt: Callable[[str], int]) -> list[str]:
    """List the attempts below a folder of trials that still run, or may run, each with where.

    A process of this machine is looked for; of a job, an actor or another machine only a result, or the record, says
    that it has ended.

    Args:
        trials_dir (Path): The folder.
        next_attempt (callable): Returns the first attempt at a trial whose end is not in the record.
    """
    running = []
    begun = [*trials_dir.glob('*/attempt-*.claim'), *trials_dir.glob('*/attempt-*.job')]
    for path in sorted({path.with_suffix('.claim') for path in begun}):
        claim = read_claim(path)
        if has_result(path) or attempt_number(path) < next_attempt(path.parent.name):
            continue
        if not path.exists():
            running.append(f'{path.parent.name} ({waiting_job(path)}, waiting)')
        elif claim is None:
            words = claim_words(path)
            if not words and _is_being_written(path):
                running.append(f'{path.parent.name} (starting)')
            if words and words[0] != 'manual' and 'ended' not in words and 'revoked' not in words:
                running.append(f'{path.parent.name} ({" ".join(words[:2])})')
        elif claim.host != os.uname().nodename:
            running.append(f'{path.parent.name} (process {claim.pid} on {claim.host})')
        elif start_time(claim.pid) == claim.started:
            running.append(f'{path.parent.name} (process {claim.pid})')
    return running


def _is_being_written(path: Path) -> bool:
    return path.exists() and abs(time.time() - path.stat().st_mtime) < _CLAIM_WRITTEN_S


def claim_words(claim: Path) -> list[str]:
    """Return the words of a claim; none if there is no claim, or it is still being written."""
    return claim.read_text(encoding='utf-8').split() if claim.exists() else []


def start_time(pid: int) -> str | None:
    """Return the start time of a living process, in ticks since boot, which no later process of its number shares.

    ``'unknown'`` where there is no ``/proc``.
    """
    if not os.path.isdir('/proc/self'):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass  # another user's
        return 'unknown'
    try:
        text = Path(f'/proc/{pid}/stat').read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(')')[2].split()  # the name before it can hold anything
    state, started = fields[0], fields[19]
    return None if state == 'Z' else started
