"""The labels of data as the outputs of a classifier have them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..classifier import Classifier
from ..data import Listing, as_multi, as_numbers, as_single
from ..labels import class_names, match_classes


def fit_labels(listing: Listing, classifier: Classifier, labels: Sequence[str] | None) -> Listing:
    """The images with labels in the kind and order of the classifier's outputs, whose names `classes` are then.

    A single probability tells two classes apart, of which the second is the one that it belongs to: what the classifier
    calls its output, else the second of the data. They are of the kind "single".

    Args:
        listing: as it was read.
        classifier: the one to be evaluated.
        labels: names of its outputs; default its own.

    Raises:
        ValueError: labels of another kind, or classes that do not belong together.
    """
    if classifier.kind == "raw":
        return _fit_numbers(listing, classifier, labels)
    if classifier.kind == "multi" and classifier.classes == 1:
        return _fit_binary(listing, classifier, labels)
    why = f"model={classifier.name!r} gives "
    if classifier.kind == "single":
        listing = as_single(listing, why + "probabilities of classes of which one is right (softmax)")
    else:
        listing = as_multi(listing, why + "a probability for each label (sigmoid)")
    known = class_names(labels, classifier.classes) if labels is not None else classifier.labels
    positions, names = match_classes(listing.classes, known, classifier.classes)
    if listing.kind == "single":
        return replace(listing, labels=positions[listing.labels], classes=tuple(names))
    found = np.zeros((len(listing), len(names)), "uint8")
    found[:, positions] = listing.labels
    return replace(listing, labels=found, classes=tuple(names))


def _fit_binary(listing: Listing, classifier: Classifier, labels: Sequence[str] | None) -> Listing:
    if listing.kind == "multi" and len(listing.classes) == 1:
        name = listing.classes[0]
        both = [f"not {name}", name] if labels is None else class_names(labels, 2)
        return replace(listing, labels=listing.labels[:, 0].astype("int64"), classes=tuple(both), kind="single")
    listing = as_single(listing, f"model={classifier.name!r} tells two classes apart, by one probability (sigmoid)")
    own = classifier.labels[0] if classifier.labels is not None else None
    if labels is None and len(listing.classes) == 2 and own in listing.classes:
        labels = [name for name in listing.classes if name != own] + [own]
    known = None if labels is None else class_names(labels, 2)
    positions, names = match_classes(listing.classes, known, 2)
    return replace(listing, labels=positions[listing.labels], classes=tuple(names))


def _fit_numbers(listing: Listing, classifier: Classifier, labels: Sequence[str] | None) -> Listing:
    count = classifier.classes
    why = f"model={classifier.name!r} gives numbers that are not probabilities, to compare with a column `value`"
    listing = as_numbers(listing, why)
    if len(listing.classes) != count:
        raise ValueError(
            f"model={classifier.name!r} gives {count} numbers an image and the data has {len(listing.classes)} "
            f"({', '.join(listing.classes[:5])})"
        )
    known = labels if labels is not None else classifier.labels
    return listing if known is None else replace(listing, classes=tuple(class_names(known, count)))
