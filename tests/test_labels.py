"""Scores become the names of classes, ImageNet's or a model's own."""

import numpy as np
import pytest

from keras_resnext import decode_predictions


def test_own_labels():
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]], "float32")
    rows = decode_predictions(scores, top=2, labels=["cat", "dog", "owl"])
    assert [[row[0] for row in image] for image in rows] == [["dog", "owl"], ["cat", "owl"]]
    assert all(row[0] == row[1] for image in rows for row in image)
    assert rows[0][0][2] == pytest.approx(0.7)
    assert [len(image) for image in decode_predictions(scores, labels=["cat", "dog", "owl"])] == [3, 3]


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2, 3), {}, "the ImageNet classes, or come with labels"),
        ((3,), {"labels": ["a", "b", "c"]}, r"must have shape \(batch, classes\)"),
        ((2, 3), {"labels": ["a", "b"]}, "labels has 2 names; it must have 3"),
        ((2, 3), {"labels": ["a", "b", "c"], "top": 0}, r"top=0 must lie in 1\.\.3"),
        ((2, 1000), {"top": 1001}, r"top=1001 must lie in 1\.\.1000"),
    ],
)
def test_what_does_not_fit(shape, options, message):
    with pytest.raises(ValueError, match=message):
        decode_predictions(np.zeros(shape), **options)
