"""How Sphinx makes a site of these pages; `make docs` builds it."""

from cleftcli import __version__

project = "cleft"
extensions = ["myst_parser"]
myst_heading_anchors = 3  # those that GitHub makes
html_theme = "furo"
html_title = f"cleft {__version__}"
html_show_copyright = False
html_copy_source = False
