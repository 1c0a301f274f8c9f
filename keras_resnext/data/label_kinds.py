"""The labels of images in the kind that a model is asked in: one class, several labels, or numbers."""

import os
from dataclasses import replace

import numpy as np

from .listing import Listing

MISTAKES = 0.01  # share of the images in several classes that may be by mistake


def describe(listing: Listing) -> str:
    """What images and labels there are, in a few words."""
    count, names = len(listing), len(listing.classes)
    if listing.kind == "single":
        return f"{count} images of {names} classes"
    if listing.kind == "raw":
        numbers = f"{names} numbers" if names > 1 else "a number"
        return f"{count} images with {numbers} each ({', '.join(listing.classes[:5])})"
    each = listing.labels.sum(1)
    none = f", {bare} with none" if (bare := int((each == 0).sum())) else ""
    return f"{count} images with several of {names} labels, {each.mean():.1f} an image{none}"


def as_single(listing: Listing, why: str) -> Listing:
    """The same images with one class each, which columns of 0 and 1 may say too.

    Args:
        listing: images with labels of any kind.
        why: what an error says of who wants one class.

    Raises:
        ValueError: an image has several labels, none, or numbers.
    """
    if listing.kind == "single":
        return listing
    if listing.kind == "raw":
        raise ValueError(f"the data has {describe(listing)}, but {why}")
    each = listing.labels.sum(1)
    wrong = np.flatnonzero(each != 1)
    if len(wrong):
        first = int(wrong[0])
        held = ", ".join(listing.classes[i] for i in np.flatnonzero(listing.labels[first])) or "none"
        raise ValueError(f"the data has {describe(listing)} (such as {listing.name(first)!r}: {held}), but {why}")
    return replace(listing, labels=listing.labels.argmax(1).astype("int64"), kind="single")


def as_multi(listing: Listing, why: str) -> Listing:
    """The same images with any number of labels each; an image that is listed with several has all of them.

    An image is the same by its file, also where links to it lie in the folders of several classes. Copies count as
    different images.

    Raises:
        ValueError: the data has numbers; `why` as in `as_single`.
    """
    if listing.kind == "raw":
        raise ValueError(f"the data has {describe(listing)}, but {why}")
    labels = listing.labels
    if listing.kind == "single":
        labels = np.zeros((len(listing), len(listing.classes)), "uint8")
        labels[np.arange(len(listing)), listing.labels] = 1
    first: dict[object, int] = {}
    files = {file: _identity(file) for file in set(listing.files)}
    starts = [-1] * len(listing) if listing.spans is None else listing.spans[:, 0].tolist()
    keys = [(files[file], start) for file, start in zip(listing.files, starts, strict=True)]
    owners = [first.setdefault(key, i) for i, key in enumerate(keys)]
    if (labels == labels[owners]).all():  # listed twice with the same labels it counts twice
        return replace(listing, labels=labels, kind="multi")
    together = np.zeros_like(labels)
    np.maximum.at(together, owners, labels)
    kept = sorted(first.values())
    return replace(listing.select(kept), labels=together[kept], kind="multi")


def find_kind(listing: Listing) -> tuple[str, str]:
    """How labels are to be learned, "single" or "multi", and a sentence that says why where it may surprise, else "".

    Several labels an image are "multi", unless each image has exactly one of several. Class folders and lists are
    "multi" where over a hundredth of the images lie in several classes, by links or by rows; fewer are taken for
    mistakes.
    """
    if listing.kind == "multi":
        one_each = len(listing.classes) > 1 and (listing.labels.sum(1) == 1).all()
        return ("single", "Each image has one label: they are taken for classes.") if one_each else ("multi", "")
    if listing.kind == "raw" or listing.spans is not None:
        return listing.kind, ""
    seen: dict[object, set[int]] = {}
    for file, label in zip(listing.files, listing.labels.tolist(), strict=True):
        seen.setdefault(_identity(file), set()).add(label)
    several = sum(len(labels) > 1 for labels in seen.values())
    if several > len(seen) * MISTAKES:
        return "multi", f"{several} of {len(seen)} images are in several classes: they have several labels each."
    return "single", f"{several} of {len(seen)} images are in several classes." if several else ""


def as_kind(listing: Listing, kind: str, why: str) -> Listing:
    """The same images with labels of a kind, "single" or "multi"; errors as those of `as_single` and `as_multi`."""
    return {"single": as_single, "multi": as_multi}[kind](listing, why)


def check_labels(listing: Listing, name: str) -> None:
    """Raises ValueError where labels are not what `Listing` says of them; `name` is the argument's."""
    labels, classes = np.asarray(listing.labels), len(listing.classes)
    shape = (len(listing),) if listing.kind == "single" else (len(listing), classes)
    if labels.shape != shape:
        raise ValueError(f"{name}.labels has shape {labels.shape}; {len(listing)} images of kind {listing.kind!r} and "
                         f"{classes} classes need {shape}")  # fmt: skip
    if not np.issubdtype(labels.dtype, np.integer) and not (np.isfinite(labels) & (labels == np.round(labels))).all():
        raise ValueError(f"{name}.labels must be whole numbers; it has {labels[~(labels == np.round(labels))][:1]}")
    most = classes if listing.kind == "single" else 2
    wrong = np.argwhere((labels < 0) | (labels >= most))
    if len(wrong):
        value, row = labels[tuple(wrong[0])], int(wrong[0][0])
        raise ValueError(f"{name}.labels has {value} for image {listing.name(row)!r}; it must lie in 0..{most - 1}")


def as_numbers(listing: Listing, why: str) -> Listing:
    """The same images with numbers; classes that are called by numbers, and 0 and 1 of labels, count as numbers.

    Raises:
        ValueError: the classes have other names; `why` as in `as_single`.
    """
    if listing.kind != "single":
        return replace(listing, labels=listing.labels.astype("float64"), kind="raw")
    try:
        values = np.array([[float(name)] for name in listing.classes])
    except ValueError:
        named = ", ".join(map(repr, listing.classes[:5]))
        raise ValueError(f"the data has {describe(listing)} ({named}), but {why}") from None
    return replace(listing, labels=values[listing.labels], classes=("value",), kind="raw")


def _identity(file: str) -> object:
    try:
        found = os.stat(file)
    except OSError:  # gone meanwhile: reading says so
        return file
    return found.st_dev, found.st_ino
