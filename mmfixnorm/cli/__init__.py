# PYTHON_ARGCOMPLETE_OK
"""``mmfixnorm COMMAND ...``: train, test and convert with FixNorm, tune it and draw figures.

One module per command: ``add_arguments(parser)``, ``run(args)`` and ``main(argv)``, which the script in ``tools/``
calls. Nothing that runs is imported before ``run``, so that a command line is read without torch.
"""

from __future__ import annotations

import sys

_show_error = sys.excepthook


def _show_unless_ctrl_c(kind, error, trace):  # type: ignore[no-untyped-def]  # nothing is imported for its types yet
    if kind is not KeyboardInterrupt:
        _show_error(kind, error, trace)


# Before all else is imported: a command that is interrupted while it starts shows no traceback.
sys.excepthook = _show_unless_ctrl_c

import os  # noqa: E402
from collections.abc import Sequence  # noqa: E402

from mmfixnorm.cli._parser import CommandParser, run_command  # noqa: E402
from mmfixnorm.version import __version__  # noqa: E402

# Name -> module, and the line in `mmfixnorm --help`.
COMMANDS = {
    'train': ('mmfixnorm.cli.train', 'train a model of any OpenMMLab toolbox'),
    'test': ('mmfixnorm.cli.evaluate', 'test a checkpoint'),
    'audit': ('mmfixnorm.cli.audit', 'measure which weights of a model are scale-invariant'),
    'convert': ('mmfixnorm.cli.convert', 'write a FixNorm config for a plain one'),
    'search': ('mmfixnorm.cli.search', 'tune learning rate and alpha: plan, run, status, tell, report'),
    'lr-range': ('mmfixnorm.cli.lr_range', 'measure the learning rates worth a search, by a short ramp'),
    'fold': ('mmfixnorm.cli.fold', 'fold a checkpoint into plain layers for the stock config'),
    'analyze': ('mmfixnorm.cli.analyze', "draw the paper's figures from your own runs"),
}


def build_parser() -> CommandParser:
    """Return the parser of the whole tree; the module of a command is imported when the command is chosen."""
    parser = CommandParser(prog='mmfixnorm', description='FixNorm for OpenMMLab: training without weight decay.')
    parser.add_argument('--version', action='version', version=f'mmfixnorm {__version__}')
    parser.add_commands(COMMANDS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the command line names."""
    parser = build_parser()
    if '_ARGCOMPLETE' in os.environ:  # a shell asks for completions: pip install "mmfixnorm[completion]"
        import argcomplete

        parser.load_all()
        argcomplete.autocomplete(parser)
    return run_command(parser, argv)
