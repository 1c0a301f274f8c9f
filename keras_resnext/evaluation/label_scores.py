"""How good scores are where each label has a probability of its own, in NumPy."""

from dataclasses import dataclass
from typing import Any

import numpy as np

THRESHOLD = 0.5
SMALLEST = 1e-7  # of p and 1 - p in the loss, as in Keras


@dataclass(frozen=True)
class LabelScores:
    """Measures of each label by itself; NaN for a label of which the data has no image, or nothing else.

    Attributes:
        average_precision: float64 (labels,), the mean over the label's images of the precision at each one's place.
        auc: float64 (labels,), area under the ROC curve: the share of pairs of an image with the label and one without
            that are in the right order.
        f1: float64 (labels,), 2 TP / (2 TP + FP + FN), where a score above 0.5 counts as yes.
        micro_f1: the same of all labels' counts together.
    """

    average_precision: np.ndarray
    auc: np.ndarray
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

    def facts(self) -> dict[str, Any]:
        """All of it as JSON has it, null for NaN."""
        single = {name: getattr(self, name) for name in ("mean_average_precision", "mean_auc", "micro_f1", "macro_f1")}
        each = {name: getattr(self, name).tolist() for name in ("average_precision", "auc", "f1")}
        return {
            **{name: None if np.isnan(value) else value for name, value in single.items()},
            **{name: [None if np.isnan(value) else value for value in values] for name, values in each.items()},
        }


def score_labels(scores: np.ndarray, truths: np.ndarray) -> LabelScores:
    """Measures scores (n, labels) on 0..1 against bool (n, labels)."""
    yes = scores > THRESHOLD
    right, wrong = (yes & truths).sum(0), (yes != truths).sum(0)
    with np.errstate(invalid="ignore"):
        f1 = np.where(truths.any(0), 2 * right / (2 * right + wrong), np.nan)
        micro = float(2 * right.sum() / (2 * right.sum() + wrong.sum())) if truths.any() else float("nan")
    columns = list(zip(scores.T, truths.T, strict=True))
    return LabelScores(
        average_precision=np.array([average_precision(*column) for column in columns]),
        auc=np.array([area_under_curve(*column) for column in columns]),
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
    p = np.clip(scores.astype("float64"), SMALLEST, 1 - SMALLEST)
    return float(-np.where(truths, np.log(p), np.log(1 - p)).mean())


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
