"""Runs searches and trainings, and keeps one JSON line for each training in a file that is committed.

A *group* is what belongs together: one search, or the trainings of one method with new seeds. Its lines are
written when it is complete; a group that is in the file is not run again. What was interrupted goes on from
its work dir, as every search does.
"""

from __future__ import annotations

import copy
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mmengine
import torch

from benchmarks.warm_executor import WarmExecutor
from mmfixnorm.analysis.runs import read_run
from mmfixnorm.errors import ConfigError
from mmfixnorm.launch import load_config
from mmfixnorm.search import Point, SearchProblem, StudyRecord, load_problem, read_record, run_search
from mmfixnorm.search.record.study import Attempt, is_finished

HERE = Path(__file__).parent
RESULTS = HERE / 'results'
Lines = list[dict[str, Any]]
#: Scalars of a training's log that the tables and figures use, by their mode.
LOGGED = (('train', 'loss'), ('train', 'weight_norm'), ('train', 'g'), ('train', 'mcbr'), ('val', 'mcbr'))


class Lab:
    """The file of one experiment, and what runs its trainings.

    Args:
        name (str): Of the experiment, and of its file in ``results``.
        workers (int): Trainings at a time, one thread each.
        work_dir (Path): Where the searches are.
    """

    def __init__(self, name: str, workers: int, work_dir: Path) -> None:
        self.file = RESULTS / f'{name}.jsonl'
        self._work_dir = work_dir / name
        self._executor = WarmExecutor(workers)
        self._workers = workers
        self.lines = read_lines(self.file)

    def search(self, group: str, config: str, options: Mapping[str, Any] | None = None, **settings: Any) -> Point:
        """Run a search to its end, or find its lines; return its winner.

        Args:
            group (str): Its name in the file.
            config (str): File in ``configs``, or relative to the repository.
            options (Mapping): Dotted keys of the config to change.
            **settings: Its ``search`` block.
        """
        done = self._group(group)
        if done is None:
            block = {**named(config), **settings}
            problem = self._problem(group, config, {**(options or {}), 'search': block})
            outcome = run_search(problem, executor=self._executor, poll_s=0.05)
            if outcome.best is None:
                raise SystemExit(f'{group}: {outcome.kind}: {outcome.message}')
            record = read_record(problem.work_dir)
            best = outcome.best
            head = dict(
                kind='search',
                method=settings['type'],
                cost=round(sum(a.spent for a in record.attempts if is_finished(a)), 4),
                winner=numbers_of(best.point),
                value=best.value,
            )
            done = self._write(group, config, problem, record, head)
        return Point(*done['winner'])

    def finals(
        self,
        group: str,
        config: str,
        point: Point,
        *,
        options: Mapping[str, Any] | None = None,
        seeds: Sequence[int] = (1, 2, 3, 4, 5),
    ) -> None:
        """Train with new seeds what a search has chosen, and look at the test set once; seeds that are there stay.

        Args:
            group (str): Its name in the file.
            config (str): File in ``configs``, or relative to the repository.
            point (Point): What to train.
            options (Mapping): Dotted keys of the config to change.
            seeds (Sequence[int]): None of them may be that of the search, which is 0.
        """
        head = self._group(group)
        if head is not None and head['point'] != numbers_of(point):
            raise SystemExit(f'{group}: was trained at {head["point"]}, now {numbers_of(point)} is asked for')
        trained = {line['seed'] for line in self.lines if line['group'] == group and 'kind' not in line}
        seeds = [seed for seed in seeds if seed not in trained]
        if not seeds:
            return
        cfg = load_config(config_file(config))
        changed = dict(options or {})
        changed['val_dataloader'] = dict(_delete_=True, **cfg.test_dataloader)
        changed['val_evaluator'] = dict(_delete_=True, **cfg.test_evaluator)
        if point.weight_decay is not None:
            changed['optim_wrapper.optimizer.weight_decay'] = point.weight_decay
        block: dict[str, Any] = dict(type='GridSearch', lrs=[point.lr], **named(config))
        if point.alpha is not None:
            block['alphas'] = [point.alpha]
        runs: list[dict[str, Any]] = []
        for seed in seeds:  # one training each: a search has one seed
            problem = self._problem(f'{group}/seed{seed}', config, {**changed, 'search': dict(seed=seed, **block)})
            outcome = run_search(problem, executor=self._executor, poll_s=0.05)
            if outcome.kind not in ('done', 'stuck'):  # stuck: diverged, which is a result
                raise SystemExit(f'{group}: {outcome.kind}: {outcome.message}')
            record = read_record(problem.work_dir)
            runs += [run_line(group, a, seed) | logged(problem, a) for a in record.attempts if is_finished(a)]
        if head is not None:
            self._append(group, runs)
        else:
            self._write(group, config, problem, record, dict(kind='finals', point=numbers_of(point)), runs)

    def _problem(self, group: str, config: str, options: Mapping[str, Any]) -> SearchProblem:
        own = copy.deepcopy(dict(options))  # merging takes `_delete_` out of it
        if 'search' in load_config(config_file(config)):
            own['search']['_delete_'] = True  # where there is nothing to replace mmengine leaves the key in
        return load_problem(
            config_file(config), work_dir=self._work_dir / group, cfg_options=own, workers=self._workers
        )

    def _group(self, group: str) -> dict[str, Any] | None:
        return next((line for line in self.lines if line['group'] == group and 'kind' in line), None)

    def _write(
        self,
        group: str,
        config: str,
        problem: SearchProblem,
        record: StudyRecord,
        head: dict[str, Any],
        runs: Sequence[dict[str, Any]] | None = None,
    ) -> dict[str, Any]:
        about = dict(
            config=config,
            metric=problem.settings.metric,
            config_hash=record.fingerprint,
            versions=dict(python=platform.python_version(), torch=torch.__version__, mmengine=mmengine.__version__),
            machine=f'{platform.machine()} CPU, 1 thread a training',
        )
        seed = problem.settings.seed
        lines = [
            {'group': group, **head, **about},
            *(runs or [run_line(group, a, seed) for a in record.attempts if is_finished(a)]),
        ]
        self._append(group, lines)
        return lines[0]

    def _append(self, group: str, lines: Lines) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open('a', encoding='utf-8') as f:
            f.write(''.join(json.dumps(line) + '\n' for line in lines))
        self.lines += lines
        about = {key: lines[0][key] for key in ('kind', 'winner', 'point', 'value') if key in lines[0]}
        trainings = sum('kind' not in line for line in lines)
        print(f'{self.file.stem} {group}: {trainings} trainings; {about}', flush=True)


def named(config: str) -> dict[str, Any]:
    """What the config's own ``search`` block calls the things that are searched over and measured."""
    block = load_config(config_file(config)).get('search') or {}
    return {key: block[key] for key in ('metric', 'rule', 'alpha_key') if key in block}


def numbers_of(point: Point) -> list[float | None]:
    """Return lr, alpha and weight decay, as the lines of results have them."""
    return [point.lr, point.alpha, point.weight_decay]


def run_line(group: str, attempt: Attempt, seed: int | None) -> dict[str, Any]:
    """One training; ``value`` is None if it diverged."""
    spec, point, result = attempt.spec, attempt.spec.point, attempt.result
    return dict(
        group=group, key=spec.key, lr=point.lr, alpha=point.alpha, weight_decay=point.weight_decay,
        fraction=spec.fraction, seed=seed, value=result.value, curve=result.curve, seconds=round(result.seconds),
    )  # fmt: skip


def logged(problem: SearchProblem, attempt: Attempt) -> dict[str, Any]:
    """The curves of a training's log, each as positions and values; nothing where it has none."""
    run = read_run(problem.trial_dir(attempt.spec.key) / 'run')
    curves = {}
    for mode, name in LOGGED:
        try:
            series = run.series(mode, name)  # type: ignore[arg-type]
        except ConfigError:
            continue  # a plain detector logs no risk, for example
        curves[f'{mode}/{name}'] = [[round(x, 2) for x in series.x], [float(f'{y:.4g}') for y in series.y]]
    return dict(curves=curves)


def config_file(config: str) -> Path:
    """A file in ``configs`` of this folder, or one of the repository's."""
    own = HERE / 'configs' / config
    return own if own.exists() else HERE.parents[1] / config


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a file, or none."""
    return [json.loads(line) for line in file.read_text(encoding='utf-8').splitlines()] if file.exists() else []


class Results:
    """The lines of all experiments."""

    def __init__(self, folder: Path = RESULTS) -> None:
        self._lines = {file.stem: read_lines(file) for file in folder.glob('*.jsonl')}
        for lines in self._lines.values():
            in_percent_(lines)

    def head(self, experiment: str, group: str) -> dict[str, Any] | None:
        """The line about a group; None if it was not run."""
        lines = self._lines.get(experiment, [])
        return next((line for line in lines if line['group'] == group and 'kind' in line), None)

    def runs(self, experiment: str, group: str) -> Lines:
        """The trainings of a group."""
        return [line for line in self._lines.get(experiment, []) if line['group'] == group and 'kind' not in line]

    def values(self, experiment: str, group: str) -> list[float]:
        """Their values, without those that diverged."""
        return [run['value'] for run in self.runs(experiment, group) if run['value'] is not None]


def in_percent_(lines: Lines) -> None:
    """mmdet measures fractions, the others percent."""
    fractions = {line['group'] for line in lines if line.get('metric', '').startswith('coco/')}
    for line in lines:
        if line['group'] in fractions and line.get('value') is not None:
            line['value'] *= 100


def run_experiments(
    experiments: Mapping[str, Callable[[Lab], None]], names: Sequence[str], workers: int, work_dir: Path
) -> None:
    """Run experiments one after the other."""
    os.environ['PYTHONPATH'] = os.pathsep.join([str(HERE.parents[1]), *sys.path])  # for the trials
    torch.set_num_threads(1)
    for name in names:
        experiments[name](Lab(name, workers, work_dir))
