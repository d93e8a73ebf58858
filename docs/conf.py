"""Sphinx configuration of the site; docs/project/site.md says why Sphinx."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from olivebuild import __version__ as version

project = "olivebuild"
release = version
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "olivebuild"
html_copy_source = False
html_show_copyright = False
exclude_patterns = ["_build"]
myst_heading_anchors = 3
