"""Figures drawn without a screen, as PNG files that appear whole or not at all."""

import io
import os
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from .files import placed_whole
from .terminal import printable

DPI = 100
TILE = 1.6  # inches
COLUMNS = 8
LINE = 20  # letters of a line under an image


def new_figure(size: tuple[float, float]) -> Any:
    """A figure of (width, height) in inches, which needs no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def figure_bytes(figure: Any, *, dpi: int = DPI, margin: float | None = None) -> bytes:
    """A PNG of `dpi` pixels an inch, in which names of any script are drawn where an installed font has it.

    `margin` is the space in inches around what is drawn; default the figure keeps its own size. Letters that no
    font has become boxes, of which one warning tells.
    """
    options: dict[str, Any] = {} if margin is None else {"bbox_inches": "tight", "pad_inches": margin}
    stream = io.BytesIO()
    _choose_fonts(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # one a letter
        figure.savefig(stream, format="png", dpi=dpi, **options)
    return stream.getvalue()


def save_figure(figure: Any, path: str | os.PathLike[str], *, dpi: int = DPI) -> None:
    """Writes a PNG whole or not at all."""
    content = figure_bytes(figure, dpi=dpi)
    with placed_whole(path) as aside:
        aside.write_bytes(content)


def contact_sheet(tiles: Sequence[tuple[np.ndarray | None, Sequence[str]]], title: str) -> bytes:
    """PNG of images in rows of up to `COLUMNS`, with lines of text under each.

    Args:
        tiles: (uint8 image (height, width, 3), lines) each; None for an image that cannot be read. Long lines are cut.
        title: line above.
    """
    columns = max(min(COLUMNS, len(tiles)), 4)
    rows = max(-(-len(tiles) // columns), 1)
    lines = max((len(lines) for _, lines in tiles), default=1)
    figure = new_figure((columns * TILE, 0.6 + rows * (TILE + 0.16 * lines)))
    figure.suptitle(printable(title), fontsize=12, parse_math=False)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.axis("off")
    for axis, (image, lines_below) in zip(axes, tiles, strict=False):
        if image is None:
            axis.text(0.5, 0.5, "cannot be read", ha="center", va="center", fontsize=8, transform=axis.transAxes)
        else:
            axis.imshow(image, interpolation="nearest" if max(image.shape) < 100 else "antialiased")
        text = "\n".join(printable(shorten(line, LINE)) for line in lines_below)
        axis.text(0.5, -0.03, text, ha="center", va="top", fontsize=7, parse_math=False, transform=axis.transAxes)
    return figure_bytes(figure, margin=0.15)


def shorten(text: str, most: int) -> str:
    """`text`, cut to the given number of letters with an ellipsis."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _choose_fonts(figure: Any) -> None:
    """Gives each text of a figure the fonts that its letters need, after the usual one."""
    from matplotlib.text import Text

    missing: set[str] = set()
    for text in figure.findobj(Text):
        wanted = {letter for letter in text.get_text() if letter.isprintable()} - {" "}
        if not wanted or all(letter < "\u0250" for letter in wanted):  # Latin, which the usual font has
            continue
        families, lacking = _families(frozenset(wanted))
        text.set_fontfamily(list(families))
        missing |= lacking
    if missing:
        shown = "".join(sorted(missing)[:10])
        warnings.warn(
            f"no installed font has {len(missing)} of the letters to draw, such as {shown!r}: they become boxes",
            stacklevel=4,
        )


@cache
def _families(letters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """(font families that draw the letters together, the usual one first; the letters that none has)."""
    from matplotlib.font_manager import FontProperties, findfont, fontManager

    usual = FontProperties().get_name()
    families, lacking = [usual], letters - _letters(findfont(FontProperties()))
    fonts = sorted(fontManager.ttflist, key=lambda font: (font.weight != 400, font.style != "normal", font.name))
    for font in fonts if lacking else ():
        if has := lacking & _letters(font.fname):
            families.append(font.name)
            lacking -= has
    return tuple(families), lacking


@cache
def _letters(path: str) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(map(chr, FT2Font(path).get_charmap()))
    except (OSError, RuntimeError, ValueError):  # bitmaps, and files gone since they were listed
        return frozenset()
