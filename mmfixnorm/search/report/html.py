"""The page of a report: its frame, its tables, and figures that are drawn without a network.

plotly draws the figures, so that points can be read off and curves be hidden. Its library is 4.8 MB,
which is more than the whole rest of a report of thousands of trials, and its Python package has no
smaller build. So it is in the page once, packed: 2.0 MB of gzip in base64, which the browser unpacks by
``DecompressionStream`` (Chromium 80, Firefox 113, Safari 16.4, and later). In an older browser the
page says so, and shows everything but the figures.
"""

from __future__ import annotations

import base64
import gzip
import html
from collections.abc import Iterable, Sequence

import plotly.io
from plotly import graph_objects
from plotly.offline import get_plotlyjs

from mmfixnorm.search._utils.numbers import column

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<link rel="icon" href="data:,">
<style>
body {{ font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; }}
table {{ border-collapse: collapse; }} td, th {{ padding: .25em .8em; border-bottom: 1px solid #ddd; }}
th {{ text-align: left; }} td {{ vertical-align: top; }}
td.number, th.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
tr.best, tr.sum {{ font-weight: bold; }} tr.best {{ background: #eef7ee; }} tr.ill {{ color: #82071e; }}
.warning {{ background: #fff4d6; padding: .5em 1em; }} .figure {{ min-height: 420px; }}
pre {{ background: #f7f7f7; padding: 1em; overflow-x: auto; }}
td pre {{ font: 12px/1.4 monospace; font-weight: normal; width: 30em; max-height: 24em; margin: .3em 0; color: #222; }}
pre .add {{ color: #116329; background: #dafbe1; }} pre .remove {{ color: #82071e; background: #ffebe9; }}
</style></head><body>
{body}
{scripts}
</body></html>
"""

_SCRIPTS = """<script type="text/plain" id="library">{library}</script>
<script type="application/json" id="figures">[{figures}]</script>
<script>
(async () => {{
  const places = document.querySelectorAll('.figure');
  if (!('DecompressionStream' in window)) {{
    const advice = 'The figures need a newer browser: Chromium 80, Firefox 113 or Safari 16.4.';
    places.forEach(place => {{ place.textContent = advice; }});
    return;
  }}
  const packed = Uint8Array.from(atob(document.getElementById('library').textContent), c => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('gzip'));
  const library = document.createElement('script');
  library.textContent = await new Response(stream).text();
  document.head.append(library);
  const figures = JSON.parse(document.getElementById('figures').textContent);
  figures.forEach((figure, i) => Plotly.newPlot(places[i], figure.data, figure.layout, {{responsive: true}}));
}})();
</script>"""


class Markup(str):
    """Text that is HTML already."""


class Page:
    """Sections of HTML and figures, in the order in which they are added."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._body: list[str] = []
        self._figures: list[str] = []

    def add(self, *sections: str) -> None:
        """Append HTML."""
        self._body += sections

    def add_figure(self, figure: graph_objects.Figure) -> None:
        """Append a figure."""
        self._body.append('<div class="figure"></div>')
        self._figures.append(plotly.io.to_json(figure).replace('<', '\\u003c'))  # '</script>' would end it

    def render(self) -> str:
        """Return the whole page."""
        library = base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()
        scripts = _SCRIPTS.format(library=library, figures=',\n'.join(self._figures))
        return _PAGE.format(title=html.escape(self._title), body='\n'.join(self._body), scripts=scripts)


def text(value: object) -> str:
    """Return a value as HTML: escaped unless it is :class:`Markup`, empty for None."""
    if isinstance(value, Markup):
        return value
    return '' if value is None else html.escape(str(value))


def table(names: Sequence[str], rows: Iterable[tuple[str, Sequence[object]]]) -> str:
    """Return a table; each row is its CSS class, or '', and its cells.

    Columns of numbers are right-aligned, and the floats of a column have one number of decimals.
    """
    rows = list(rows)
    numeric = [all(_is_number(cells[i]) for _, cells in rows) for i in range(len(names))]
    rows = _with_one_number_of_decimals(rows)
    kinds = [' class="number"' if right else '' for right in numeric]
    lines = [
        '<table><tr>' + ''.join(f'<th{k}>{html.escape(n)}</th>' for n, k in zip(names, kinds, strict=True)) + '</tr>'
    ]
    for css, cells in rows:
        opened = f'<tr class="{css}">' if css else '<tr>'
        lines.append(opened + ''.join(f'<td{k}>{text(c)}</td>' for c, k in zip(cells, kinds, strict=True)) + '</tr>')
    return '\n'.join([*lines, '</table>'])


def _with_one_number_of_decimals(rows: list[tuple[str, Sequence[object]]]) -> list[tuple[str, Sequence[object]]]:
    columns = [list(cells) for cells in zip(*(cells for _, cells in rows), strict=True)]
    for cells in columns:
        places = [i for i, cell in enumerate(cells) if isinstance(cell, float)]
        for i, shown in zip(places, column([cells[i] for i in places]), strict=True):
            cells[i] = shown
    return [(css, cells) for (css, _), cells in zip(rows, zip(*columns, strict=True), strict=True)]


def _is_number(value: object) -> bool:
    if isinstance(value, Markup):
        return False
    return value is None or isinstance(value, (int, float)) or not value or str(value)[0].isdigit()


def warning(message: str) -> str:
    """Return a paragraph that stands out."""
    return f'<p class="warning">{html.escape(message)}</p>'
