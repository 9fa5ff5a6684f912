"""Sphinx: `python -m sphinx -W docs build/docs` builds these pages, without a warning."""

from importlib.metadata import version as version_of

project = "Pulse"
author = "the authors of Pulse"
release = version_of("pulse")
version = release.rpartition(".dev")[0] or release

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["build"]
default_role = "code"  # docstrings quote names in single backticks

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False

html_theme = "alabaster"
html_theme_options = {
    "description": "Scheduling WSGI middleware: a web application's own pages, requested on time.",
    "fixed_sidebar": True,
    "page_width": "1100px",
}
html_show_copyright = False
