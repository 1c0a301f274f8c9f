"""How good scores are where each label has a probability of its own, in NumPy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

THRESHOLD = 0.5
SMALLEST = 1e-7  # of p and 1 - p in the loss, as in Keras


@dataclass(frozen=True)
class LabelScores:
    """Measures of each label by itself; NaN for a label of which the data has no image, or nothing else.

    A score above the threshold counts as yes.

    Attributes:
        threshold: between 0 and 1.
        images: int64 (labels,), how many images have each label.
        average_precision: float64 (labels,), the mean over the label's images of the precision at each one's place.
        auc: float64 (labels,), area under the ROC curve: the share of pairs of an image with the label and one without
            that are in the right order.
        accuracy: float64 (labels,), the share of images that are answered rightly.
        precision: float64 (labels,), TP / (TP + FP); NaN where no image is said to have the label.
        recall: float64 (labels,), TP / (TP + FN).
        f1: float64 (labels,), 2 TP / (2 TP + FP + FN).
        micro_f1: the same of all labels' counts together.
    """

    threshold: float
    images: np.ndarray
    average_precision: np.ndarray
    auc: np.ndarray
    accuracy: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    micro_f1: float

    @property
    def mean_average_precision(self) -> float:
        """mAP: the mean over the labels that occur."""
        return _mean(self.average_precision)

    @property
    def macro_f1(self) -> float:
        """The mean F1 over the labels that occur."""
        return _mean(self.f1)

    @property
    def mean_auc(self) -> float:
        """The mean over the labels of which there are images with and without."""
        return _mean(self.auc)

    @property
    def mean_accuracy(self) -> float:
        """The share of right answers among all images and labels, as Keras's `BinaryAccuracy`."""
        return float(self.accuracy.mean())

    def facts(self) -> dict[str, Any]:
        """All of it as JSON has it, null for NaN."""
        means = ("mean_average_precision", "mean_auc", "mean_accuracy", "micro_f1", "macro_f1")
        single = {name: getattr(self, name) for name in means}
        each = {name: getattr(self, name).tolist() for name in EACH}
        return {
            "threshold": self.threshold,
            **{name: None if np.isnan(value) else value for name, value in single.items()},
            "images": self.images.tolist(),
            **{name: [None if np.isnan(value) else value for value in values] for name, values in each.items()},
        }

    def table(self, labels: Sequence[str]) -> list[list[Any]]:
        """Rows of per_label.csv, the first with the names of the columns."""
        columns = zip(*(getattr(self, name).tolist() for name in EACH), strict=True)
        rows = [
            [i, labels[i], int(self.images[i]), *("" if np.isnan(value) else f"{value:.6f}" for value in values)]
            for i, values in enumerate(columns)
        ]
        return [["label", "name", "images", *EACH], *rows]


EACH = ("average_precision", "auc", "accuracy", "precision", "recall", "f1")  # in the order of tables


def score_labels(scores: np.ndarray, truths: np.ndarray, threshold: float = THRESHOLD) -> LabelScores:
    """Measures scores (n, labels) on 0..1 against bool (n, labels)."""
    yes = scores > threshold
    right, wrong, said, images = (yes & truths).sum(0), (yes != truths).sum(0), yes.sum(0), truths.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = right / said, right / images
        f1 = np.where(truths.any(0), 2 * right / (2 * right + wrong), np.nan)
        micro = float(2 * right.sum() / (2 * right.sum() + wrong.sum())) if truths.any() else float("nan")
    columns = list(zip(scores.T, truths.T, strict=True))
    return LabelScores(
        threshold=threshold,
        images=images,
        average_precision=np.array([average_precision(*column) for column in columns]),
        auc=np.array([area_under_curve(*column) for column in columns]),
        accuracy=(yes == truths).mean(0),
        precision=precision,
        recall=recall,
        f1=f1,
        micro_f1=micro,
    )


def average_precision(scores: np.ndarray, truths: np.ndarray) -> float:
    """Sum of (recall gained) * precision over the thresholds, equal scores taken together; scores, truths: (n,)."""
    if not truths.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    found = np.cumsum(truths[order])[ends]
    return float(np.sum(np.diff(found, prepend=0) * found / (ends + 1)) / found[-1])


def area_under_curve(scores: np.ndarray, truths: np.ndarray) -> float:
    """The share of pairs in the right order (Mann and Whitney 1947), equal scores as half; scores, truths: (n,)."""
    with_label, without = int(truths.sum()), int((~truths).sum())
    if not with_label or not without:
        return float("nan")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float((ranks[truths].sum() - with_label * (with_label + 1) / 2) / (with_label * without))


def binary_cross_entropy(scores: np.ndarray, truths: np.ndarray) -> float:
    """Mean over images and labels of -ln p for what is true and -ln(1 - p) for what is not, (n, labels) each."""
    return float(image_cross_entropy(scores, truths).mean())


def image_cross_entropy(scores: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """The same of each image, float64 (n,)."""
    p = np.clip(scores.astype("float64"), SMALLEST, 1 - SMALLEST)
    return -np.where(truths, np.log(p), np.log(1 - p)).mean(1)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
