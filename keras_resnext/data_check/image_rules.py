"""Which images and classes stand out, from what one look at each told."""

from collections.abc import Iterator, Mapping

import numpy as np

from ..data import Listing
from .image_facts import PLAIN

DARK = 64  # of 255: 99 % of the pixels are darker
BRIGHT = 230  # of 255: 99 % of the pixels are brighter
BLURRED = 0.6  # of 1, see `image_facts.blur_of`
TINY = 0.25  # of the usual shorter side
LONG = 3.0  # longer side by shorter side, and by the usual one
FEW = 0.1  # of the images that the largest class has

Stands = Iterator[tuple[str, int, str, float]]  # kind, place, reason, severity


def odd_images(facts: np.ndarray) -> Stands:
    """What is odd about each of `FACTS` (n,) by itself, or beside the others; an image has one reason of brightness."""
    low, high, deviation, blur = (facts[name].astype("float64") for name in ("low", "high", "deviation", "blur"))
    short = np.minimum(facts["width"], facts["height"]).astype("float64")
    ratio = np.maximum(facts["width"], facts["height"]) / np.maximum(short, 1)
    side, usual = (float(np.median(values)) if len(facts) else 1.0 for values in (short, ratio))
    dark, bright = high < DARK, low > BRIGHT
    plain = (deviation < PLAIN) & ~dark & ~bright
    blurred = (blur > BLURRED) & ~plain & ~dark & ~bright
    for i in np.flatnonzero(dark).tolist():
        yield "dark", i, f"99 % of its pixels are darker than {high[i] / 255:.0%}", 1 - high[i] / 255
    for i in np.flatnonzero(bright).tolist():
        yield "bright", i, f"99 % of its pixels are brighter than {low[i] / 255:.0%}", low[i] / 255
    for i in np.flatnonzero(plain).tolist():
        yield "plain", i, f"its brightness varies by {deviation[i] / 255:.1%} alone", 1 - deviation[i] / PLAIN
    for i in np.flatnonzero(blurred).tolist():
        yield "blurred", i, f"blur {blur[i]:.2f} of 1", blur[i]
    for i in np.flatnonzero(short < TINY * side).tolist():
        size = f"{facts['width'][i]}x{facts['height'][i]} pixels"
        yield "tiny", i, f"{size}, the shorter side usually has {side:.0f}", 1 - short[i] / side
    for i in np.flatnonzero((ratio > LONG) & (ratio > LONG / 2 * usual)).tolist():
        yield "shape", i, f"{facts['width'][i]}x{facts['height'][i]} pixels", ratio[i]


def rare_classes(splits: Mapping[str, Listing]) -> Iterator[tuple[str, str, str, float]]:
    """Classes with few images beside the largest one, or none to validate on: (split, class, reason, severity)."""
    training = splits["train"]
    if training.kind == "raw":
        return
    counts = {name: listing.counts().tolist() for name, listing in splits.items()}
    most = max(counts["train"])
    largest = training.classes[counts["train"].index(most)]
    for name, count in zip(training.classes, counts["train"], strict=True):
        if count < FEW * most:
            yield "train", name, f"{_images(count)}; {largest!r} has {most}", 1 - count / most
    for name, count in zip(training.classes, counts.get("val", ()), strict=False):
        if not count:
            yield "val", name, "no image to validate on", 1.0


def _images(count: int) -> str:
    return f"{count} image{'s' * (count != 1)}"
