"""Images of training: curves, the schedule and the batches."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..figures import new_figure, save_figure
from .tasks import TITLES

_COLOURS = {"training": "#1565c0", "validation": "#e65100"}


def draw_history(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Writes a PNG of loss, the task's measures and learning rate by epoch; what was not measured has no panel."""
    panels = [*TITLES.items(), ("learning_rate", "learning rate")]
    panels = [(name, title) for name, title in panels if any(name in row for row in history)]
    figure = new_figure((4.2 * len(panels), 3.6))
    epochs = [row["epoch"] for row in history]
    for axis, (name, title) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        for kind, key in (("training", name), ("validation", f"val_{name}")):
            values = [row.get(key, np.nan) for row in history]
            if not np.all(np.isnan(values)):
                marker = "o" if len(epochs) < 20 else ""
                axis.plot(epochs, values, color=_COLOURS[kind], label=kind, marker=marker, markersize=3.5)
        axis.set_title(title)
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
        if name not in ("loss", "learning_rate"):
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}" if value <= 1 else "")
        if name == "learning_rate":
            axis.ticklabel_format(axis="y", scilimits=(-2, 2))
        elif any(f"val_{name}" in row for row in history):
            axis.legend(frameon=False)
    save_figure(figure, path)


def draw_schedule(path: Path, rates: np.ndarray, steps_per_epoch: int) -> None:
    """Writes a PNG of the learning rate of every step (n,)."""
    figure = new_figure((7, 3.6))
    axis = figure.subplots()
    axis.plot(np.arange(len(rates)) / steps_per_epoch, rates, color=_COLOURS["training"])
    axis.set(title="Learning rate", xlabel="epoch")
    axis.grid(alpha=0.3)
    save_figure(figure, path)


def as_rgb(images: np.ndarray) -> np.ndarray:
    """Images (n, height, width, channels) as they are drawn, uint8 (n, height, width, 3).

    RGB on 0..255 stays as it is; of other channels the first is shown, from its lowest value in black to its highest.
    """
    if images.shape[-1] == 3:
        return np.clip(images, 0, 255).astype("uint8")
    first = images[..., :1]
    low, high = first.min((1, 2, 3), keepdims=True), first.max((1, 2, 3), keepdims=True)
    return np.repeat((255 * (first - low) / np.maximum(high - low, 1e-9)).astype("uint8"), 3, axis=-1)


def draw_batch(path: Path, images: np.ndarray, titles: Sequence[str]) -> None:
    """Writes a PNG of images (n, height, width, 3) uint8, up to 8 in a row, each under its title."""
    columns = min(8, len(images))
    rows = -(-len(images) // columns)
    lines = max(title.count("\n") + 1 for title in titles)
    figure = new_figure((1.7 * columns, (1.8 + 0.15 * lines) * rows))
    axes = np.atleast_1d(figure.subplots(rows, columns)).reshape(-1)
    for axis in axes:
        axis.axis("off")
    for axis, image, title in zip(axes, images, titles, strict=False):
        axis.imshow(image, interpolation="nearest")
        axis.set_title("\n".join(map(_shorten, title.split("\n"))), fontsize=8)
    save_figure(figure, path)


def _shorten(line: str) -> str:
    return line if len(line) <= 22 else f"{line[:21]}…"
