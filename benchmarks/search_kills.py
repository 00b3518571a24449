"""Random kills of the command `search run` at a terminal and without one, with a config edited in between.

Each round is one search by Algorithm 4 (15 trainings, fake ones of a second and a half; in each fifth round a grid of
real tiny trainings; with ``--search LRFitSearch`` a ramp, what its fit proposes beyond its range too, and alphas), two
trials at a time. The command runs at a pseudo-terminal of its own or behind a pipe. After a
random time it is ended by ``kill -9``, SIGTERM, Ctrl-C or a hang-up (the terminal is closed), or one of its trials is
killed by signal 9; three in ten commands ignore a hang-up, as under ``nohup``, and go on without a terminal. Then the
commands that only read are given in a random order, and it is started again. After one kill of each round the config is
edited first, so that it is another search (its range or the length of its trainings); all commands are given, the
search is ended by the same means, and the edit is taken back. At the end the search that owns the work dir runs to its
end and is compared to an undisturbed one::

    python benchmarks/search_kills.py --kills 100 --seed 0 --out search_kills.jsonl

With ``--config`` it is one search of that config, with its own trainings, and all the kills; nothing is edited::

    python benchmarks/search_kills.py --kills 100 --config my_config.py

``--out`` gets one JSON line per round; a round that is there already is not repeated. A round's ``faults`` are
sentences: a table that differs from the undisturbed one, a training that is lost or recorded twice, a file written by a
trial of another search (each trial stamps its folder while it trains), a ``best_config.py`` that was not searched, a
traceback, an unexpected exit status, a process that is left. Prints a summary as one JSON line; the exit status is 1 if
there are faults.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

import mmfixnorm
from mmfixnorm.search.executors.claim import claimed_pid
from mmfixnorm.search.problem import load_problem
from mmfixnorm.search.record.state import search_state
from mmfixnorm.search.record.study import fingerprint, read_record

TESTS = Path(__file__).parents[1] / 'tests' / 'search'
KILLS_PER_ROUND = 5
MEANS = ('kill -9', 'SIGTERM', 'Ctrl-C', 'hang-up', 'trial')
READERS = ('plan', 'status', 'report')
FAKE = f"""
_base_ = [{str(TESTS.parent / 'tiny' / 'search.py')!r}]
search = dict(backoff_s=0, max_attempts=1000, workers=2)
"""
REAL = f"""
_base_ = [{str(TESTS / 'toy_config.py')!r}]
custom_hooks = [dict(type='StampHook', pause_s=0.05)]
search = dict(lrs=[0.05, 0.1, 0.2, 0.4], max_attempts=1000, workers=2)
"""
FIT = f"""
_base_ = [{str(TESTS.parent / 'tiny' / 'search.py')!r}]
search = dict(
    _delete_=True, type='LRFitSearch', lr_range='auto', num_trainings=5, noise=0.002, alphas=[1.0, 4.0, 8.0],
    extend=True, backoff_s=0, max_attempts=1000, workers=2,
)
"""
TEXTS = {'fake': FAKE, 'real': REAL, 'fit': FIT}
EDITS = {
    'fit': ('search.update(noise=0.003)\n', 'train_cfg = dict(max_epochs=20)\n'),
    'fake': ('search.update(lr_range=(0.3, 3.2))\n', 'train_cfg = dict(max_epochs=20)\n'),
    'real': ('search.update(lrs=[0.1, 0.3])\n', 'optim_wrapper = dict(optimizer=dict(momentum=0.8))\n'),
}
OWN = """
_base_ = [{config!r}]
search = dict(backoff_s=0, max_attempts=1000, workers=2)
"""
REALLY_TRAINED = ('real', 'own')
RUN_FAKE = f"""
import sys
from mmfixnorm.cli.search import main
sys.exit(main(sys.argv[1:], trial_command=[sys.executable, '-S', {str(TESTS / 'fake_trial.py')!r}, 'stamped']))
"""
_PACKAGE = str(Path(mmfixnorm.__file__).parent)
_MARK = 'MMFIXNORM_SEARCH_KILLS'


class Command:
    """A command that runs at a terminal of its own or behind a pipe; with ``nohup`` it ignores SIGHUP."""

    def __init__(self, arguments: Sequence[str], *, terminal: bool, mark: str, nohup: bool = False) -> None:
        self.output = b''
        self.nohup = nohup
        self.on_terminal = terminal
        ours, theirs = pty.openpty() if terminal else os.pipe()

        def take_terminal() -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell lets what runs in its background ignore it
            signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
            if terminal:
                fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

        path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get('PYTHONPATH', '')]))
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=theirs if terminal else subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=take_terminal,
            env={**os.environ, _MARK: mark, 'PYTHONPATH': path, 'TERM': 'xterm', 'COLUMNS': '200', 'LINES': '50'},
            pass_fds=(theirs,),
        )
        os.close(theirs)
        self._end = ours
        self._open = True
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while self._open:
            if select.select([self._end], [], [], 0.02)[0]:
                try:
                    text = os.read(self._end, 65536)
                except OSError:  # the last process that had the terminal has ended
                    break
                if not text:
                    break
                self.output += text
        os.close(self._end)

    def hang_up(self) -> None:
        """Close the terminal; without one, send what the kernel would."""
        if not self.on_terminal:
            self.process.send_signal(signal.SIGHUP)
            return
        self._open = False
        self._reader.join()

    def end(self, means: str) -> None:
        """End it by these means, not waiting."""
        if self.process.poll() is not None:
            return
        if means == 'hang-up':
            self.hang_up()
        elif means == 'Ctrl-C' and self.on_terminal and self._open:
            os.write(self._end, b'\x03')
        else:
            number = {'kill -9': signal.SIGKILL, 'SIGTERM': signal.SIGTERM, 'Ctrl-C': signal.SIGINT}[means]
            self.process.send_signal(number)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for it to end; return its status, or None while it runs."""
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        if self._open:
            time.sleep(0.05)
            self._open = self._reader.is_alive() and bool(select.select([self._end], [], [], 0)[0])
        self._open = False
        self._reader.join()
        return status


class Round:
    """One search that is disturbed, by so many kills if it lasts for them."""

    def __init__(
        self, number: int, seed: int, folder: Path, *, kills: int = KILLS_PER_ROUND, kind: str | None = None
    ) -> None:
        self.most = kills
        self.rng = random.Random(f'{seed}-{number}')
        self.kind = kind or ('real' if number % 5 == 4 else 'fake')
        self.folder = folder / f'round-{number}'
        shutil.rmtree(self.folder, ignore_errors=True)  # of a run that was ended in the middle
        self.folder.mkdir()
        self.config, self.work_dir = self.folder / 'config.py', self.folder / 'work'
        self.mark = f'{os.getpid()}-{seed}-{number}'
        self.edit = self.rng.choice(EDITS.get(self.kind, ('',)))
        self.kills: list[str] = []
        self.edited = 0
        self.faults: list[str] = []
        self.seen: set[tuple[str, str, float | None]] = set()
        self.told: list[str] = []
        texts = {name: self.text(name) for name in (('given', 'edited') if self.edit else ('given',))}
        self.fingerprints = {}
        for name, text in texts.items():
            self.config.write_text(text)
            self.fingerprints[fingerprint(load_problem(self.config, work_dir=self.work_dir).identity)] = name
        self.write('given')

    def text(self, name: str) -> str:
        """The source of the config as it was given, or edited."""
        given = TEXTS[self.kind]
        return given if name == 'given' else given + self.edit

    def write(self, name: str) -> None:
        """Write the config, as an editor does."""
        self.current = name
        self.config.write_text(self.text(name))

    def start(self, action: str, *, terminal: bool) -> Command:
        """Give one of the search commands."""
        begin = how_to_begin(self.kind)
        arguments = [*begin, action, str(self.config), '--work-dir', str(self.work_dir)]
        return Command(arguments, terminal=terminal, mark=self.mark, nohup=self.rng.random() < 0.3)

    def owner(self) -> str | None:
        """Which of the two searches the work dir belongs to now."""
        if not (self.work_dir / 'study.db').exists():
            return None
        return self.fingerprints[read_record(self.work_dir).fingerprint]

    def check_end(self, action: str, command: Command, status: int | None, allowed: Sequence[int]) -> None:
        """Note a traceback and an unexpected status."""
        output = command.output.decode(errors='replace')
        if 'KeyboardInterrupt' in output and f'{_PACKAGE}/' not in output:
            return  # Python itself was interrupted while it started
        if 'Traceback' in output:
            self.faults.append(f'{action}: traceback: {output[output.index("Traceback") :][-1500:]}')
        elif status not in allowed:
            self.faults.append(f'{action}: status {status}, expected one of {list(allowed)}: {output[-500:]}')
        if status == 2:
            self.told += re.findall(
                r'holds another search|still run|another driver holds|no search was started', output
            )

    def read(self) -> None:
        """Give the commands that only read, in a random order, and look at what they leave."""
        for action in self.rng.sample(READERS, self.rng.randint(1, 3)):
            before = self.owner()
            command = self.start(action, terminal=self.rng.random() < 0.5)
            status = command.wait(120)
            owners = {before, self.owner()}  # a driver may run beside it
            allowed = {0 if self.current in owners else 2} | ({0} if action == 'plan' and None in owners else set())
            allowed |= {2} if owners - {self.current} else set()
            self.check_end(action, command, status, sorted(allowed))
            self.look()

    def look(self) -> None:
        """Note what is recorded now, and check the best config."""
        if self.owner() is None:
            return
        record = read_record(self.work_dir)
        self.seen |= {(record.fingerprint, c.key, c.value) for c in record.finished()}
        best = self.work_dir / 'best_config.py'
        if not best.exists():
            return
        named = re.search(r'in trial (\S+) of', best.read_text())
        if named is None:
            self.faults.append('best_config.py names no trial')
            return
        key = named.group(1)
        points = {c.key: c.point for c in record.finished()}
        cfg, owner = Config.fromfile(best, import_custom_modules=False), self.fingerprints[record.fingerprint]
        found = (cfg.optim_wrapper.optimizer.lr, cfg.model.head.alpha)
        if key not in points or found != (points[key].lr, points[key].alpha or cfg.model.head.alpha):
            self.faults.append(f'best_config.py of the search {owner} has {found}, not the values of {key}')

    def kill(self, command: Command) -> Command | None:
        """Kill the driver or a trial; return the driver if it still runs."""
        means = self.rng.choice(MEANS)
        if means == 'trial':
            pids = [pid for pid in map(claimed_pid, self.work_dir.glob('trials/*/attempt-*.claim')) if pid]
            if not pids:
                return command
            try:
                os.kill(self.rng.choice(pids), signal.SIGKILL)
            except ProcessLookupError:
                return command
        else:
            command.end(means)
        where = 'at a terminal' if command.on_terminal else 'behind a pipe'
        if means == 'hang-up' and command.nohup:
            means = 'hang-up under nohup'
        self.kills.append(f'{means} {where}' if means != 'trial' else means)
        if means in ('trial', 'hang-up under nohup'):  # the driver goes on
            return command
        status = command.wait(60)
        ended = {
            'kill -9': -signal.SIGKILL,
            'SIGTERM': -signal.SIGTERM,
            'Ctrl-C': -signal.SIGINT,
            'hang-up': -signal.SIGHUP,
        }
        refused = [2] if self.owner() not in (None, self.current) else []
        self.check_end(f'run, after {self.kills[-1]}', command, status, [0, 130, ended[means], *refused])
        if status is None:
            command.end('kill -9')
            command.wait()
        return None

    def wait_a_while(self, command: Command) -> int | None:
        """Let it run for a random time; return its status if it ends."""
        longest = self.rng.choice([8.0, 16.0] if self.kind in REALLY_TRAINED else [2.0, 5.0])
        return command.wait(self.rng.uniform(0.0, longest))

    def with_an_edit(self) -> None:
        """Edit the config, give all commands, the search too; take the edit back."""
        self.write('edited')
        self.edited += 1
        for action in self.rng.sample(['run', 'read'], 2):
            if action == 'read':
                self.read()
                continue
            command = self.start('run', terminal=self.rng.random() < 0.5)
            status = self.wait_a_while(command)
            if status is None:
                means = self.rng.choice(MEANS[:-1])
                command.end(means)
                status = command.wait(5 if command.nohup and means == 'hang-up' else 60)
                if status is None:
                    command.end('kill -9')
                    status = command.wait()
                allowed = [0, 2, 130, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP]
            else:
                allowed = [0, 2]
            self.check_end('run of the edited config', command, status, allowed)
            self.look()
        self.write('given')
        self.read()

    def run(self) -> dict[str, Any]:
        """Disturb the search, end it, and return what happened."""
        begin = time.monotonic()
        edit_after = min(self.most, self.rng.choice([1, 1, 2, 3]))  # mostly before anything has finished
        command: Command | None = None
        refused = 0
        while len(self.kills) < self.most and refused < 50:
            command = command or self.start('run', terminal=self.rng.random() < 0.6)
            status = self.wait_a_while(command)
            if status is None:
                command = self.kill(command)
                self.look()
                if self.edit and self.edited == 0 and len(self.kills) == edit_after:
                    self.with_an_edit()
                elif self.rng.random() < 0.4:
                    self.read()
                continue
            self.check_end('run', command, status, [0, 2])
            command = None
            if status == 0:
                break
            refused += 1
            self.write(self.owner() or 'given')  # the edited search has a result: it keeps the folder
        self.finish(command)
        self.check()
        return {
            'kind': self.kind,
            'kills': self.kills,
            'edited': self.edited,
            'told': Counter(self.told),
            'owner': self.owner(),
            'replaced': len(list(self.work_dir.glob('replaced-*'))),
            'trainings': len(read_record(self.work_dir).finished()),
            'seconds': round(time.monotonic() - begin, 1),
            'faults': self.faults,
        }

    def finish(self, command: Command | None) -> None:
        """Run the search that owns the work dir to its end."""
        for _ in range(20):
            if command is not None:
                status = command.wait(600)
                self.check_end('run', command, status, [0, 2])
                if status == 0:
                    break
                time.sleep(1)
            self.write(self.owner() or 'given')
            command = self.start('run', terminal=False)
        else:
            self.faults.append('the search does not end')
        self.read()

    def check(self) -> None:
        """Compare what is left with an undisturbed search, and look for what must not be."""
        owner = self.owner()
        problem = load_problem(self.config, work_dir=self.work_dir)
        record = read_record(self.work_dir)
        table, expected = rows(problem, record), undisturbed(self, owner)
        if table != expected:
            self.faults.append(f'the table differs: {sorted(set(expected) ^ set(table))}')
        records = [record, *(read_record(p) for p in self.work_dir.glob('replaced-*') if (p / 'study.db').exists())]
        finished = [(r.fingerprint, c.key, c.value) for r in records for c in r.finished()]
        self.faults += [f'lost: {key} of {self.fingerprints[f]}, {v}' for f, key, v in self.seen - set(finished)]
        counted = Counter((f, key) for f, key, _ in finished)
        self.faults += [f'recorded {n} times: {key}' for (_, key), n in counted.items() if n > 1]
        ends: Counter[tuple[str, str]] = Counter()
        for folder in [self.work_dir, *self.work_dir.glob('replaced-*')]:
            ends += self.check_folders(folder, set(counted))
        self.faults += [f'trained to its end {n} times: {key}' for (_, key), n in ends.items() if n > 1]
        if left := processes_left(self.mark):
            self.faults.append(f'processes are left: {left}')

    def check_folders(self, folder: Path, recorded: set[tuple[str, str]]) -> Counter[tuple[str, str]]:
        """Check the stamps and results of the trials in a work dir, present or replaced; count their ends."""
        ends: Counter[tuple[str, str]] = Counter()
        owner = read_record(folder).fingerprint
        for trial in sorted((folder / 'trials').glob('*')):
            name = f'{folder.name}/{trial.name}'
            stamps = trial / 'stamps.txt'
            lines = [line.split() for line in stamps.read_text().splitlines()] if stamps.exists() else []
            if strangers := {f for f, *_ in lines} - {owner}:
                self.faults.append(f'{name}: written by trials of {sorted(strangers)}, it belongs to {owner}')
            ends.update((f, key) for f, key, _, _, word in lines if word == 'end')
            result = trial / 'result.json'
            if result.exists():
                found = json.loads(result.read_text())
                if found['fingerprint'] != owner:
                    self.faults.append(f'{name}: has the result of {found["fingerprint"]}, it belongs to {owner}')
                elif found['outcome'] == 'done' and (owner, trial.name) not in recorded:
                    self.faults.append(f'{name}: its result is in no record')
        return ends


def rows(problem: Any, record: Any) -> list[tuple[Any, ...]]:
    """What must not depend on how a search ran."""
    state = search_state(problem, record)
    return [(r.key, r.stage, r.outcome, *r.point.values.items(), r.cost, r.value) for r in state.rows]


def how_to_begin(kind: str) -> list[str]:
    """Arguments of Python before those of the search command."""
    return ['-m', 'mmfixnorm', 'search'] if kind in REALLY_TRAINED else ['-c', RUN_FAKE]


_UNDISTURBED: dict[str, list[tuple[Any, ...]]] = {}


def undisturbed(disturbed: Round, name: str | None) -> list[tuple[Any, ...]]:
    """The table of the same search when nothing disturbs it."""
    text = disturbed.text(name or 'given')
    if text not in _UNDISTURBED:
        work_dir = disturbed.folder / 'undisturbed'
        begin = how_to_begin(disturbed.kind)
        command = Command(
            [*begin, 'run', str(disturbed.config), '--work-dir', str(work_dir)], terminal=False, mark='undisturbed'
        )
        if command.wait() != 0:
            raise RuntimeError(command.output.decode())
        _UNDISTURBED[text] = rows(load_problem(disturbed.config, work_dir=work_dir), read_record(work_dir))
    return _UNDISTURBED[text]


def processes_left(mark: str, wait_s: float = 8.0) -> list[str]:
    """The processes of a round that live on after a few seconds; the watch beside a trial sleeps for two."""
    give_up = time.monotonic() + wait_s
    while left := list(_marked(mark)):
        if time.monotonic() > give_up:
            return left
        time.sleep(0.2)
    return []


def _marked(mark: str) -> Iterator[str]:
    for path in Path('/proc').glob('[0-9]*'):
        try:
            if f'{_MARK}={mark}\0'.encode() in (path / 'environ').read_bytes():
                yield f'{path.name} {(path / "cmdline").read_bytes().decode(errors="replace")!r}'
        except OSError:
            continue  # it has ended, or is another user's


def summary(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Count over all rounds."""
    kills = Counter(kill for line in lines for kill in line['kills'])
    return {
        'rounds': len(lines),
        'kills': sum(kills.values()),
        'by': dict(sorted(kills.items())),
        'edited': sum(line['edited'] for line in lines),
        'told': dict(sum((Counter(line['told']) for line in lines), Counter())),
        'kept_by_the_edited': sum(line['owner'] == 'edited' for line in lines),
        'replaced': sum(line['replaced'] for line in lines),
        'trainings': sum(line['trainings'] for line in lines),
        'faults': [f'round {line["round"]}: {fault}' for line in lines for fault in line['faults']],
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=100)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', default='search_kills.jsonl', help='one line per round; continued if it is there')
    parser.add_argument('--search', choices=['FixNormSearch', 'LRFitSearch'], default='FixNormSearch')
    parser.add_argument('--config', help='a config with a `search` block: one search of it, with all the kills')
    parser.add_argument('--folder', help='keep the searches here; default: a temporary folder')
    args = parser.parse_args(argv)
    out = Path(args.out)
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        while sum(len(line['kills']) for line in lines) < args.kills:
            number = len(lines)
            of_one: dict[str, Any] = {'kind': 'fit'} if args.search == 'LRFitSearch' else {}
            if args.config:
                left = args.kills - sum(len(line['kills']) for line in lines)
                TEXTS['own'] = OWN.format(config=str(Path(args.config).absolute()))
                of_one = {'kind': 'own', 'kills': left}
            lines.append({'round': number, 'seed': args.seed, **Round(number, args.seed, folder, **of_one).run()})
            with open(out, 'a', encoding='utf-8') as file:
                file.write(json.dumps(lines[-1]) + '\n')
    counted = summary(lines)
    print(json.dumps(counted))
    return 1 if counted['faults'] else 0


if __name__ == '__main__':
    sys.exit(main())
