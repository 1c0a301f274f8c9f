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
from ..data import Listing, as_single, default_skip_limit, find_splits, read_listing
from ..network.input_preprocessing import Given
from ..progress import Bar
from .class_scores import score_classes, summarise, summarise_binary
from .label_scores import THRESHOLD, binary_cross_entropy, score_labels
from .number_scores import score_numbers
from .result import Evaluation
from .temperature import find_temperature
from .truths import fit_labels


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
    tta: str | None = None,
    calibrate: bool = False,
    threshold: float | None = None,
    limit: int | None = None,
    strict: bool = False,
    skip_limit: int | None = None,
    console: Console | None = None,
) -> Evaluation:
    """Classifies labelled images and tells how well.

    Images are read in threads ahead of the model, a few batches at a time. How the classes of the data and of the
    model belong together: `labels.match_classes`.

    What is measured follows from what the model gives (`Classifier.kind`). Classes of which one is right: accuracy,
    cross-entropy, confusion, calibration. A probability for each label: average precision, AUC, precision, recall and
    F1, of each label and together, and if each image has one label, the former too. Numbers: MAE, RMSE and R².

    Args:
        model: a Keras model, the path of one, of a PyTorch checkpoint or of an export, as in
            `classifier.open_classifier`. One that ends in a single sigmoid tells two classes apart, of which the second
            is the one that it gives the probability of.
        data: a folder with a folder of images a class, a list or TFRecords, as in `data.read_listing`; of one with
            train and val, as in `data.find_splits`, the latter. Where each label has a probability of its own, an
            image that is listed with several labels, one a row, has all of them.
        labels: names of the model's classes in order; default those that a SavedModel records, or that training wrote
            beside the model, labels.txt.
        batch_size: images at once.
        image_size, resize, interpolation, exif, preprocessing, kind, tta: as in `classifier.open_classifier`.
        calibrate: also find the temperature (`temperature.calibrate`); all scores are kept in memory for it.
        threshold: above which the probability of a label counts as yes; default 0.5.
        limit: at most so many images, evenly chosen.
        strict: whether the first image that cannot be read is an error.
        skip_limit: how many of them are passed over otherwise; default a hundredth of all, at least one.
        console: where to show progress; default nowhere.

    Raises:
        FileNotFoundError: a path to nothing.
        ValueError: a model that is no classifier of RGB images or gives NaN or, in place of probabilities, other
            numbers; data that cannot be read; labels of another kind than the model's, or classes that do not belong
            together; an argument out of range.
        ImportError: the runtime for the model's format is not installed.
    """
    for name, value in (("batch_size", batch_size), ("limit", limit)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{name}={value!r} must be a positive integer")
    if threshold is not None and not (isinstance(threshold, int | float) and 0 < threshold < 1):
        raise ValueError(f"threshold={threshold!r} must lie between 0 and 1")
    # What is no data needs no model. Of arrays it is known after that whether they are what the model takes.
    listing = data if isinstance(data, Listing) else _read_validation(data, arrays=True)
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
        tta=tta,
    )
    if calibrate and classifier.kind == "raw":
        raise ValueError(f"calibrate=True is for probabilities; model={classifier.name!r} gives numbers")
    if threshold is not None and classifier.kind != "multi":
        raise ValueError(f"threshold={threshold!r} is for sigmoid outputs; model={classifier.name!r} has none")
    rgb = classifier.preprocessing.bands == 3 and not isinstance(data, Listing)
    if rgb and any(listing.name(i).endswith(".npy") for i in range(len(listing))):
        listing = _read_validation(data)  # type: ignore[arg-type]
    listing = fit_labels(listing, classifier, labels)
    if limit is not None and limit < len(listing):
        listing = listing.select(np.arange(limit) * len(listing) // limit)
    most = 0 if strict else default_skip_limit(len(listing)) if skip_limit is None else skip_limit

    started = time.monotonic()
    skipped: list[tuple[str, str]] = []
    kept: list[int] = []
    parts: list[np.ndarray] = []
    everything: list[np.ndarray] = []
    with Bar("Evaluating", len(listing), console or Console(quiet=True), unit="images") as bar:
        for indices, images in _batches(listing, classifier, batch_size, most, skipped):
            scores = classifier.scores(images)
            _check_scores(scores, [listing.name(i) for i in indices], classifier)
            kept += indices
            everything += [scores] if calibrate else []
            # Of thousands of classes only what is needed stays in memory.
            parts.append(summarise(scores, listing.labels[indices]).T if classifier.kind == "single" else scores)
            bar.update(len(kept) + len(skipped))
    if not kept:
        raise ValueError(f"none of {len(listing)} images can be read; the first: {', '.join(skipped[0])}")
    seen = listing.select(kept)
    if seen.kind == "multi" and (seen.labels.sum(1) == 1).all():
        seen = as_single(seen, "")
    return Evaluation(
        classifier=classifier,
        classes=listing.classes,
        images=seen,
        skipped=tuple(skipped),
        seconds=time.monotonic() - started,
        calibration=(
            find_temperature(np.concatenate(everything), listing.labels[kept], classifier.kind) if calibrate else None
        ),
        **_MEASURES[classifier.kind](np.concatenate(parts), seen, THRESHOLD if threshold is None else threshold),
    )


def _measure_classes(summary: np.ndarray, images: Listing, threshold: float) -> dict[str, Any]:
    found = score_classes(summary.T, images.labels, len(images.classes))
    return {"class_scores": found, "loss": found.loss}


def _measure_labels(scores: np.ndarray, images: Listing, threshold: float) -> dict[str, Any]:
    """Of labels; where each image has just one, of classes too."""
    labels, summary = images.labels, None
    if images.kind == "multi":
        truths = labels == 1
    elif scores.shape[1] == 1:  # two classes that one probability tells apart
        truths, summary = labels[:, None] == 1, summarise_binary(scores[:, 0], labels, threshold)
    else:
        truths, summary = labels[:, None] == np.arange(scores.shape[1]), summarise(scores, labels)
    return {
        "scores": scores,
        "label_scores": score_labels(scores, truths, threshold),
        "class_scores": None if summary is None else score_classes(summary, labels, len(images.classes)),
        "loss": binary_cross_entropy(scores, truths),
    }


def _measure_numbers(numbers: np.ndarray, images: Listing, threshold: float) -> dict[str, Any]:
    found = score_numbers(numbers, images.labels)
    return {"scores": numbers, "number_scores": found, "loss": float(found.squared.mean())}


_MEASURES = {"single": _measure_classes, "multi": _measure_labels, "raw": _measure_numbers}


def _read_validation(data: str | os.PathLike[str], arrays: bool = False) -> Listing:
    """Of a folder with a part to train and one to validate on the latter, with the classes of both."""
    place, beside = find_splits(data)
    if beside is None:
        return read_listing(data, arrays=arrays)
    return read_listing(beside, read_listing(place, arrays=arrays).classes, arrays=arrays)


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
    good = np.isfinite(scores) if classifier.kind == "raw" else (scores >= -1e-3) & (scores <= 1 + 1e-3)
    bad = np.flatnonzero(~good.all(axis=1))
    if len(bad):
        worst = int(np.argmin(good[bad[0]]))
        wanted = "numbers" if classifier.kind == "raw" else "probabilities, 0 to 1"
        raise ValueError(
            f"model={classifier.name!r} gives {scores[bad[0], worst]} for class {worst} of image {names[bad[0]]!r}; it "
            f"must give {wanted}"
        )
