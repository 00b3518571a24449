"""Sphinx settings: ``make docs`` builds the site into ``docs/_build``; a warning is an error."""

from pathlib import Path

scope: dict[str, str] = {}
exec((Path(__file__).parents[1] / 'mmfixnorm/version.py').read_text(), scope)

project = 'mmfixnorm'
author = 'mmfixnorm maintainers'
version = release = scope['__version__']

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx.ext.mathjax',
    'sphinx-mathjax-offline',  # formulas without a network
    'sphinx_design',
]
myst_enable_extensions = ['dollarmath', 'amsmath', 'colon_fence']
myst_heading_anchors = 3
exclude_patterns = ['_build']

autodoc_member_order = 'bysource'
autodoc_typehints = 'description'
autodoc_preserve_defaults = True  # a default is shown as it is written, not as a path of this machine
autodoc_default_options = {'members': True, 'show-inheritance': True}
napoleon_numpy_docstring = False

html_theme = 'furo'
html_title = f'mmfixnorm {version}'
html_static_path = ['static']
html_css_files = ['wide.css']
html_theme_options = {'navigation_with_keys': True}
html_show_sourcelink = False
html_show_copyright = False
html_use_index = False  # its table is wider than a screen; there is the search field
html_domain_indices = False
