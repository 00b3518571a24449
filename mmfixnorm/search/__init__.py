"""Tuned FixNorm (Algorithm 4) and other searches over any config with a ``search`` block.

A user needs four functions::

    from mmfixnorm.search import load_problem, run_search, read_record, write_report

    problem = load_problem('configs/digits/resnet8_fixnorm_1xb64-20e_digits.py')
    outcome = run_search(problem)
    write_report(problem, read_record(problem.work_dir))

The wings, in the order in which a search passes through them:

- :mod:`.problem`: settings, config, data and work dir of one search, checked before anything runs;
- :mod:`.methods`: one file for each method: its settings, and which trainings follow from which results;
- :mod:`.planner`: the next step, a pure function of settings and history;
- :mod:`.driver`: the loop plan, submit, poll, record;
- :mod:`.executors`: run trials as processes here, in Slurm, in Ray or by hand; know nothing of learning rates;
- :mod:`.trial`: one training, the program inside such a process, and the files in its folder;
- :mod:`.record`: the attempts, in one Optuna study in sqlite with one writer, and where a search stands;
- :mod:`.report`, :mod:`.terminal`: show a record.

Nothing here imports model code: a search knows configs, processes and numbers. Names are imported on first use, so the
driver of a search stays without torch, and ``status`` without what a report needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmfixnorm.search.driver import Outcome, run_search
    from mmfixnorm.search.methods import parse_settings
    from mmfixnorm.search.methods.base import Point
    from mmfixnorm.search.methods.bayesian import BayesianSearch
    from mmfixnorm.search.methods.fixnorm import FixNormSearch
    from mmfixnorm.search.methods.grid import GridSearch
    from mmfixnorm.search.methods.halving import SuccessiveHalvingSearch
    from mmfixnorm.search.methods.lr_fit import LRFitSearch
    from mmfixnorm.search.methods.sampled import RandomSearch
    from mmfixnorm.search.methods.unimodal import UnimodalFixNormSearch
    from mmfixnorm.search.problem import SearchProblem, load_problem
    from mmfixnorm.search.record.study import StudyRecord, read_record
    from mmfixnorm.search.report import ReportFiles, write_report

_MODULES = {
    'BayesianSearch': 'methods.bayesian',
    'FixNormSearch': 'methods.fixnorm',
    'GridSearch': 'methods.grid',
    'LRFitSearch': 'methods.lr_fit',
    'Outcome': 'driver',
    'Point': 'methods.base',
    'RandomSearch': 'methods.sampled',
    'ReportFiles': 'report',
    'SearchProblem': 'problem',
    'StudyRecord': 'record.study',
    'SuccessiveHalvingSearch': 'methods.halving',
    'UnimodalFixNormSearch': 'methods.unimodal',
    'load_problem': 'problem',
    'parse_settings': 'methods',
    'read_record': 'record.study',
    'run_search': 'driver',
    'write_report': 'report',
}

__all__ = [
    'BayesianSearch',
    'FixNormSearch',
    'GridSearch',
    'LRFitSearch',
    'Outcome',
    'Point',
    'RandomSearch',
    'ReportFiles',
    'SearchProblem',
    'StudyRecord',
    'SuccessiveHalvingSearch',
    'UnimodalFixNormSearch',
    'load_problem',
    'parse_settings',
    'read_record',
    'run_search',
    'write_report',
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'{__name__}.{_MODULES[name]}'), name)
