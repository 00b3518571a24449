"""Figures as plain data, drawn as PNG and as HTML; used by the analysis tools and the reports of searches.

- :mod:`.chart`: a figure as data;
- :mod:`.png` and :mod:`.html`: draw it, with matplotlib and with plotly;
- :mod:`.palette`: the colours of both.
"""
