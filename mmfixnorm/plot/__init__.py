"""Figures as plain data, drawn as PNG and as HTML; used by the analysis tools and the reports of searches.

- :mod:`.chart`: a figure as data;
- :mod:`.png` and :mod:`.html`: draw it, with matplotlib and with plotly;
- :mod:`.page`: a page with plotly's figures, without a network;
- :mod:`.palette`: the colours of both.
"""
