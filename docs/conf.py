"""How are the documents made?  `make docs` calls Sphinx with this file."""

from __future__ import annotations

import os
import pathlib
import sys

_HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE.parent), str(_HERE / "_ext")]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tfdist  # noqa: E402

project = "tfdist"
author = "The tfdist authors"
copyright = "2026, the tfdist authors"
version = release = tfdist.__version__

extensions = [
    "myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "command_page", "error_page",
]
exclude_patterns = ["_build"]
myst_heading_anchors = 3

# Names of other packages stand in signatures, and there is no network to link them by.
nitpick_ignore_regex = [
    ("py:.*", r"(keras|tf|tensorflow|np|numpy|os|pathlib|collections|argparse)\..*"),
]
autodoc_typehints = "none"  # the signature of `fit` with its types is a page long
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False

html_theme = "furo"
html_title = f"tfdist {release}"
html_show_sphinx = False
html_copy_source = False
