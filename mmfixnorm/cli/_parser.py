"""The parser of a command, and the one place where the mistakes of a user become exit status 2."""

from __future__ import annotations

import argparse
import difflib
import importlib
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from mmfixnorm.cli._output import discard, is_unread, lasting
from mmfixnorm.errors import ConfigError, RaisedError

_INTERRUPTED, _NOT_READ = 128 + signal.SIGINT, 128 + signal.SIGPIPE


class CommandParser(argparse.ArgumentParser):
    """A parser that imports the module of its command when it first parses.

    The module of a command has ``add_arguments(parser)`` and ``run(args) -> exit status``, and its docstring is the
    description. A module without ``run`` is a group: its ``add_arguments`` calls :meth:`add_commands`.
    """

    def __init__(self, *, module: str | None = None, **kwargs: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)
        self.module = module
        self.commands: dict[str, CommandParser] = {}

    def add_commands(self, commands: Mapping[str, tuple[str, str]]) -> None:
        """Add subcommands: name -> (module, one line for the list of commands)."""
        subparsers = self.add_subparsers(title='commands', metavar='COMMAND', required=True, parser_class=CommandParser)
        for name, (module, summary) in commands.items():
            self.commands[name] = subparsers.add_parser(name, help=summary, module=module)

    def load(self) -> None:
        """Import the module and add its arguments; a second call does nothing."""
        if self.module is None:
            return
        module, self.module = importlib.import_module(self.module), None
        self.description = module.__doc__
        module.add_arguments(self)
        if hasattr(module, 'run'):
            self.set_defaults(run=module.run, prog=self.prog)
            self.add_argument('--traceback', action='store_true', help='of a mistake show the whole traceback too')

    def load_all(self) -> None:
        """Load this command and all commands below it."""
        self.load()
        for command in self.commands.values():
            command.load_all()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse as argparse does, but end at an argument that this very command does not know."""
        self.load()
        args = sys.argv[1:] if args is None else list(args)
        self._check_command(args)
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            # Left to the parser of the whole tree, the usage shown would be the wrong one.
            self.error(f'unrecognized arguments: {" ".join(unknown)}')
        return parsed, unknown

    def _check_command(self, args: Sequence[str]) -> None:
        # The options of a group (--help, --version) have no value: what has no dash is the command.
        name = next((arg for arg in args if not arg.startswith('-')), None)
        if not self.commands or name is None or name in self.commands:
            return
        near = difflib.get_close_matches(name, self.commands, n=1)
        hint = f', did you mean {near[0]!r}?' if near else ''
        self.error(f'no command {name!r}{hint} (choose from {", ".join(self.commands)})')


def run_command(parser: CommandParser, argv: Sequence[str] | None, **options: Any) -> int:
    """Parse a command line and run its command; print a mistake of the user without a traceback, unless asked for it.

    Args:
        parser: Of one command, or of the tree.
        argv: Default ``sys.argv[1:]``.
        options: Passed on to ``run``.

    Returns:
        The exit status: that of ``run``, or 2 after a :class:`~mmfixnorm.errors.ConfigError`; as the shell says it of
        others, 130 after Ctrl-C, and 141 if what reads the output has gone.
    """
    try:
        return _run(parser.parse_args(argv), options)
    except KeyboardInterrupt:
        return _INTERRUPTED


def _run(args: argparse.Namespace, options: Mapping[str, Any]) -> int:
    try:
        status: int = args.run(args, **options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        if not is_unread(sys.stdout):
            raise  # of another pipe, such as one to a data loading process
        discard(sys.stdout)
        return _NOT_READ
    except ConfigError as err:
        advice = ''
        if args.traceback:
            traceback.print_exc()
        elif isinstance(err, RaisedError):
            advice = '; --traceback shows the whole traceback'
        print(f'{getattr(args, "config", args.prog)}: {err}{advice}', file=lasting(sys.stderr), flush=True)
        return 2


def run_script(module: str, argv: Sequence[str] | None, **options: Any) -> int:
    """Run the command of one module, as its script in ``tools/`` does; see :func:`run_command`."""
    return run_command(CommandParser(module=module), argv, **options)
