"""An executor in one file: its settings, and trials as plain child processes of this process."""

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mmfixnorm.search.executors.base import Executor, ExecutorSettings, Exit, in_processes
from mmfixnorm.search.executors.claim import check_owner, claim_file, has_result
from mmfixnorm.search.trial.folder import LOG_FILE


@dataclass(frozen=True)
class ToySettings(ExecutorSettings):
    kind: ClassVar[str] = 'toy'

    def build(self, *, workers, command, timeout_s):
        return ToyExecutor(workers, in_processes(command, self))


class ToyExecutor(Executor):
    """The claim is made by the trial's own shell: ``toy PID``, and at the end ``toy PID STATUS``."""

    SCRIPT = (
        'set -C; echo "toy $$" > "$0" || exit 75; set +C; '
        '"$@"; code=$?; echo "toy $$ $code" > "$0.new" && mv "$0.new" "$0"'
    )

    def __init__(self, workers, command):
        self.workers = workers
        self._command = list(command)
        self._children = []

    def submit(self, trial_dir, attempt):
        claim = claim_file(trial_dir, attempt)
        with open(trial_dir / LOG_FILE, 'ab') as log:
            child = subprocess.Popen(
                ['/bin/sh', '-c', self.SCRIPT, str(claim), *self._command, str(trial_dir)],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._children.append(child)
        return str(claim)

    def adopt(self, trial_dir, attempt):
        claim = claim_file(trial_dir, attempt)
        check_owner(claim, 'toy')
        return str(claim) if claim.exists() else None

    def poll(self, handle):
        for child in self._children:
            child.poll()
        words = self._words(handle)
        if len(words) == 3:
            code = int(words[2])
            return Exit(code if code < 128 else 128 - code)
        if len(words) == 2 and not self._lives(words[1]):
            return Exit(0) if has_result(claim_file(*self._split(handle))) else Exit(None, 'its shell is gone')
        return None

    def cancel(self, handle):
        words = self._words(handle)
        if len(words) == 2:
            subprocess.run(['/bin/kill', '-KILL', '--', f'-{words[1]}'], check=False, stderr=subprocess.DEVNULL)
            while self._has_processes(words[1]):
                for child in self._children:
                    child.poll()
                time.sleep(0.001)

    def describe(self, handle):
        return f'toy {" ".join(self._words(handle)[1:2])}'

    @staticmethod
    def _split(handle):
        path = Path(handle)
        return path.parent, int(path.stem.split('-')[1])

    def _words(self, handle):
        claim = claim_file(*self._split(handle))
        return claim.read_text().split() if claim.exists() else []

    @staticmethod
    def _has_processes(group):
        try:
            os.killpg(int(group), 0)
        except ProcessLookupError:
            return False
        return True

    @staticmethod
    def _lives(pid):
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return False
        return True
