"""Writes the tables of docs/configs.md from the configs: ``python docs/configs_table.py``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mmfixnorm.launch import load_config

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs/configs.md'
BEGIN, END = '<!-- begin of the tables -->\n', '<!-- end of the tables -->\n'
FOLDERS = ('imagenet', 'coco', 'cityscapes', 'cifar10', 'digits', 'bccd', 'camvid')


def alphas(node: Any) -> list[float]:
    """Every ``alpha`` of a FixNorm layer or head in a model, in its order."""
    if isinstance(node, list | tuple):
        return [a for child in node for a in alphas(child)]
    if not isinstance(node, dict):
        return []
    own = [node['alpha']] if 'FixNorm' in str(node.get('type', '')) and 'alpha' in node else []
    return own + [a for child in node.values() for a in alphas(child)]


def row(file: Path) -> str:
    """One config: how it is trained, for how long, and what searches it."""
    cfg = load_config(str(file), import_custom_modules=False)
    wrapper, loop = cfg.optim_wrapper, cfg.train_cfg
    optimizer = wrapper.optimizer
    length = f'{loop.max_epochs} epochs' if 'max_epochs' in loop else f'{loop.max_iters} iterations'
    cells = (
        f'`{file.stem}`',
        wrapper.get('type', 'OptimWrapper'),
        optimizer.type,
        f'{optimizer.lr:g}',
        f'{optimizer.get("weight_decay", 0):g}',
        ', '.join(dict.fromkeys(f'{a:g}' if isinstance(a, float) else str(a) for a in alphas(cfg.model))),
        length,
        str(cfg.train_dataloader.batch_size),
        (cfg.get('search') or {}).get('type', ''),
    )
    return f'| {" | ".join(cells)} |'


def tables() -> str:
    """A table for each folder."""
    parts = []
    for folder in FOLDERS:
        files = sorted((ROOT / 'configs' / folder).glob('*.py'))
        head = '| config | optim wrapper | optimizer | lr | weight decay | alpha | length | batch | `search` |'
        parts.append('\n'.join([f'## configs/{folder}', '', head, '|' + '---|' * 9, *map(row, files)]))
    return '\n\n'.join(parts) + '\n'


def with_tables(page: str) -> str:
    """The page with its tables as the configs are now."""
    pattern = re.compile(f'{re.escape(BEGIN)}.*{re.escape(END)}', re.DOTALL)
    return pattern.sub(lambda found: f'{BEGIN}{tables()}{END}', page)


if __name__ == '__main__':
    PAGE.write_text(with_tables(PAGE.read_text()))
