"""Ranks, confusion and calibration, their images, and which class of the model a class of the data is."""

import numpy as np
import pytest

from keras_resnext.evaluation.metrics import (
    calibration_bins,
    calibration_error,
    confusion_matrix,
    most_confused,
    rank_of,
)
from keras_resnext.evaluation.plots import draw_calibration, draw_confused_pairs, draw_confusion
from keras_resnext.labels import imagenet_ids, imagenet_labels, match_classes


@pytest.mark.parametrize(
    ("found", "known", "classes", "positions", "names"),
    [
        (["b", "a"], None, 2, [0, 1], ["b", "a"]),
        (["b", "a"], ["a", "b", "c"], 3, [1, 0], ["a", "b", "c"]),
        (["2", "0"], None, 3, [2, 0], ["0", "1", "2"]),
        (["0", "1", "10", "2"], None, 4, [0, 1, 2, 3], ["0", "1", "10", "2"]),  # as torchvision's ImageFolder
        (["n01443537", "n01440764"], None, 1000, [1, 0], imagenet_labels()),
        (["n01443537", "n01440764"], imagenet_labels(), 1000, [1, 0], imagenet_labels()),
        (["goldfish"], None, 1000, [1], imagenet_labels()),
        (sorted(imagenet_ids()), None, 1000, list(range(1000)), imagenet_labels()),
        ([f"{i:04}" for i in range(1000)], None, 1000, list(range(1000)), [f"{i:04}" for i in range(1000)]),
    ],
)
def test_classes_match(
    found: list[str], known: list[str] | None, classes: int, positions: list[int], names: list[str]
) -> None:
    actual, named = match_classes(found, known, classes)
    assert (actual.tolist(), named) == (positions, names)


@pytest.mark.parametrize(
    ("found", "known", "classes", "message"),
    [
        (["cat", "cow"], ["cat", "dog"], 2, "classes 'cow' are not among the model's 2: 'cat', 'dog'"),
        (["a", "b"], None, 3, r"2 classes \('a', 'b'\) and the model 3, of unknown names"),
        (["a", "b", "c"], None, 2, "3 classes .* and the model 2"),
        (["0", "3"], None, 3, "2 classes"),
        (["a", "b"], ["a", "a", "b"], 3, "'a' is the name of more than one class"),
    ],
)
def test_classes_that_do_not_match(found: list[str], known: list[str] | None, classes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        match_classes(found, known, classes)


def test_ranks_follow_the_prediction_where_scores_are_equal() -> None:
    scores = np.random.default_rng(0).integers(0, 4, (200, 7)).astype("float32")
    labels = np.random.default_rng(1).integers(0, 7, 200)
    ranks = [np.argsort(-row, kind="stable").tolist().index(label) for row, label in zip(scores, labels, strict=True)]
    assert rank_of(scores, labels).tolist() == ranks
    assert ((rank_of(scores, labels) == 0) == (scores.argmax(1) == labels)).all()


def test_calibration_of_the_perfect_and_the_overconfident() -> None:
    confidences, correct = np.repeat([0.2, 1.0], [10, 10]), np.array([True] * 2 + [False] * 8 + [True] * 10)
    assert calibration_error(calibration_bins(confidences, correct)) == pytest.approx(0)
    assert calibration_error(calibration_bins(np.ones(10), np.arange(10) < 3)) == pytest.approx(0.7)
    edges = calibration_bins(np.array([0.0, 1 / 15, 1 / 15 + 1e-9, 1.0]), np.ones(4))[:, 0]
    assert edges[[0, 1, 14]].tolist() == [2, 1, 1]  # (0, 1/15], (1/15, 2/15], …


def test_most_confused_pairs() -> None:
    labels, predicted = np.array([0, 0, 0, 1, 1, 2, 2]), np.array([1, 1, 0, 2, 1, 0, 0])
    confusion = confusion_matrix(labels, predicted, 3)
    assert confusion.tolist() == [[1, 2, 0], [0, 1, 1], [2, 0, 0]]
    assert most_confused(confusion, 2) == [(0, 1, 2), (2, 0, 2)]
    assert most_confused(confusion, 9)[2:] == [(1, 2, 1)]


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_images_of_any_number_of_classes(classes: int) -> None:
    confusion = np.eye(classes, dtype="int64") * 3
    assert draw_confusion(confusion, ["$a$ long name in 日本語 \\frac"] * classes).startswith(b"\x89PNG")


def test_images_without_mistakes() -> None:
    assert draw_confused_pairs([]).startswith(b"\x89PNG")
    assert draw_calibration(calibration_bins(np.ones(3), np.ones(3))).startswith(b"\x89PNG")
