"""Draws docs/images/layers.png: the folders and modules of the package, layer by layer, with what each is for.

python tools/draw_layers.py
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from keras_resnext.figures import new_figure, save_figure  # noqa: E402
from tests.test_package import LAYERS, PACKAGE  # noqa: E402


def purpose(name: str) -> str:
    """The first sentence of a module's or folder's docstring, cut to what fits."""
    path = PACKAGE / name
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0].replace("\n", " ")
    return text if len(text) <= 110 else text[:109].rsplit(" ", 1)[0] + " …"


def main() -> None:
    there = {path.stem for path in PACKAGE.iterdir()}
    layers = [sorted(names & there) for names in LAYERS]
    figure = new_figure((9, 0.26 * sum(len(names) + 1 for names in layers)))
    axis = figure.subplots()
    axis.set_axis_off()
    y = 0.0
    for level, names in enumerate(layers):
        height = len(names) + 0.6
        colour = "#e3f2fd" if level % 2 else "#bbdefb"
        axis.barh(y + height / 2, 1, height=height, color=colour, edgecolor="white")
        for i, name in enumerate(names):
            label = name + "/" if (PACKAGE / name).is_dir() else name + ".py"
            axis.text(0.01, y + i + 0.8, label, va="center", fontsize=9, family="monospace")
            axis.text(0.22, y + i + 0.8, purpose(name), va="center", fontsize=8, color="#37474f")
        y += height
    axis.set_xlim(0, 1)
    axis.set_ylim(y, 0)
    axis.set_title("Each layer imports only what stands below it", fontsize=10)
    save_figure(figure, ROOT / "docs" / "images" / "layers.png")


if __name__ == "__main__":
    main()
