"""Figures drawn without a screen, as PNG files that appear whole or not at all."""

import io
import os
import warnings
from typing import Any

from .files import placed_whole

DPI = 100


def new_figure(size: tuple[float, float]) -> Any:
    """A figure of (width, height) in inches, which needs no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def figure_bytes(figure: Any, *, dpi: int = DPI, margin: float | None = None) -> bytes:
    """A PNG of `dpi` pixels an inch.

    `margin` is the space in inches around what is drawn; default the figure keeps its own size.
    """
    options: dict[str, Any] = {} if margin is None else {"bbox_inches": "tight", "pad_inches": margin}
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # names in scripts that the font lacks
        figure.savefig(stream, format="png", dpi=dpi, **options)
    return stream.getvalue()


def save_figure(figure: Any, path: str | os.PathLike[str], *, dpi: int = DPI) -> None:
    """Writes a PNG whole or not at all."""
    content = figure_bytes(figure, dpi=dpi)
    with placed_whole(path) as aside:
        aside.write_bytes(content)
