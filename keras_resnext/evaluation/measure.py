"""Classifies labelled images and measures how well, whatever the format of the model."""

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np
from rich.console import Console

from ..classifier import Classifier, Model, open_classifier
from ..data import Listing, default_skip_limit, find_splits, read_listing
from ..labels import class_names, match_classes
from ..network.input_preprocessing import Given
from ..progress import Bar
from .label_scores import LabelScores, binary_cross_entropy, score_labels
from .metrics import calibration_bins, confusion_matrix, rank_of
from .result import Evaluation

SMALLEST = 1e-7  # probabilities below count as this in the loss, as in Keras; integers give zeros


def evaluate(
    model: Model,
    data: str | os.PathLike[str] | Listing,
    *,
    labels: Sequence[str] | None = None,
    batch_size: int = 32,
    image_size: int | None = None,
    resize: int | None = None,
    interpolation: str | None = None,
    exif: bool | None = None,
    preprocessing: Given = None,
    kind: str | None = None,
    limit: int | None = None,
    strict: bool = False,
    skip_limit: int | None = None,
    console: Console | None = None,
) -> Evaluation:
    """Classifies labelled images and tells how well.

    Images are read in threads ahead of the model, a few batches at a time. How the classes of the data and of the
    model belong together: `labels.match_classes`.

    Args:
        model: a Keras model, the path of one, of a PyTorch checkpoint or of an export, as in
            `classifier.open_classifier`. One that ends in a single sigmoid tells two classes apart, of which the second
            is the one that it gives the probability of.
        data: a folder with a folder of images a class, a list or TFRecords, as in `data.read_listing`; of one with
            train and val, as in `data.find_splits`, the latter.
        labels: names of the model's classes in order; default those that a SavedModel records, or that training wrote
            beside the model, labels.txt.
        batch_size: images at once.
        image_size, resize, interpolation, exif, preprocessing, kind: as in `classifier.open_classifier`.
        limit: at most so many images, evenly chosen.
        strict: whether the first image that cannot be read is an error.
        skip_limit: how many of them are passed over otherwise; default a hundredth of all, at least one.
        console: where to show progress; default nowhere.

    Raises:
        FileNotFoundError: a path to nothing.
        ValueError: a model that is no classifier of RGB images or gives no probabilities (NaN, for one); data that
            cannot be read; classes that do not belong together; an argument out of range.
        ImportError: the runtime for the model's format is not installed.
    """
    for name, value in (("batch_size", batch_size), ("limit", limit)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{name}={value!r} must be a positive integer")
    listing = data if isinstance(data, Listing) else _read_validation(data)
    if not len(listing):
        raise ValueError("data holds no images")
    classifier = open_classifier(
        model,
        image_size=image_size,
        resize=resize,
        interpolation=interpolation,
        exif=exif,
        preprocessing=preprocessing,
        kind=kind,
    )
    if classifier.kind == "raw":
        raise ValueError(
            f"model={classifier.name!r} gives numbers that are not probabilities; evaluating needs a softmax or sigmoid"
        )
    binary = classifier.classes == 1
    classes = 2 if binary else classifier.classes
    known = labels if labels is not None or binary else classifier.labels
    if known is not None:
        known = class_names(known, classes)
    positions, names = match_classes(listing.classes, known, classes)
    if limit is not None and limit < len(listing):
        listing = listing.select(np.arange(limit) * len(listing) // limit)
    targets = positions[listing.labels]
    most = 0 if strict else default_skip_limit(len(listing)) if skip_limit is None else skip_limit

    started = time.monotonic()
    skipped: list[tuple[str, str]] = []
    kept: list[int] = []
    parts: list[np.ndarray] = []
    every: list[np.ndarray] = []  # the scores themselves, where measures need them all
    with Bar("Evaluating", len(listing), console or Console(quiet=True), unit="images") as bar:
        for indices, images in _batches(listing, classifier, batch_size, most, skipped):
            scores = classifier.scores(images)
            _check_scores(scores, [listing.name(i) for i in indices], classifier)
            kept += indices
            if classifier.kind == "multi":
                every.append(scores)
            parts.append(_summary(np.hstack([1 - scores, scores]) if binary else scores, targets[indices]))
            bar.update(len(kept) + len(skipped))
    if not kept:
        raise ValueError(f"none of {len(listing)} images can be read; the first: {': '.join(skipped[0])}")
    predictions, confidences, ranks, likelihoods = np.concatenate(parts, axis=1)
    loss = float(np.mean(-np.log(np.maximum(likelihoods, SMALLEST))))
    label_scores: LabelScores | None = None
    if every:
        scores = np.concatenate(every)
        truths = targets[kept][:, None] == (np.ones(1) if binary else np.arange(classes))
        label_scores, loss = score_labels(scores, truths), binary_cross_entropy(scores, truths)
    pixels = listing.select(kept)
    true, predicted = targets[kept], predictions.astype("int64")
    return Evaluation(
        classifier=classifier,
        classes=tuple(names),
        images=Listing(pixels.files, true, tuple(names), pixels.spans),
        skipped=tuple(skipped),
        predictions=predicted,
        confidences=confidences.astype("float32"),
        top1=float(np.mean(ranks == 0)),
        top5=float(np.mean(ranks < 5)),
        loss=loss,
        confusion=confusion_matrix(true, predicted, classes),
        bins=calibration_bins(confidences, predicted == true),
        seconds=time.monotonic() - started,
        label_scores=label_scores,
    )


def _read_validation(data: str | os.PathLike[str]) -> Listing:
    """Of a folder with a part to train and one to validate on the latter, with the classes of both."""
    place, beside = find_splits(data)
    return read_listing(data) if beside is None else read_listing(beside, read_listing(place).classes)


def _batches(
    listing: Listing, classifier: Classifier, batch_size: int, most: int, skipped: list[tuple[str, str]]
) -> Iterator[tuple[list[int], np.ndarray]]:
    """(indices, images) of readable images, the last batch perhaps smaller; the others are added to `skipped`."""
    indices: list[int] = []
    images: list[np.ndarray] = []
    with closing(_read_ahead(len(listing), lambda i: classifier.read(listing.read(i)), 2 * batch_size)) as pixels:
        for i, image in enumerate(pixels):
            if isinstance(image, np.ndarray):
                indices.append(i)
                images.append(image)
            else:
                skipped.append((listing.name(i), str(image).removeprefix("image=bytes ")))
                told = f"image {skipped[-1][0]!r} {skipped[-1][1]}"
                if not most:
                    raise ValueError(told)
                if len(skipped) > most:
                    raise ValueError(
                        f"{len(skipped)} of the first {i + 1} images cannot be read, more than the {most} that are "
                        f"passed over; the last: {told}"
                    )
            if len(images) == batch_size:
                yield indices, np.stack(images)
                indices, images = [], []
    if images:
        yield indices, np.stack(images)


def _read_ahead(
    count: int, read: Callable[[int], np.ndarray], ahead: int
) -> Generator[np.ndarray | Exception, None, None]:
    """`read` of 0, 1, …, in this order, computed in threads; at most `ahead` results wait."""
    waiting: deque[Any] = deque()
    with ThreadPoolExecutor() as pool:
        try:
            for i in range(count):
                waiting.append(pool.submit(_try, lambda i=i: read(i)))  # type: ignore[misc]
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _try(read: Callable[[], np.ndarray]) -> np.ndarray | Exception:
    try:
        return read()
    except (ValueError, OSError) as error:
        return error


def _check_scores(scores: np.ndarray, names: Sequence[str], classifier: Classifier) -> None:
    bad = np.flatnonzero(~((scores >= -1e-3) & (scores <= 1 + 1e-3)).all(axis=1))
    if len(bad):
        row = scores[bad[0]]
        worst = int(np.argmax(~((row >= -1e-3) & (row <= 1 + 1e-3))))
        raise ValueError(
            f"model={classifier.name!r} gives {row[worst]} for class {worst} of image {names[bad[0]]!r}; it must "
            "give probabilities, 0 to 1"
        )


def _summary(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """What is kept of probabilities (n, classes): float64 (4, n) prediction, its probability, the true class's rank
    from 0 and probability."""
    rows = np.arange(len(scores))
    best = scores.argmax(axis=1)
    return np.stack([best, scores[rows, best], rank_of(scores, targets), scores[rows, targets]]).astype("float64")
