"""The documentation as a site: ``make docs-site`` builds it, without network."""

from __future__ import annotations

from cohortvol import __version__

project = "cohortvol"
author = "The cohortvol developers"
copyright = author
version = release = __version__

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"cohortvol {version}"
html_copy_source = False
html_show_sphinx = False
