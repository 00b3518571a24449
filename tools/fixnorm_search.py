#!/usr/bin/env python
"""Tune learning rate and alpha of a config, by the settings in its ``search`` block.

plan    check everything, print the trainings that come next and the cost; nothing runs
run     search, or go on with a search that was interrupted in any way
status  print the table of trials; --follow goes on until the search is over
tell    read the results of trainings that were run by hand, print the commands that come next
report  write report.html and best_config.py; --compare shows other searches beside it

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
from mmfixnorm.search.driver import TRIAL_COMMAND, run_search
from mmfixnorm.search.events import Event
from mmfixnorm.search.executors import EXECUTORS, choose_executor
from mmfixnorm.search.problem import SearchProblem, load_problem
from mmfixnorm.search.record.state import search_state
from mmfixnorm.search.record.study import STUDY_FILE, read_record
from mmfixnorm.search.report import write_report
from mmfixnorm.search.terminal.console import SHOWN_ROWS, event_printer, print_plan, print_state
from mmfixnorm.search.terminal.follow import follow
from mmfixnorm.search.trial.imports import check_custom_imports

STATUS = {'done': 0, 'stuck': 1, 'waiting': 3, 'interrupted': 130}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('action', choices=['plan', 'run', 'tell', 'status', 'report'])
    parser.add_argument('config', help='config file with a search block')
    parser.add_argument('--work-dir', help='default: work_dirs/<config>_search')
    parser.add_argument('--workers', type=int, help='trials at a time, instead of search.workers')
    parser.add_argument(
        '--executor',
        choices=sorted(EXECUTORS),
        help='what runs the trials, instead of search.executor; see docs/clusters.md',
    )
    parser.add_argument('--follow', action='store_true', help='status: watch the search until it is over')
    parser.add_argument(
        '--interval', type=float, default=2.0, metavar='S', help='status --follow: seconds between two looks'
    )
    parser.add_argument('--all', action='store_true', help=f'status: more than the last {SHOWN_ROWS} trials')
    parser.add_argument(
        '--compare', nargs='+', default=[], metavar='WORK_DIR', help='report: other searches, of any method and config'
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


def status(problem: SearchProblem, args: argparse.Namespace) -> int:
    """Print where the search stands; nothing is written to its folder."""
    if args.follow:
        if not args.interval > 0:
            raise ConfigError(f'--interval: must be a number of seconds > 0, got {args.interval:g}')
        seen = follow(problem, Console(), interval_s=args.interval)
        return 0 if seen.state.replayed.finished else 1
    state = search_state(problem, read_record(problem.work_dir))
    print_state(problem, state, Console(), max_rows=None if args.all else SHOWN_ROWS)
    return 0


def main(argv: Sequence[str] | None = None, *, trial_command: Sequence[str] = TRIAL_COMMAND) -> int:
    args = build_parser().parse_args(argv)
    try:
        problem = load_problem(
            args.config,
            work_dir=args.work_dir,
            cfg_options=args.cfg_options,
            workers=args.workers,
        )
        if args.action in ('plan', 'run', 'tell'):
            check_custom_imports(problem.cfg)
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
            return status(problem, args)
        else:
            files = write_report(problem, read_record(problem.work_dir), compare=args.compare)
            print('report: {}\nconfig: {}'.format(*files))
    except ConfigError as err:
        print(f'{args.config}: {err}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # the usual end of --follow; `run` has its own way
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
