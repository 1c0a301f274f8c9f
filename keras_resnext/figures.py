"""Figures drawn without a screen, as PNG files that appear whole or not at all."""

from pathlib import Path
from typing import Any

from .files import placed_whole


def new_figure(size: tuple[float, float]) -> Any:
    """A figure of (width, height) in inches, which needs no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Path) -> None:
    """Writes a PNG whole or not at all."""
    with placed_whole(path) as aside:
        figure.savefig(aside, dpi=100, format="png")
