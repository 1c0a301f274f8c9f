"""Losses of one class and of several labels, from logits or probabilities, with weights of classes."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

Tensor = Any

TINY = float(np.finfo("float32").tiny)
GAMMA = 2.0  # of the focal loss (arXiv 1708.02002)


@keras.saving.register_keras_serializable(package="keras_resnext")
class CrossEntropy(keras.losses.Loss):
    """Cross-entropy of probabilities or logits with smoothed labels, in nats.

    Keras's own cuts probabilities off at 1e-7 except in TensorFlow's graphs; an image that is hopelessly wrong would
    teach nothing.

    Args:
        label_smoothing: share of the target that is spread over all classes.
        from_logits: whether the model gives logits.
        weights: of the classes, as of `torch.nn.CrossEntropyLoss`, but the mean is over images, not over weights.
        gamma: of the focal loss, 0 for none.
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        from_logits: bool = False,
        weights: Sequence[float] | None = None,
        gamma: float = 0.0,
        name: str = "cross_entropy",
        **options: Any,
    ) -> None:
        super().__init__(name=name, **options)
        self.label_smoothing, self.from_logits, self.weights, self.gamma = label_smoothing, from_logits, weights, gamma

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return cross_entropy(y_true, y_pred, self.label_smoothing, self.from_logits, self.weights, self.gamma)

    def get_config(self) -> dict[str, Any]:
        names = ("label_smoothing", "from_logits", "weights", "gamma")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def cross_entropy(
    targets: Tensor,
    scores: Tensor,
    label_smoothing: float = 0.0,
    from_logits: bool = False,
    weights: Sequence[float] | None = None,
    gamma: float = 0.0,
) -> Tensor:
    """-sum(weight * (1 - p)^gamma * target * log(p)): (n, classes) and (n, classes) to (n,)."""
    scores = ops.cast(scores, "float32")
    targets = ops.cast(targets, "float32") * (1 - label_smoothing) + label_smoothing / scores.shape[-1]
    logarithms = ops.log_softmax(scores, axis=-1) if from_logits else ops.log(ops.maximum(scores, TINY))
    if gamma:
        targets = targets * (1 - ops.exp(logarithms)) ** gamma
    if weights is not None:
        targets = targets * ops.convert_to_tensor(weights, "float32")
    return -ops.sum(targets * logarithms, axis=-1)


@keras.saving.register_keras_serializable(package="keras_resnext")
class BinaryCrossEntropy(keras.losses.Loss):
    """A yes or no for each label: binary cross-entropy of logits or probabilities, in nats.

    As timm's `BinaryCrossEntropy` on targets that are mixed and smoothed, which are those of `label_targets`.

    Args:
        label_smoothing: see `label_targets`.
        from_logits: whether the model gives logits. Of probabilities, a wrong one that rounds to 1 teaches nothing.
        weights: of the labels, each times its positive term, as `pos_weight` of PyTorch and timm.
        gamma: of the focal loss, 0 for none; 2 is `keras.losses.BinaryFocalCrossentropy`.
        one_of: whether one label is right, which the smoothing depends on.
        threshold: mixed targets above it count as 1 and others as 0 (timm's `target_threshold`); None: as they are.
        summed: whether the labels' losses are added; else their mean counts.
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        from_logits: bool = False,
        weights: Sequence[float] | None = None,
        gamma: float = 0.0,
        one_of: bool = False,
        threshold: float | None = None,
        summed: bool = False,
        name: str = "binary_cross_entropy",
        **options: Any,
    ) -> None:
        super().__init__(name=name, **options)
        self.label_smoothing, self.from_logits, self.weights, self.gamma = label_smoothing, from_logits, weights, gamma
        self.one_of, self.threshold, self.summed = one_of, threshold, summed

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        targets = label_targets(y_true, self.label_smoothing, self.one_of, self.threshold)
        terms = binary_terms(targets, y_pred, self.from_logits, self.weights, self.gamma)
        return ops.sum(terms, axis=-1) if self.summed else ops.mean(terms, axis=-1)

    def get_config(self) -> dict[str, Any]:
        names = ("label_smoothing", "from_logits", "weights", "gamma", "one_of", "threshold", "summed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def label_targets(targets: Tensor, smoothing: float, one_of: bool, threshold: float | None) -> Tensor:
    """What a binary loss aims at, as timm has it (loss/binary_cross_entropy.py and data/mixup.py).

    Where one class is right, smoothing is spread over all classes, else each label moves towards one half; a threshold
    comes last and undoes a smoothing below it.
    """
    targets = ops.cast(targets, "float32")
    if smoothing:
        targets = targets * (1 - smoothing) + smoothing / (targets.shape[-1] if one_of else 2)
    return targets if threshold is None else ops.cast(targets > threshold, "float32")


def binary_terms(
    targets: Tensor,
    scores: Tensor,
    from_logits: bool = False,
    weights: Sequence[float] | None = None,
    gamma: float = 0.0,
) -> Tensor:
    """The loss of each label: (n, labels) and (n, labels) to (n, labels)."""
    scores = ops.cast(scores, "float32")
    if from_logits:
        yes, no = ops.log_sigmoid(scores), ops.log_sigmoid(-scores)
    else:
        yes, no = ops.log(ops.maximum(scores, TINY)), ops.log(ops.maximum(1 - scores, TINY))
    positive, negative = targets * yes, (1 - targets) * no
    if gamma:
        off = targets * ops.exp(no) + (1 - targets) * ops.exp(yes)
        positive, negative = positive * off**gamma, negative * off**gamma
    if weights is not None:
        positive = positive * ops.convert_to_tensor(weights, "float32")
    return -(positive + negative)
