"""What predictions are worth: ranks, confusion and calibration, in NumPy."""

import numpy as np

BINS = 15


def rank_of(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes come before the true one, int64 (n,): higher scores, or equal ones with a lower number.

    So rank 0 is exactly `scores.argmax(1) == labels`, also where integers give many equal scores.

    Args:
        scores: (n, classes).
        labels: int (n,).
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    before = np.arange(scores.shape[1]) < labels[:, None]
    return ((scores > own) | ((scores == own) & before)).sum(axis=1)


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """int64 (classes, classes): how many images of each class (row) were taken for each (column)."""
    counts = np.bincount(labels * classes + predictions, minlength=classes**2)
    return counts.reshape(classes, classes).astype("int64")


def most_confused(confusion: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """Up to `count` pairs (true, predicted, images) off the diagonal, most first; equal ones by class."""
    off = confusion * ~np.eye(len(confusion), dtype=bool)
    true, predicted = np.nonzero(off)
    order = np.argsort(-off[true, predicted], kind="stable")[:count]
    return [(int(true[i]), int(predicted[i]), int(off[true[i], predicted[i]])) for i in order]


def calibration_bins(confidences: np.ndarray, correct: np.ndarray, bins: int = BINS) -> np.ndarray:
    """float64 (bins, 3): images, mean confidence and accuracy of those with confidence in ((m - 1) / bins, m / bins].

    Args:
        confidences: (n,), probability of the predicted class, 0..1.
        correct: bool (n,).
        bins: how many ranges of equal width; confidence and accuracy of an empty one are 0.
    """
    place = np.clip(np.ceil(np.asarray(confidences, "float64") * bins).astype("int64") - 1, 0, bins - 1)
    count, confidence, right = (
        np.bincount(place, weights, minlength=bins) for weights in (np.ones(len(place)), confidences, correct)
    )
    return np.stack([count, confidence / np.maximum(count, 1), right / np.maximum(count, 1)], axis=1)


def calibration_error(bins: np.ndarray) -> float:
    """Expected calibration error, 0..1: sum over bins B of |B| / n * |accuracy(B) - confidence(B)|.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3, with 15 bins.
    """
    count, confidence, accuracy = bins.T
    return float((count * np.abs(accuracy - confidence)).sum() / count.sum())
