"""The winning config: as a child of the given config, and as a difference to it."""

from __future__ import annotations

import difflib
import textwrap
from pathlib import Path

from mmengine.config import Config

from mmfixnorm.config import base_of, is_pure_python
from mmfixnorm.search._utils.files import write_text, writing_to
from mmfixnorm.search._utils.keys import nest
from mmfixnorm.search.methods.base import Best
from mmfixnorm.search.problem import SearchProblem
from mmfixnorm.search.record.state import SearchState

BEST_CONFIG_FILE = 'best_config.py'


def winner_diff(problem: SearchProblem, best: Best) -> list[str]:
    """Return the lines of a unified diff from the given config, resolved, to the winning one."""
    given = problem.cfg.pretty_text.splitlines()
    winning = problem.config_with(best.point).pretty_text.splitlines()
    names = (problem.filename, f'{problem.filename} with the values of {best.key}')
    return list(difflib.unified_diff(given, winning, *names, lineterm='', n=2))


def write_best_config(problem: SearchProblem, state: SearchState) -> Path:
    """Write ``best_config.py`` into the work dir and return its path.

    It inherits from the given config and sets the differences; where inheritance cannot express them (an
    entry of a list, a config in pure Python style) it is the whole resolved config.
    """
    best = state.best
    if best is None:
        raise ValueError('there is no best training yet')
    path = problem.work_dir / BEST_CONFIG_FILE
    values = {**problem.cfg_options, **problem.tuned(best.point)}
    if problem.settings.seed is not None:  # that of the training, so that it can be repeated
        values['randomness.seed'] = problem.settings.seed
    head = f'# {_standing(state)}: {problem.settings.metric} {best.value:g} in trial {best.key} of the search\n'
    if said := total_batch_kept(problem):
        head += textwrap.fill(said, 100, initial_indent='# ', subsequent_indent='# ', break_long_words=False) + '\n'
    lists = any(part.isdigit() for key in values for part in key.split('.'))
    if lists or is_pure_python(problem.filename) or problem.filename.endswith(('.json', '.yaml', '.yml')):
        cfg = problem.config_with(best.point)
        if problem.settings.seed is not None:
            cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': problem.settings.seed}
        with writing_to(problem.work_dir):
            write_text(path, head + cfg.pretty_text)
        return path
    base = base_of(problem.filename, problem.work_dir)
    child = Config(nest(values))
    with writing_to(problem.work_dir):
        write_text(path, f'{head}_base_ = [{base!r}]\n{child.pretty_text}\n')
    return path


def total_batch_kept(problem: SearchProblem) -> str:
    """Say what ``search.keep_total_batch`` did to the trials, which is not in the config; empty if nothing."""
    total, counts = problem.total_batch, problem.accumulative_counts
    if total is None or counts is None or counts == total.counts:
        return ''
    # Schedules that were written for iterations of a config that accumulates gradients by itself.
    interval = '' if total.counts == 1 else f', whose interval is accumulative_counts / {total.counts}'
    return (
        f'The learning rate is for the total batch of the trials, {total.named}: {total.processes} x batch_size '
        f'{total.batch_size} x accumulative_counts {counts} (keep_total_batch). The final training needs the same '
        'total, GPUs x batch_size x accumulative_counts: train with as many GPUs as make it, or with '
        f'accumulative_counts and UpdateParamSchedulerHook{interval}.'
    )


def _standing(state: SearchState) -> str:
    if state.replayed.stuck:
        return 'No winner, the search is stuck; the best of the finished stages'
    return 'The winner' if state.replayed.finished else 'Not the winner yet, the best of the finished stages'
