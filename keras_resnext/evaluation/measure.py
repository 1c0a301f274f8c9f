"""How good a classifier is on labelled images, in whatever format it comes."""

import csv
import io
import json
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..classifier import Classifier, Model, open_classifier
from ..data import Listing, default_skip_limit, find_splits, read_listing
from ..files import placed_whole
from ..labels import class_names, match_classes
from .metrics import calibration_bins, calibration_error, confusion_matrix, most_confused, rank_of

SMALLEST = 1e-7  # probabilities below count as this in the loss, as in Keras; integers give zeros
PAIRS = 20


@dataclass(frozen=True)
class Evaluation:
    """How a classifier does on labelled images.

    Attributes:
        classifier: what was asked, and how its images were prepared.
        classes: names, in the order of the model's outputs.
        images: those that were classified, labelled with indices into `classes`.
        skipped: what could not be read: (image, why).
        predictions: int64 (n,), the class of the highest probability.
        confidences: float32 (n,), that probability.
        top1, top5: share of images whose class has the highest, or one of the five highest probabilities; among equal
            ones the class with the lower number comes first.
        loss: cross-entropy, mean of -ln p(true class), with p of at least 1e-7.
        confusion: int64 (classes, classes), images by true (row) and predicted (column) class.
        bins: float64 (15, 3), for each range of confidence how many images, their mean confidence and accuracy.
        seconds: for reading and classifying.
    """

    classifier: Classifier
    classes: tuple[str, ...]
    images: Listing
    skipped: tuple[tuple[str, str], ...]
    predictions: np.ndarray
    confidences: np.ndarray
    top1: float
    top5: float
    loss: float
    confusion: np.ndarray
    bins: np.ndarray
    seconds: float

    @property
    def n(self) -> int:
        """How many images were classified."""
        return len(self.images)

    @property
    def per_class(self) -> np.ndarray:
        """float64 (classes,): top-1 accuracy on the images of each class; NaN for a class without any."""
        with np.errstate(invalid="ignore"):
            return self.confusion.diagonal() / self.confusion.sum(1)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error, 0..1, as in `metrics.calibration_error`."""
        return calibration_error(self.bins)

    @property
    def confused(self) -> list[tuple[int, int, int]]:
        """The most confused pairs of classes: (true, predicted, how many images), most first."""
        return most_confused(self.confusion, PAIRS)

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Writes the results into a folder, made where it is missing: each file appears whole, replacing an older one.

        `evaluation.json`: everything as numbers. `per_class.csv`, `confusion.csv`: tables of all classes.
        `confusion.png`, `calibration.png`, `confused_pairs.png` with examples: the same to look at.

        Raises:
            OSError: the disk refuses.
        """
        from . import plots as plots

        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        pairs = [
            (self.classes[true], self.classes[predicted], count, list(self._examples(true, predicted)))
            for true, predicted, count in self.confused[: plots.PAIRS]
        ]
        matrix = [[name, *row] for name, row in zip(self.classes, self.confusion.tolist(), strict=True)]
        contents = {
            "confusion.csv": _csv([["true \\ predicted", *self.classes], *matrix]),
            "per_class.csv": _csv([["class", "name", "images", "correct", "accuracy", "precision"], *self._rows()]),
            "confusion.png": plots.draw_confusion(self.confusion, self.classes),
            "calibration.png": plots.draw_calibration(self.bins),
            "confused_pairs.png": plots.draw_confused_pairs(pairs),
            "evaluation.json": (json.dumps(self.facts(), indent=2) + "\n").encode(),
        }
        for name, content in contents.items():
            with placed_whole(folder / name) as aside:
                aside.write_bytes(content)
        return folder

    def facts(self) -> dict[str, Any]:
        """All but the single images and the matrix, as JSON has it; null for the accuracy of a class without any."""
        return {
            "model": self.classifier.name,
            "runtime": self.classifier.runtime,
            "size": self.classifier.size,
            "resize": self.classifier.resize,
            "interpolation": self.classifier.interpolation,
            "n": self.n,
            "top1": self.top1,
            "top5": self.top5,
            "loss": self.loss,
            "calibration_error": self.calibration_error,
            "calibration_bins": self.bins.tolist(),
            "seconds": self.seconds,
            "classes": self.classes,
            "per_class": [None if np.isnan(share) else share for share in self.per_class.tolist()],
            "confused": [(self.classes[t], self.classes[p], count) for t, p, count in self.confused],
            "skipped": self.skipped,
        }

    def _rows(self) -> Iterator[list[Any]]:
        images, predicted = self.confusion.sum(1).tolist(), self.confusion.sum(0).tolist()
        for i, (name, correct) in enumerate(zip(self.classes, self.confusion.diagonal().tolist(), strict=True)):
            shares = [f"{correct / whole:.6f}" if whole else "" for whole in (images[i], predicted[i])]
            yield [i, name, images[i], correct, *shares]

    def _examples(self, true: int, predicted: int) -> Iterator[tuple[np.ndarray, float]]:
        """Images of one class taken for the other, as the model sees them, with its confidence, surest first."""
        from .plots import EXAMPLES

        members = np.flatnonzero((self.images.labels == true) & (self.predictions == predicted))
        for i in members[np.argsort(-self.confidences[members], kind="stable")][:EXAMPLES].tolist():
            image = _try(lambda i=i: self.classifier.read(self.images.read(i)))  # type: ignore[misc]
            if isinstance(image, np.ndarray):  # the file may be gone meanwhile
                yield image, float(self.confidences[i])


def evaluate(
    model: Model,
    data: str | os.PathLike[str] | Listing,
    *,
    labels: Sequence[str] | None = None,
    batch_size: int = 32,
    image_size: int | None = None,
    resize: int | None = None,
    interpolation: str | None = None,
    limit: int | None = None,
    strict: bool = False,
    skip_limit: int | None = None,
    console: Console | None = None,
) -> Evaluation:
    """Classifies labelled images and tells how well.

    Images are read in threads ahead of the model, a few batches at a time. How the classes of the data and of the
    model belong together: `classifier.match_classes`.

    Args:
        model: a Keras model, the path of one, of a PyTorch checkpoint or of an export, as in
            `runtimes.open_classifier`.
        data: a folder with a folder of images a class, a list or TFRecords, as in `data.read_listing`; of one with
            train and val, as in `data.find_splits`, the latter.
        labels: names of the model's classes in order; default those that a SavedModel records, or that training wrote
            beside the model, labels.txt.
        batch_size: images at once.
        image_size, resize, interpolation: as in `runtimes.open_classifier`.
        limit: at most so many images, evenly chosen.
        strict: whether the first image that cannot be read is an error.
        skip_limit: how many of them are passed over otherwise; default a hundredth of all, at least one.
        console: where to show progress, if it is a terminal.

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
    classifier = open_classifier(model, image_size=image_size, resize=resize, interpolation=interpolation)
    known = classifier.labels if labels is None else labels
    if known is not None:
        known = class_names(known, classifier.classes)
    positions, names = match_classes(listing.classes, known, classifier.classes)
    if limit is not None and limit < len(listing):
        listing = listing.select(np.arange(limit) * len(listing) // limit)
    targets = positions[listing.labels]
    most = 0 if strict else default_skip_limit(len(listing)) if skip_limit is None else skip_limit

    started = time.monotonic()
    skipped: list[tuple[str, str]] = []
    kept: list[int] = []
    parts: list[np.ndarray] = []
    with _progress(console, len(listing)) as advance:
        for indices, images in _batches(listing, classifier, batch_size, most, skipped):
            scores = classifier.classify(images)
            _check_scores(scores, [listing.name(i) for i in indices], classifier)
            kept += indices
            parts.append(_summary(scores, targets[indices]))
            advance(len(kept) + len(skipped))
    if not kept:
        raise ValueError(f"none of {len(listing)} images can be read; the first: {': '.join(skipped[0])}")
    predictions, confidences, ranks, likelihoods = np.concatenate(parts, axis=1)
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
        loss=float(np.mean(-np.log(np.maximum(likelihoods, SMALLEST)))),
        confusion=confusion_matrix(true, predicted, classifier.classes),
        bins=calibration_bins(confidences, predicted == true),
        seconds=time.monotonic() - started,
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


class _progress:  # noqa: N801  a context manager
    """A bar with rate and time left on a terminal; called with how many images are done."""

    def __init__(self, console: Console | None, total: int) -> None:
        self.started = time.monotonic()
        self.bar = Progress(
            TextColumn("[bold]Evaluating"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            disable=console is None or not console.is_terminal,
            transient=True,
        )
        self.task = self.bar.add_task("", total=total, rate="")

    def __enter__(self) -> Callable[[int], None]:
        self.bar.start()
        return self.advance

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def advance(self, done: int) -> None:
        rate = done / max(time.monotonic() - self.started, 1e-9)
        self.bar.update(self.task, completed=done, rate=f"{rate:.0f} images/s")


def _csv(rows: Sequence[Sequence[Any]]) -> bytes:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue().encode()
