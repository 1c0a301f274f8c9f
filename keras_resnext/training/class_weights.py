"""Weights of classes in the loss, out of the data or a file."""

import csv
import difflib
import io
import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..data import Listing
from ..files import read_text

BALANCED = "balanced"


def weights_of(wanted: str | tuple[float, ...], listing: Listing) -> tuple[float, ...]:
    """A weight for each class or label.

    Args:
        wanted: "balanced": of classes images / (classes * images of the class), over those that occur, so that the mean
            over images is 1 (scikit-learn's); of labels images without / images with. Or a file, CSV with a name and a
            weight a line or JSON with {name: weight}; classes that it does not name have weight 1. Or the weights.
        listing: the images to train on.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds something else, or names a class that there is not.
    """
    if isinstance(wanted, tuple):
        if len(wanted) != len(listing.classes) or not all(math.isfinite(w) and w >= 0 for w in wanted):
            raise ValueError(f"class_weights={wanted!r} must be {len(listing.classes)} numbers from 0 on, one a class")
        return wanted
    if wanted == BALANCED:
        counts = listing.counts()
        known = np.maximum(counts, 1)  # a class without images weighs nothing in any case
        if listing.kind == "multi":
            found = np.where(counts > 0, (len(listing) - counts) / known, 1.0)
            found = np.where(found > 0, found, 1.0)  # a label that all images have
        else:
            found = np.where(counts > 0, len(listing) / ((counts > 0).sum() * known), 1.0)
        return tuple(found.tolist())
    return _read(Path(wanted), listing.classes)


def describe_weights(weights: Iterable[float], classes: tuple[str, ...]) -> str:
    """The smallest and the largest weight, with their classes."""
    ordered = sorted(zip(weights, classes, strict=True))
    return " to ".join(f"{weight:.3g} ({name})" for weight, name in (ordered[0], ordered[-1]))


def _read(path: Path, classes: tuple[str, ...]) -> tuple[float, ...]:
    if path.suffix.lower() not in (".csv", ".json"):
        raise ValueError(
            f"class_weights={str(path)!r} must be {BALANCED}, or a .csv or .json file of names and weights"
        )
    text = read_text(path)
    try:
        if path.suffix.lower() == ".json":
            rows = list(json.loads(text).items())
        else:
            rows = [(row[0].strip(), row[1]) for row in csv.reader(io.StringIO(text)) if any(row)]
    except (ValueError, AttributeError, IndexError, csv.Error, RecursionError):
        raise ValueError(f"class_weights={str(path)!r} must hold a class name and a weight a line, or a JSON object of "
                         "them") from None  # fmt: skip
    weights = dict.fromkeys(classes, 1.0)
    for number, (name, value) in enumerate(rows):
        try:
            weight = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            if not number and name not in weights:  # a header
                continue
            weight = math.nan
        if name not in weights:
            near = difflib.get_close_matches(name, classes, 1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"class_weights={str(path)!r} names {name!r}, which is no class of the data{meant}")
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"class_weights={str(path)!r} gives {name!r} the weight {value!r}; it must be 0 or above")
        weights[name] = weight
    return tuple(weights.values())
