# SPDX-License-Identifier: Apache-2.0
"""Settings of Sphinx; the pages that are written from the code are in `from_code.py`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "Flowgauge"
copyright = "the authors of Flowgauge"
extensions = [
    "cyclopts.ext.sphinx",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "from_code",
]
html_theme = "furo"
html_title = "Flowgauge"
exclude_patterns = ["_build"]
# Headings of Markdown can be linked to, down to this level.
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "separated"
napoleon_use_ivar = True
# One backtick is code in docstrings.
default_role = "code"
# `$ ` and output are not part of a command.
copybutton_prompt_text = "$ "
