#!/usr/bin/env python
"""Tune learning rate and alpha of a config, by the settings in its ``search`` block.

plan    check everything, print the trainings that come next and the cost; nothing runs
run     search, or go on with a search that was interrupted in any way
status  print the table of trials
tell    read the results of trainings that were run by hand, print the commands that come next
report  write report.html and best_config.py

Exit status: 0 done, 1 ended without a winner, 2 a mistake to put right, 3 commands are printed that
have to be run (--executor manual), 130 interrupted.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from mmengine.config import DictAction
from rich.console import Console

from mmfixnorm.errors import ConfigError
from mmfixnorm.search.console import event_printer, print_plan, print_state
from mmfixnorm.search.driver import TRIAL_COMMAND, run_search
from mmfixnorm.search.events import Event
from mmfixnorm.search.executor_settings import KINDS, choose_executor
from mmfixnorm.search.problem import SearchProblem, load_problem
from mmfixnorm.search.report import write_report
from mmfixnorm.search.study import STUDY_FILE, read_record
from mmfixnorm.search.table import search_state

STATUS = {'done': 0, 'stuck': 1, 'waiting': 3, 'interrupted': 130}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('action', choices=['plan', 'run', 'tell', 'status', 'report'])
    parser.add_argument('config', help='config file with a search block')
    parser.add_argument('--work-dir', help='default: work_dirs/<config>_search')
    parser.add_argument('--workers', type=int, help='trials at a time, instead of search.workers')
    parser.add_argument(
        '--executor',
        choices=sorted(KINDS),
        help='what runs the trials, instead of search.executor; see docs/clusters.md',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='change settings of the config, e.g. search.num_splits=3',
    )
    return parser


def run(problem: SearchProblem, trial_command: Sequence[str]) -> int:
    """Search, then print the table and write the report."""
    tell = event_printer(sys.stdout)
    outcome = run_search(problem, command=trial_command, listener=tell)
    record = read_record(problem.work_dir)
    if sys.stdout.isatty():
        print_state(problem, search_state(problem, record), Console())
    if outcome.kind == 'waiting':
        print(outcome.message)
        print('run these commands anywhere, then: fixnorm_search.py tell', file=sys.stderr)
    elif outcome.kind != 'done':
        print(f'{outcome.kind}: {outcome.message}', file=sys.stderr)
    if outcome.kind in ('done', 'stuck'):
        files = write_report(problem, record)
        paths = {'report': str(files.report), 'config': str(files.best_config or '')}
        tell(Event('reported', f'report: {files.report}', paths))
    return STATUS[outcome.kind]


def main(argv: Sequence[str] | None = None, *, trial_command: Sequence[str] = TRIAL_COMMAND) -> int:
    args = build_parser().parse_args(argv)
    try:
        problem = load_problem(
            args.config,
            work_dir=args.work_dir,
            cfg_options=args.cfg_options,
            workers=args.workers,
        )
        name = 'manual' if args.action == 'tell' else args.executor
        executor = choose_executor(problem.settings.executor_settings, name)
        problem = replace(problem, settings=replace(problem.settings, executor=executor))
        if args.action == 'tell':
            read_record(problem.work_dir)  # there must be one
        if args.action == 'plan':
            known = (problem.work_dir / STUDY_FILE).exists()
            print_plan(problem, read_record(problem.work_dir).history() if known else [], Console())
        elif args.action in ('run', 'tell'):
            return run(problem, trial_command)
        elif args.action == 'status':
            print_state(problem, search_state(problem, read_record(problem.work_dir)), Console())
        else:
            print('report: {}\nconfig: {}'.format(*write_report(problem, read_record(problem.work_dir))))
    except ConfigError as err:
        print(f'{args.config}: {err}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
