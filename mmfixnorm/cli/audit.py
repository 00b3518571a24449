"""Measure which weights of a config's model are scale-invariant, and whether its norm-fixing set holds only such.

Needs no data: one batch is generated. Exit status: 0; 1 if the norm-fixing set of a FixNorm config holds a weight that
is not scale-invariant; 2 for a mistake in the config or the options.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmfixnorm.cli._arguments import add_cfg_options, positive
from mmfixnorm.cli._console import console, progress
from mmfixnorm.cli._output import check_writable, write_output
from mmfixnorm.cli._parser import run_script
from mmfixnorm.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from mmfixnorm.convert.audit import ConfigAudit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument('config', help='config of mmpretrain, mmdet or mmseg')
    parser.add_argument('--load-from', metavar='CHECKPOINT', help='weights to measure instead of the initial ones')
    parser.add_argument('--json', metavar='FILE', help='write the report here as JSON; - for the terminal')
    parser.add_argument('--all', action='store_true', help='show the scale-invariant weights too')
    parser.add_argument('--images', type=positive, help='batch size (default: 3, detection 2, segmentation 4)')
    parser.add_argument(
        '--size', type=positive, help="images' height and width (default: by toolbox, or the model's img_size)"
    )
    parser.add_argument(
        '--dtype', choices=['float64', 'float32'], help='default: float64, or float32 if the model cannot run in it'
    )
    parser.add_argument('--device', default='cpu', help='default: %(default)s')
    add_cfg_options(parser, help='changes to the config')


def show(audit: ConfigAudit, console: Console, everything: bool) -> None:
    """Print the table and what follows from it."""
    from rich.table import Column, Table

    from mmfixnorm.convert.audit import SET

    in_set = set(audit.norm_fixing_set or ())
    failing = [record for record in audit.report.weights if not record.scale_invariant or record.cause == 'unused']
    rows = audit.report.weights if everything else failing
    if rows:
        table = Table(
            *(Column(name, overflow='fold') for name in ('weight', 'in set', 'scale-invariant', 'why', 'what to do'))
        )
        for row in rows:
            cells = ('yes' if row.name in in_set else '', 'yes' if row.scale_invariant else 'NO')
            table.add_row(row.name, *cells, row.reason, row.advice)
        console.print(table)
    invariant = sum(record.scale_invariant for record in audit.report.weights)
    console.print(
        f'{invariant} of {len(audit.report.weights)} weights are scale-invariant '
        f'({audit.report.dtype}, {audit.size} x {audit.size} pixels).'
    )
    if invariant and (effect := audit.report.epsilon_effect) is not None:
        text = 'With the epsilons of the norm layers as they are, doubling these changes a loss by'
        console.print(f'{text} {effect:.1e}.')
    for group in audit.report.groups:
        result = 'stays the same' if group.scale_invariant else f'changes by {group.deviation:.1e}'
        console.print(f'{group.name}: {len(group.weights)} weights scaled together: the loss {result}.')
        if group.name != SET:
            console.print(f'    {", ".join(group.weights)}')
    if audit.norm_fixing_set is None:
        console.print('The config has no norm-fixing set.')
    elif audit.passes:
        console.print(f'PASSED: all {len(in_set)} weights of the norm-fixing set are scale-invariant.')
    else:
        console.print(f'FAILED: {len(audit.failing)} of {len(in_set)} weights of the norm-fixing set are not:')
        for name in audit.failing:
            console.print(f'    {name}: {audit.report[name].reason}', soft_wrap=True)


def run(args: argparse.Namespace) -> int:
    """Audit; print a table, or write the report as JSON."""
    import torch
    from mmengine.logging import MMLogger

    from mmfixnorm.convert.audit import audit_config
    from mmfixnorm.launch import load_config

    to_file = args.json not in (None, '-')
    if to_file:
        check_writable(args.json, named_by='--json')
    MMLogger.get_instance('mmengine', log_level=logging.ERROR)
    try:
        cfg = load_config(args.config, cfg_options=args.cfg_options)
        with progress() as say:
            audit = audit_config(
                cfg,
                checkpoint=args.load_from,
                device=args.device,
                images=args.images,
                size=args.size,
                dtype=args.dtype and getattr(torch, args.dtype),
                progress=say,
            )
    except OSError as err:  # of the checkpoint
        raise ConfigError(str(err)) from err
    text = json.dumps(audit.to_dict(), indent=2)
    if args.json == '-':
        print(text)
    else:
        show(audit, console(highlight=False), args.all)
    if to_file:
        write_output(args.json, text + '\n', named_by='--json')
    return 0 if audit.passes else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command alone, as ``tools/fixnorm_audit.py`` does."""
    return run_script(__name__, argv)
