"""Parameters and FLOPs of the models of Table 2, beside the paper's.

Exit status: 0, 1 if a model is off by more than 2 %, 2 a mistake to put right.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmfixnorm.cli._arguments import add_cfg_options
from mmfixnorm.cli._parser import run_script
from mmfixnorm.errors import ConfigError

if TYPE_CHECKING:
    from mmfixnorm.cls.complexity import Complexity

PACKAGE = Path(__file__).resolve().parents[2]
TOLERANCE = 0.02


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument('configs', nargs='*', type=Path, help='default: all of configs/imagenet that Table 2 has')
    add_cfg_options(parser, help='override some settings, key=value, e.g. model.backbone.divisor=8')


def run(args: argparse.Namespace) -> int:
    """Count, and print the table."""
    from mmengine.registry import init_default_scope

    from mmfixnorm.cls.complexity import count_complexity, evaluation_image_size
    from mmfixnorm.config import load_config

    metafile = find_metafile()
    published = read_published(metafile)
    rows = []
    for path in args.configs or [metafile.with_name(f'{name}.py') for name in published]:
        cfg = load_config(path, cfg_options=args.cfg_options)
        init_default_scope(cfg.default_scope)
        size = evaluation_image_size(cfg)
        rows.append((path.stem, size, count_complexity(cfg.model, size), published.get(path.stem)))
    print_table(rows)
    return 0 if all(matches(found, paper) for *_, found, paper in rows if paper) else 1


def find_metafile() -> Path:
    """Find what the paper reports: in the installed package, or beside the package in a clone.

    Raises:
        ConfigError: The configs are in neither place.
    """
    places = [folder / 'configs/imagenet/metafile.yml' for folder in (PACKAGE / '.mim', PACKAGE.parent)]
    for place in places:
        if place.is_file():
            return place
    raise ConfigError(f'no such file: {" or ".join(map(str, places))}; install mmfixnorm again')


def read_published(metafile: Path) -> dict[str, Complexity]:
    """Return the paper's numbers by the name of the config."""
    from mmengine.fileio import load

    from mmfixnorm.cls.complexity import Complexity

    models = load(metafile)['Models']
    data = {model['Name']: model['Metadata'] for model in models}
    return {name: Complexity(row['Parameters'], row['FLOPs']) for name, row in data.items() if 'FLOPs' in row}


def matches(found: Complexity, paper: Complexity) -> bool:
    """Tell whether a model is as large as the paper's, within the tolerance."""
    return all(abs(a / b - 1) <= TOLERANCE for a, b in zip(found, paper, strict=True))


def print_table(rows: list[tuple[str, int, Complexity, Complexity | None]]) -> None:
    """Print one line for each model."""
    print('| config | px | parameters | FLOPs | paper | off by | match |')
    print('|---|---|---|---|---|---|---|')
    for name, size, found, paper in rows:
        ours = f'| {name} | {size} | {found.params / 1e6:.2f}M | {found.macs / 1e6:.0f}M |'
        if paper is None:
            print(ours, '| | |')
            continue
        off = ', '.join(f'{a / b - 1:+.1%}' for a, b in zip(found, paper, strict=True))
        verdict = 'yes' if matches(found, paper) else 'NO'
        print(ours, f'{paper.params / 1e6:.1f}M, {paper.macs / 1e6:.0f}M | {off} | {verdict} |')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command alone, as ``tools/analysis/model_complexity.py`` does."""
    return run_script(__name__, argv)
