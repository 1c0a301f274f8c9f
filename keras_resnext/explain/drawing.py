"""PNG files of what `explain` finds."""

import math
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from ..figures import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Even in lightness, so that no place looks like a border that is none, and readable without colour vision.
COLOURS = "inferno"
DARKEST = 0.3  # of the colours, under which the image could not be seen
SHADE = 0.4  # how far the darkest pixel of the image dims the colour of the heat
PANEL = 3.6  # inches
DPI = 120


def draw_explanation(
    path: str | os.PathLike[str], image: np.ndarray, heat: np.ndarray, title: str, subtitle: str
) -> None:
    """Writes the image beside the heat map over the grey image.

    Args:
        path: of the PNG.
        image: uint8 (height, width, 3).
        heat: (h, w) on 0..1, of any size.
        title, subtitle: lines above the panels.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    figure = new_figure((2 * PANEL * _aspect(image) + 0.8, PANEL + 0.7))
    figure.suptitle(title, parse_math=False, fontsize=13, fontweight="bold", x=0.02, ha="left")
    left, right = figure.subplots(1, 2)
    _show(left, image, "as the model sees it")
    colours = ListedColormap(colormaps[COLOURS](np.linspace(DARKEST, 1, 256)))
    _show(right, overlay(image, heat, colours), subtitle)
    shown = ScalarMappable(Normalize(0, 1), colours)
    figure.colorbar(shown, ax=right, shrink=0.9, ticks=[0, 0.5, 1])
    save_figure(figure, path, dpi=DPI)


def overlay(image: np.ndarray, heat: np.ndarray, colours: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The colour of the heat at every pixel, dimmed by the image's grey: mixing would change hues and hide the dark.

    Args:
        image: uint8 (height, width, 3).
        heat: (h, w) on 0..1, enlarged bilinearly.
        colours: numbers on 0..1 to RGBA on 0..1.

    Returns:
        float (height, width, 3) on 0..1.
    """
    height, width = image.shape[:2]
    enlarged = Image.fromarray(heat.astype("float32")).resize((width, height), Image.Resampling.BILINEAR)
    grey = np.asarray(ImageOps.autocontrast(Image.fromarray(image).convert("L")))[..., None] / 255
    return colours(np.asarray(enlarged))[..., :3] * (SHADE + (1 - SHADE) * grey)


def draw_feature_maps(
    path: str | os.PathLike[str], image: np.ndarray, channels: Mapping[int, np.ndarray], title: str
) -> None:
    """Writes the image and a grid of maps, each on its own scale, with its channel and largest value.

    Args:
        path: of the PNG.
        image: uint8 (height, width, 3).
        channels: channel to map (h, w), in the order shown.
        title: line above.
    """
    count = len(channels) + 1
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    side = PANEL / 2
    figure = new_figure((columns * side * _aspect(image) + 0.4, rows * (side + 0.3) + 0.6))
    figure.suptitle(title, parse_math=False, fontsize=13, fontweight="bold", x=0.02, ha="left")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    _show(axes[0], image, "as the model sees it")
    for axis, (channel, values) in zip(axes[1:], channels.items(), strict=False):
        _show(axis, values, f"channel {channel}, max {values.max():.2g}")
    for axis in axes[count:]:
        axis.axis("off")
    save_figure(figure, path, dpi=DPI)


def _aspect(image: np.ndarray) -> float:
    return min(max(image.shape[1] / image.shape[0], 0.5), 3.0)


def _show(axis: "Axes", values: np.ndarray, title: str) -> None:
    """An image as it is, or a map (h, w) on its own scale."""
    axis.imshow(values, cmap=COLOURS)
    axis.set_title(title, fontsize=9, loc="left", parse_math=False)
    axis.set(xticks=[], yticks=[])
