"""What an evaluation found, as numbers, tables and images."""

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..classifier import Classifier
from ..data import Listing
from ..files import placed_whole
from . import plots
from .label_scores import LabelScores
from .metrics import calibration_error, most_confused

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
        loss: cross-entropy, mean of -ln p(true class), with p of at least 1e-7; where each label has a probability of
            its own, the mean over labels too of -ln p for what is true and -ln(1 - p) for what is not.
        confusion: int64 (classes, classes), images by true (row) and predicted (column) class.
        bins: float64 (15, 3), for each range of confidence how many images, their mean confidence and accuracy.
        seconds: for reading and classifying.
        label_scores: measures of each label by itself, where each has a probability of its own; else None.
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
    label_scores: LabelScores | None = None

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
            "kind": self.classifier.kind,
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
            **({} if self.label_scores is None else {"labels": self.label_scores.facts()}),
        }

    def _rows(self) -> Iterator[list[Any]]:
        images, predicted = self.confusion.sum(1).tolist(), self.confusion.sum(0).tolist()
        for i, (name, correct) in enumerate(zip(self.classes, self.confusion.diagonal().tolist(), strict=True)):
            shares = [f"{correct / whole:.6f}" if whole else "" for whole in (images[i], predicted[i])]
            yield [i, name, images[i], correct, *shares]

    def _examples(self, true: int, predicted: int) -> Iterator[tuple[np.ndarray, float]]:
        """Images of one class taken for the other, as the model sees them, with its confidence, surest first."""
        members = np.flatnonzero((self.images.labels == true) & (self.predictions == predicted))
        for i in members[np.argsort(-self.confidences[members], kind="stable")][: plots.EXAMPLES].tolist():
            with suppress(ValueError, OSError):  # the file may be gone meanwhile
                yield self.classifier.read(self.images.read(i)), float(self.confidences[i])


def _csv(rows: Sequence[Sequence[Any]]) -> bytes:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue().encode()
