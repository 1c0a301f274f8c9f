"""The labels of images in the kind that a model is asked in: one class, several labels, or numbers."""

import os
from dataclasses import replace

import numpy as np

from .listing import Listing


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
