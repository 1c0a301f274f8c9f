"""Measures of several labels that add up step by step: mean average precision, accuracy and F1."""

from typing import Any

import keras
from keras import ops

Tensor = Any

REACH = 12.0  # logits from -REACH to REACH are told apart; what is beyond counts as the last
BINS, COUNTS = 1024, 2**17  # that a label has at least, and what all labels have together where they are few


@keras.saving.register_keras_serializable(package="keras_resnext")
class MeanAveragePrecision(keras.metrics.Metric):
    """mAP: the mean, over the labels that occur, of the average precision.

    What `evaluation.label_scores.average_precision` computes, with scores taken as equal that are close as logits, less
    than 0.002 apart for 10 labels and 0.024 for 128 and more: sums of counts alone, so that a run can be resumed and
    processes can share the images.

    Args:
        labels: how many there are.
        from_logits: whether the model gives logits.
    """

    def __init__(self, labels: int, from_logits: bool = False, name: str = "map", **options: Any) -> None:
        super().__init__(name=name, **options)
        self.labels, self.from_logits, self.bins = labels, from_logits, max(BINS, COUNTS // labels)
        self.with_label = self.add_weight(shape=(self.bins, labels), initializer="zeros", name="with_label")
        self.without = self.add_weight(shape=(self.bins, labels), initializer="zeros", name="without")

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        truths = ops.cast(y_true, "float32")
        weights = ops.ones_like(truths[:, :1]) if sample_weight is None else ops.cast(sample_weight, "float32")
        weights = ops.reshape(weights, (-1, 1))
        scores = as_logits(y_pred, self.from_logits)
        place = ops.clip(ops.floor((scores + REACH) / (2 * REACH) * self.bins), 0, self.bins - 1)
        place = ops.reshape(ops.cast(place, "int32") * self.labels + ops.arange(self.labels, dtype="int32"), (-1,))
        for counts, part in ((self.with_label, truths), (self.without, 1 - truths)):
            found = ops.segment_sum(ops.reshape(part * weights, (-1,)), place, self.bins * self.labels)
            counts.assign_add(ops.reshape(found, (self.bins, self.labels)))

    def result(self) -> Tensor:
        gained, passed = ops.flip(self.with_label, axis=0), ops.flip(self.without, axis=0)
        found, before = ops.cumsum(gained, axis=0), ops.cumsum(passed, axis=0)
        precision = found / ops.maximum(found + before, keras.config.epsilon())
        total = ops.sum(gained, axis=0)
        each = ops.sum(gained * precision, axis=0) / ops.maximum(total, keras.config.epsilon())
        known = ops.cast(total > 0, "float32")
        return ops.sum(each * known) / ops.maximum(ops.sum(known), 1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "labels": self.labels, "from_logits": self.from_logits}


@keras.saving.register_keras_serializable(package="keras_resnext")
class MicroF1(keras.metrics.F1Score):
    """F1 of all labels' counts together, a probability above one half counting as yes.

    Args:
        from_logits: whether the model gives logits.
    """

    def __init__(self, from_logits: bool = False, name: str = "f1", **options: Any) -> None:
        super().__init__(**{"average": "micro", "threshold": 0.5, **options, "name": name})
        self.from_logits = from_logits

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        y_pred = ops.sigmoid(y_pred) if self.from_logits else y_pred
        super().update_state(y_true, y_pred, sample_weight)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "from_logits": self.from_logits}


def label_accuracy(y_true: Tensor, y_pred: Tensor, from_logits: bool = False) -> Tensor:
    """The share of each image's labels that is answered rightly, a probability above one half counting as yes: (n,)."""
    right = (y_pred > (0.0 if from_logits else 0.5)) == (y_true > 0.5)
    return ops.mean(ops.cast(right, "float32"), axis=-1)


def as_logits(scores: Tensor, from_logits: bool) -> Tensor:
    """float32 logits of logits or probabilities."""
    scores = ops.cast(scores, "float32")
    if from_logits:
        return scores
    scores = ops.clip(scores, keras.config.epsilon(), 1 - keras.config.epsilon())
    return ops.log(scores) - ops.log(1 - scores)
