"""Write a figure as PNG and as HTML."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from mmfixnorm.plot.chart import Chart
from mmfixnorm.plot.html import html_page
from mmfixnorm.plot.png import draw_png
from mmfixnorm.search._utils.files import make_folder, write_text


class ChartFiles(NamedTuple):
    """The two files of a figure."""

    png: Path
    html: Path


def write_chart(chart: Chart, out: str | Path) -> ChartFiles:
    """Write ``<out>.png`` and ``<out>.html``.

    Raises:
        ConfigError: They cannot be written there.
    """
    out = Path(out)
    stem = out.with_suffix('') if out.suffix in ('.png', '.html') else out
    make_folder(stem.parent, named_by='--out')
    files = ChartFiles(stem.with_name(f'{stem.name}.png'), stem.with_name(f'{stem.name}.html'))
    draw_png(chart).savefig(files.png)
    write_text(files.html, html_page(chart))
    return files
