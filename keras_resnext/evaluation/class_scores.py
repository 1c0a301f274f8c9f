"""How good scores are where one class of an image is right."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .metrics import calibration_bins, calibration_error, confusion_matrix, most_confused, rank_of

PAIRS = 20
SMALLEST = 1e-7  # probabilities below count as this in the loss, as in Keras; integers give zeros


@dataclass(frozen=True)
class ClassScores:
    """Measures of images that have one class each.

    Attributes:
        predictions: int64 (n,), the class of the highest probability; with two classes told apart by one probability,
            the second where that is above the threshold.
        confidences: float32 (n,), the probability of that class.
        top1, top5: share of images whose class is predicted, or has one of the five highest probabilities; among equal
            ones the class with the lower number comes first.
        loss: cross-entropy, mean of -ln p(true class), with p of at least 1e-7.
        confusion: int64 (classes, classes), images by true (row) and predicted (column) class.
        bins: float64 (15, 3), for each range of confidence how many images, their mean confidence and accuracy.
        losses: float64 (n,), the cross-entropy of each image.
    """

    predictions: np.ndarray
    confidences: np.ndarray
    top1: float
    top5: float
    loss: float
    confusion: np.ndarray
    bins: np.ndarray
    losses: np.ndarray

    @property
    def per_class(self) -> np.ndarray:
        """float64 (classes,): top-1 accuracy on the images of each class, its recall; NaN for a class without any."""
        with np.errstate(invalid="ignore"):
            return self.confusion.diagonal() / self.confusion.sum(1)

    @property
    def precision(self) -> np.ndarray:
        """float64 (classes,): the share of right ones among those predicted as each class; NaN for none."""
        with np.errstate(invalid="ignore"):
            return self.confusion.diagonal() / self.confusion.sum(0)

    @property
    def f1(self) -> np.ndarray:
        """float64 (classes,): 2 TP / (2 TP + FP + FN); NaN for a class that neither occurs nor is predicted."""
        with np.errstate(invalid="ignore"):
            return 2 * self.confusion.diagonal() / (self.confusion.sum(0) + self.confusion.sum(1))

    @property
    def macro_f1(self) -> float:
        """The mean F1 over the classes that occur."""
        return float(self.f1[self.confusion.sum(1) > 0].mean())

    @property
    def calibration_error(self) -> float:
        """Expected calibration error, 0..1, as in `metrics.calibration_error`."""
        return calibration_error(self.bins)

    @property
    def confused(self) -> list[tuple[int, int, int]]:
        """The most confused pairs of classes: (true, predicted, how many images), most first."""
        return most_confused(self.confusion, PAIRS)

    def facts(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """All but the single images and the matrix, as JSON has it; null for the accuracy of a class without any."""
        return {
            "top1": self.top1,
            "top5": self.top5,
            "macro_f1": self.macro_f1,
            "calibration_error": self.calibration_error,
            "calibration_bins": self.bins.tolist(),
            "per_class": [None if np.isnan(share) else share for share in self.per_class.tolist()],
            "confused": [(classes[t], classes[p], count) for t, p, count in self.confused],
        }

    def table(self, classes: tuple[str, ...]) -> list[list[Any]]:
        """Rows of per_class.csv, the first with the names of the columns."""
        images, predicted = self.confusion.sum(1).tolist(), self.confusion.sum(0).tolist()
        rows: list[list[Any]] = [["class", "name", "images", "correct", "accuracy", "precision", "f1"]]
        for i, (name, correct) in enumerate(zip(classes, self.confusion.diagonal().tolist(), strict=True)):
            pairs = ((correct, images[i]), (correct, predicted[i]), (2 * correct, images[i] + predicted[i]))
            shares = [f"{part / whole:.6f}" if whole else "" for part, whole in pairs]
            rows.append([i, name, images[i], correct, *shares])
        return rows


def summarise(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """What `score_classes` needs of probabilities (n, classes), which may be many: float64 (4, n).

    Prediction, its probability, the true class's rank from 0, and its probability.
    """
    rows = np.arange(len(scores))
    best = scores.argmax(axis=1)
    return np.stack([best, scores[rows, best], rank_of(scores, targets), scores[rows, targets]]).astype("float64")


def summarise_binary(scores: np.ndarray, targets: np.ndarray, threshold: float) -> np.ndarray:
    """The same of probabilities of the second of two classes, (n,)."""
    predicted = scores > threshold
    both = np.stack([1 - scores, scores])
    rows = np.arange(len(scores))
    return np.stack(
        [predicted, both[predicted.astype(int), rows], predicted != targets, both[targets, rows]],
    ).astype("float64")


def score_classes(summary: np.ndarray, targets: np.ndarray, classes: int) -> ClassScores:
    """Measures what `summarise` kept against int64 (n,)."""
    predictions, confidences, ranks, likelihoods = summary
    predicted = predictions.astype("int64")
    losses = -np.log(np.maximum(likelihoods, SMALLEST))
    return ClassScores(
        predictions=predicted,
        confidences=confidences.astype("float32"),
        top1=float(np.mean(ranks == 0)),
        top5=float(np.mean(ranks < 5)),
        loss=float(np.mean(losses)),
        confusion=confusion_matrix(targets, predicted, classes),
        bins=calibration_bins(confidences, predicted == targets),
        losses=losses,
    )
