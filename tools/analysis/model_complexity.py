"""Parameters and FLOPs of the models of Table 2, beside the paper's. Exit status 1 if one is off by more than 2 %.

    python tools/analysis/model_complexity.py
    python tools/analysis/model_complexity.py configs/imagenet/mobilenet-v2-x112-tricks_wd_16xb64-350e_imagenet.py \
        --cfg-options model.backbone.divisor=8 model.head.in_channels=1432
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope

from mmfixnorm.cls.complexity import Complexity, count_complexity, evaluation_image_size
from mmfixnorm.errors import ConfigError

METAFILE = Path(__file__).resolve().parents[2] / 'configs/imagenet/metafile.yml'
TOLERANCE = 0.02


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('configs', nargs='*', type=Path, help='default: all of configs/imagenet that Table 2 has')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='override some settings, key=value')
    args = parser.parse_args()
    published = read_published()
    rows = []
    try:
        for path in args.configs or [METAFILE.with_name(f'{name}.py') for name in published]:
            cfg = Config.fromfile(path)
            cfg.merge_from_dict(args.cfg_options or {})
            init_default_scope(cfg.default_scope)
            size = evaluation_image_size(cfg)
            rows.append((path.stem, size, count_complexity(cfg.model, size), published.get(path.stem)))
    except (OSError, ConfigError) as err:
        print(f'model_complexity: {err}', file=sys.stderr)
        return 2
    print_table(rows)
    return 0 if all(matches(found, paper) for *_, found, paper in rows if paper) else 1


def read_published() -> dict[str, Complexity]:
    """The paper's numbers by the name of the config."""
    models = yaml.safe_load(METAFILE.read_text())['Models']
    data = {model['Name']: model['Metadata'] for model in models}
    return {name: Complexity(row['Parameters'], row['FLOPs']) for name, row in data.items() if 'FLOPs' in row}


def matches(found: Complexity, paper: Complexity) -> bool:
    return all(abs(a / b - 1) <= TOLERANCE for a, b in zip(found, paper, strict=True))


def print_table(rows: list[tuple[str, int, Complexity, Complexity | None]]) -> None:
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


if __name__ == '__main__':
    sys.exit(main())
