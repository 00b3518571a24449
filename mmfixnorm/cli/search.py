"""Tune learning rate and alpha of a config, by the settings in its ``search`` block.

plan    check everything, print the trainings that come next and the cost; nothing runs
run     search, or continue a search that was interrupted in any way
status  print the table of trials; --follow watches until the search is over
tell    read the results of trainings that were run by hand, print the commands that come next
report  write report.html and best_config.py; --compare shows other searches beside it
export  print the record, a JSON line or a line of CSV for each attempt

Exit status: 0 done, 1 ended without a winner, 2 a mistake to put right, 3 commands are printed that
have to be run (--executor manual), 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from mmfixnorm.cli._arguments import add_cfg_options
from mmfixnorm.cli._console import console
from mmfixnorm.cli._output import outlive_readers
from mmfixnorm.cli._parser import run_script
from mmfixnorm.errors import ConfigError

if TYPE_CHECKING:
    from mmfixnorm.search.problem import SearchProblem
    from mmfixnorm.search.settings import SearchSettings

STATUS = {'done': 0, 'stuck': 1, 'waiting': 3, 'interrupted': 130}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    from mmfixnorm.search.executors import EXECUTORS

    parser.add_argument('action', choices=['plan', 'run', 'tell', 'status', 'report', 'export'])
    parser.add_argument('config', help='config file with a search block')
    parser.add_argument('--work-dir', help='default: work_dirs/<config>_search')
    parser.add_argument('--workers', type=int, help='trials at a time, instead of search.workers')
    parser.add_argument(
        '--budget',
        metavar='T',
        help='what the search may cost, instead of search.budget: T_max (3), or the time of all trainings (8h, 30min)',
    )
    parser.add_argument(
        '--executor',
        choices=sorted(EXECUTORS),
        help='what runs the trials, instead of search.executor; see docs/clusters.md',
    )
    parser.add_argument('--follow', action='store_true', help='status: watch the search until it is over')
    parser.add_argument(
        '--interval', type=float, default=2.0, metavar='S', help='status --follow: seconds between two updates'
    )
    parser.add_argument(
        '--log-format',
        choices=['text', 'json'],
        default='text',
        help='run, tell, status --follow: one line per event as text or as JSON (default: %(default)s)',
    )
    parser.add_argument('--all', action='store_true', help='status: all trials, not only the last 60')
    parser.add_argument(
        '--compare', nargs='+', default=[], metavar='WORK_DIR', help='report: other searches, of any method and config'
    )
    parser.add_argument(
        '--format', choices=['jsonl', 'csv'], default='jsonl', help='export: JSON lines, or CSV without the curves'
    )
    add_cfg_options(parser, help='change settings of the config, e.g. search.num_splits=3')


def run(args: argparse.Namespace, *, trial_command: Sequence[str] | None = None) -> int:
    """Do one action of a search; ``trial_command`` replaces the program that trains."""
    problem = load_problem_from(args)
    if args.action == 'plan':
        return plan(problem)
    if args.action == 'status':
        return status(problem, args)
    if args.action == 'report':
        return report(problem, args)
    if args.action == 'export':
        return export(problem, args)
    with outlive_readers():
        return drive(problem, args, trial_command)


def load_problem_from(args: argparse.Namespace) -> SearchProblem:
    """Load the search that the command line names, with its executor."""
    from mmfixnorm.search.executors import choose_executor
    from mmfixnorm.search.problem import load_problem

    problem = load_problem(
        args.config,
        work_dir=args.work_dir,
        cfg_options=args.cfg_options,
        workers=args.workers,
        needs_data=args.action in ('run', 'tell'),
    )
    if args.action in ('plan', 'run', 'tell'):
        from mmfixnorm.search.problem import check_can_be_written
        from mmfixnorm.search.trial.imports import check_custom_imports

        check_can_be_written(problem.cfg)  # first: what is imported and built is the config as it is written
        check_custom_imports(problem.cfg)
    name = 'manual' if args.action == 'tell' else args.executor
    executor = choose_executor(problem.settings.executor_settings, name)
    settings = replace(problem.settings, executor=executor)
    return replace(problem, settings=with_budget(settings, args.budget) if args.budget is not None else settings)


def with_budget(settings: SearchSettings, text: str) -> SearchSettings:
    """Return the settings with the budget of the command line.

    Raises:
        ConfigError: It is no budget, or none for this method.
    """
    try:
        budget: float | str = float(text)
    except ValueError:
        budget = text
    from mmfixnorm.search.problem import check_room_for_ramp

    try:
        settings = replace(settings, budget=budget)
        check_room_for_ramp(settings)
    except ConfigError as err:
        raise ConfigError(f'--budget: {err}') from err
    return settings


def plan(problem: SearchProblem) -> int:
    """Print the trainings that come next and what they cost."""
    from mmfixnorm.search.problem import missing_data
    from mmfixnorm.search.record.study import has_record, read_record_of
    from mmfixnorm.search.terminal.console import print_plan

    for key in missing_data(problem.cfg):
        print(f'WARNING: {key}: no such file or folder; `run` will need it', file=sys.stderr)
    history = read_record_of(problem).history() if has_record(problem.work_dir) else []
    print_plan(problem, history, console())
    return 0


def drive(problem: SearchProblem, args: argparse.Namespace, trial_command: Sequence[str] | None) -> int:
    """Search, then print the table and write the report."""
    from mmfixnorm.search.driver import TRIAL_COMMAND, run_search
    from mmfixnorm.search.events import Event
    from mmfixnorm.search.executors.manual import ManualSettings
    from mmfixnorm.search.record.state import search_state
    from mmfixnorm.search.record.study import read_record_of
    from mmfixnorm.search.report import write_report
    from mmfixnorm.search.terminal.console import event_printer, print_state
    from mmfixnorm.search.terminal.follow import live_view

    if args.action == 'tell':
        read_record_of(problem)  # there must be one
    as_json = args.log_format == 'json'
    by_hand = isinstance(problem.settings.executor_settings, ManualSettings)
    # The commands of trials that are run by hand are all that is printed, so that they can be piped.
    listener = event_printer(sys.stderr if by_hand and not as_json else sys.stdout, as_json=as_json)
    on_terminal = sys.stdout.isatty() and not as_json and not by_hand
    view = live_view(problem, console()) if on_terminal else nullcontext(listener)
    with view as shown:
        outcome = run_search(problem, command=trial_command or TRIAL_COMMAND, listener=shown)
    record = read_record_of(problem)
    if on_terminal:
        print_state(problem, search_state(problem, record), console())
    if outcome.kind == 'waiting':
        print(outcome.message)
        print(f'run these commands anywhere, then: {args.prog} tell', file=sys.stderr)
    elif outcome.kind != 'done':
        print(f'{outcome.kind}: {outcome.message}', file=sys.stderr)
    if outcome.kind in ('done', 'stuck'):
        files = write_report(problem, record)
        paths = {'report': str(files.report), 'config': str(files.best_config or '')}
        listener(Event('reported', f'report: {files.report}', paths))
    return STATUS[outcome.kind]


def status(problem: SearchProblem, args: argparse.Namespace) -> int:
    """Print where the search stands; nothing is written to its folder."""
    from mmfixnorm.search.terminal.console import SHOWN_ROWS
    from mmfixnorm.search.terminal.follow import follow, print_snapshot, take_snapshot

    if args.follow:
        if not args.interval > 0:
            raise ConfigError(f'--interval: must be a number of seconds > 0, got {args.interval:g}')
        last = follow(problem, console(), interval_s=args.interval, as_json=args.log_format == 'json')
        return 0 if last.state.replayed.finished else 1
    print_snapshot(problem, take_snapshot(problem), console(), max_rows=None if args.all else SHOWN_ROWS)
    return 0


def report(problem: SearchProblem, args: argparse.Namespace) -> int:
    """Write the report and the best config."""
    from mmfixnorm.search.record.study import read_record
    from mmfixnorm.search.report import write_report

    files = write_report(problem, read_record(problem.work_dir), compare=args.compare)
    print('report: {}\nconfig: {}'.format(*files))
    return 0


def export(problem: SearchProblem, args: argparse.Namespace) -> int:
    """Print the record as it is now; nothing is written to its folder."""
    from mmfixnorm.search.record.export import FORMATS, exported_rows
    from mmfixnorm.search.record.study import read_record_of

    with outlive_readers():
        print(FORMATS[args.format](exported_rows(read_record_of(problem), search=problem.work_dir.name)), end='')
    return 0


def main(argv: Sequence[str] | None = None, *, trial_command: Sequence[str] | None = None) -> int:
    """Run the command alone, as ``tools/fixnorm_search.py`` does."""
    return run_script(__name__, argv, trial_command=trial_command)
