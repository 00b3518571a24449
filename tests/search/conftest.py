"""Searches over fake trainings: configs, trial commands, runs."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mmfixnorm.search.driver import Outcome, run_search
from mmfixnorm.search.executors.local import LocalExecutor
from mmfixnorm.search.problem import SearchProblem, load_problem
from mmfixnorm.search.record.state import search_state
from mmfixnorm.search.record.study import read_record

HERE = Path(__file__).parent

# Enough of a config for a search whose trainings are fake.
SKELETON = """
train_cfg = dict(by_epoch=True, max_epochs=10, val_interval=1)
train_dataloader = dict(dataset=dict(type='Any', data_root={data_root!r}))
val_dataloader = dict(dataset=dict(type='Any'))
val_cfg = dict()
val_evaluator = dict(type='Accuracy')
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
model = dict(head=dict(type='Head', alpha=1.0))
search = dict(backoff_s=0, {search})
"""


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., str]:
    """Write a skeleton config with this search block (as source text); return its path."""

    def write(search: str = 'lr_range=(0.2, 3.2)', *, name: str = 'config.py', extra: str = '') -> str:
        data = tmp_path / 'data'
        data.mkdir(exist_ok=True)
        path = tmp_path / name
        path.write_text(SKELETON.format(search=search, data_root=str(data)) + extra)
        return str(path)

    return write


@pytest.fixture
def fake_trial() -> Callable[[str], list[str]]:
    """The command of a trial that takes milliseconds."""

    def command(mode: str = 'plain') -> list[str]:
        return [sys.executable, '-S', str(HERE / 'fake_trial.py'), mode]

    return command


class Killed(BaseException):
    """The end of a driver."""


class FakeSearch:
    """A search in ``work_dir`` whose trials are fake."""

    def __init__(self, config: str, work_dir: Path, command: Callable[[str], list[str]]) -> None:
        self.config = config
        self.work_dir = work_dir
        self._command = command

    def problem(self, workers: int = 1, **cfg_options: object) -> SearchProblem:
        options = {k.replace('__', '.'): v for k, v in cfg_options.items()}
        return load_problem(self.config, work_dir=self.work_dir, workers=workers, cfg_options=options)

    def run(self, mode: str = 'plain', workers: int = 1, listener=None, **cfg_options) -> Outcome:
        problem = self.problem(workers, **cfg_options)
        # Not by default: torch.cuda, which the driver asks for GPUs, is slow and must not fork.
        executor = LocalExecutor(workers, self._command(mode), grace_s=1.0)
        extra = {'listener': listener} if listener else {}
        return run_search(problem, executor=executor, poll_s=0.005, **extra)

    def run_killed(self, mode: str = 'plain', most: int = 500) -> Outcome:
        """Run it to its end with a driver that is killed after one event, then after two, and so on."""
        for number in range(1, most):
            left = [number]

            def listener(event, left=left):
                left[0] -= 1
                if not left[0]:
                    raise Killed

            try:
                return self.run(mode, listener=listener)
            except Killed:
                continue
        raise AssertionError(f'not at its end after {most} kills')

    def table(self) -> list[tuple]:
        """What must not depend on how the search ran."""
        state = search_state(self.problem(), read_record(self.work_dir))
        return [(r.key, r.stage, r.outcome, *r.point.values.items(), r.cost, r.value) for r in state.rows]

    def record(self):
        return read_record(self.work_dir)

    def trainings(self) -> list[str]:
        """Keys of the trainings that came to their end, in that order."""
        ledger = self.work_dir / 'ledger.txt'
        return ledger.read_text().split() if ledger.exists() else []


@pytest.fixture
def make_search(write_config, fake_trial, tmp_path) -> Callable[..., FakeSearch]:
    """Make a fake search; ``name`` tells several of a test apart."""

    def make(search: str = 'lr_range=(0.2, 3.2)', name: str = 'search', extra: str = '') -> FakeSearch:
        return FakeSearch(write_config(search, extra=extra), tmp_path / name, fake_trial)

    return make


#: A config whose optimizer has a weight decay, for the searches that tune it.
DECAYING = "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, weight_decay=1e-4))\n"


@pytest.fixture
def decaying() -> str:
    return DECAYING


#: Two rounds and two alphas: five trainings.
SMALL = 'lr_range=(0.2, 3.2), num_splits=2, alphas=[1.0, 4.0]'


@pytest.fixture
def small() -> str:
    return SMALL
