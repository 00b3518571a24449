"""A page with figures that plotly draws without a network; of the reports of searches and of the analysis tools.

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

import plotly.io
from plotly import graph_objects
from plotly.offline import get_plotlyjs

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<link rel="icon" href="data:,">
<style>
body {{ font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; margin: 2em auto; padding: 0 1em; }}
body {{ max-width: {width:g}px; }}
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


class Page:
    """Sections of HTML and figures, in the order in which they are added.

    Args:
        title (str): Title of the page.
        width (float): At most so wide, in pixels.
    """

    def __init__(self, title: str, width: float = 1100) -> None:
        self._title = title
        self._width = width
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
        return _PAGE.format(
            title=html.escape(self._title), width=self._width, body='\n'.join(self._body), scripts=scripts
        )
