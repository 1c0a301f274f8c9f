"""Measures of labels that have a probability of their own equal what plain loops over their definitions give."""

import numpy as np
import pytest

from keras_resnext.evaluation.label_scores import area_under_curve, average_precision, score_labels


def test_against_plain_loops() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 8, (50, 4)) / 8  # many are equal
    truths = rng.random((50, 4)) < scores
    found = score_labels(scores, truths)
    for label in range(4):
        s, t = scores[:, label], truths[:, label]
        pairs = [(a > b) + 0.5 * (a == b) for a in s[t] for b in s[~t]]
        assert found.auc[label] == pytest.approx(np.mean(pairs))
        precision = [t[s >= score].mean() for score in s[t]]
        assert found.average_precision[label] == pytest.approx(np.mean(precision))
        hits, said, there = (t & (s > 0.5)).sum(), (s > 0.5).sum(), t.sum()
        assert found.f1[label] == pytest.approx(2 * hits / (said + there))
    yes = scores > 0.5
    assert found.micro_f1 == pytest.approx(2 * (yes & truths).sum() / (yes.sum() + truths.sum()))
    assert found.macro_f1 == pytest.approx(found.f1.mean())
    assert found.mean_average_precision == pytest.approx(found.average_precision.mean())


def test_a_perfect_and_a_reversed_order() -> None:
    scores, truths = np.array([0.1, 0.4, 0.6, 0.9]), np.array([False, False, True, True])
    assert (area_under_curve(scores, truths), average_precision(scores, truths)) == (1, 1)
    assert area_under_curve(-scores, truths) == 0


def test_labels_without_images_are_left_out() -> None:
    found = score_labels(np.array([[0.9, 0.2], [0.1, 0.3]]), np.array([[True, False], [False, False]]))
    assert (found.mean_average_precision, found.macro_f1, found.mean_auc) == (1, 1, 1)
    assert found.facts()["auc"] == [1.0, None]
