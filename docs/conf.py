"""How Sphinx builds these pages: sphinx-build -W docs build/docs."""

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent / "_extensions")]

import keras_resnext  # noqa: E402

project = "keras_resnext"
highlight_language = "text"  # of blocks that name none
author = "The keras_resnext authors"
release = version = keras_resnext.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
extensions += ["command_line", "docstrings"]
exclude_patterns = ["_extensions"]

# Markdown: headings can be linked to, and files of the repository outside of docs/ too.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

# Docstrings: code in single backticks, linked where it is a name of this package; Google's sections.
default_role = "py:obj"
smartquotes_action = "D"  # dashes; "imagenet" is something to type
napoleon_google_docstring, napoleon_numpy_docstring = True, False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"

# On GitHub the manual of the model base is the README of its folder; here it is a page.
OUTSIDE = {"](../savedmodels/README.md": "](model_base.md"}


def _link_inside(app: Any, page: str, source: list[str]) -> None:
    for outside, inside in OUTSIDE.items():
        source[0] = source[0].replace(outside, inside)


def setup(app: Any) -> None:
    app.connect("source-read", _link_inside)


html_theme = "furo"
html_title = f"keras_resnext {version}"
html_copy_source = False
html_show_sphinx = html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "top_of_page_buttons": [],
    # The system's own fonts and colours: nothing is loaded from elsewhere.
    "light_css_variables": {"color-brand-primary": "#0b57a4", "color-brand-content": "#0b57a4"},
    "dark_css_variables": {"color-brand-primary": "#7db7ff", "color-brand-content": "#7db7ff"},
}
pygments_style, pygments_dark_style = "default", "github-dark"
