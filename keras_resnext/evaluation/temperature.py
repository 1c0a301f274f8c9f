"""One number that makes a classifier's probabilities as sure as they are right, and the model that has it inside."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..runtimes.keras_model import sigmoid, softmax
from .label_scores import binary_cross_entropy
from .metrics import calibration_bins, calibration_error

CALIBRATED = "calibrated.keras"  # in the folder of the results
LIMITS = (0.05, 20.0)  # of the temperature: data without mistakes would lead to 0, noise to infinity
STEPS = 100
SMALLEST = 1e-30  # of a probability before its logarithm
ACTIVATIONS = ("linear", "softmax", "sigmoid")
PASSING = (keras.layers.Flatten, keras.layers.Reshape, keras.layers.Dropout, keras.layers.Identity)


@dataclass(frozen=True)
class Calibration:
    """What the logits are divided by, and what that changes on the data it was found on.

    Attributes:
        temperature: above 1 for a model that is too sure of itself.
        loss_before, loss_after: cross-entropy, as `Evaluation.loss`.
        error_before, error_after: expected calibration error, 0..1; of labels, with the probability of each answer.
    """

    temperature: float
    loss_before: float
    loss_after: float
    error_before: float
    error_after: float

    @property
    def at_limit(self) -> bool:
        """Whether the data asks for more than `LIMITS` allow."""
        return self.temperature in LIMITS


def find_temperature(scores: np.ndarray, labels: np.ndarray, kind: str) -> Calibration:
    """The temperature T of the smallest cross-entropy of softmax(logits / T), or of sigmoid(logits / T).

    Cross-entropy is convex in 1 / T, so that halving finds it: Guo et al. 2017, "On Calibration of Modern Neural
    Networks", section 4.2. The order of the classes, and so accuracy, stays.

    Args:
        scores: probabilities (n, outputs).
        labels: int (n,), or of "multi" 0 and 1 (n, outputs).
        kind: "single" or "multi".
    """
    p = np.maximum(scores.astype("float64"), SMALLEST)
    single = kind == "single"
    logits = np.log(p) if single else np.log(p) - np.log(np.maximum(1 - scores.astype("float64"), SMALLEST))
    squash = softmax if single else sigmoid
    truths = np.eye(scores.shape[1])[labels] if single else labels.reshape(scores.shape).astype("float64")

    def slope(inverse: float) -> float:
        """Derivative of the cross-entropy, summed over outputs, by 1 / T."""
        return float(((squash(logits * inverse) - truths) * logits).sum(1).mean())

    low, high = 1 / LIMITS[1], 1 / LIMITS[0]
    if slope(low) >= 0:
        high = low
    elif slope(high) <= 0:
        low = high
    for _ in range(STEPS):
        if high - low < 1e-6 * low:
            break
        middle = (low * high) ** 0.5
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    temperature = float(np.clip(2 / (low + high), *LIMITS))
    after = squash(logits / temperature)
    return Calibration(
        temperature,
        *(_loss(x, truths, single) for x in (scores, after)),
        *(_error(x, truths, single) for x in (scores, after)),
    )


def check_not_replaced(model: str, folder: Path) -> None:
    """Raises ValueError where the calibrated model would take the place of the one that is measured."""
    if Path(model).resolve() == (folder / CALIBRATED).resolve():
        raise ValueError(f"output={str(folder)!r} holds the model that is evaluated, {CALIBRATED}; name another folder")


@contextmanager
def scaled_scores(model: keras.Model, temperature: float) -> Iterator[None]:
    """While it lasts, a classifier's logits are divided by `temperature`: the kernel and bias that they come from.

    That is exact, and exports, `predict` and `serve` of a model saved meanwhile need to know nothing of it.

    Raises:
        ValueError: the layer behind the scores has no kernel, or something else than an activation follows it.
    """
    layer = _scoring_layer(model)
    before = {id(w): (w, keras.ops.convert_to_numpy(w)) for w in (layer.kernel, layer.bias) if w is not None}
    try:
        for weights, values in before.values():
            weights.assign(values.astype("float32") / temperature)
        yield
    finally:
        for weights, values in before.values():
            weights.assign(values)


def _scoring_layer(model: keras.Model) -> Any:
    tensor = model.outputs[0]
    while True:
        operation, node, index = tensor._keras_history
        activation = getattr(getattr(operation, "activation", None), "__name__", None)
        if isinstance(operation, keras.Model):
            tensor = operation.outputs[index]
            continue
        if hasattr(operation, "kernel") and hasattr(operation, "bias") and activation in ACTIVATIONS:
            return operation
        squashing = type(operation).__name__ in ("Softmax", "Sigmoid")
        if not (squashing or isinstance(operation, PASSING) or activation in ACTIVATIONS):
            raise ValueError(
                f"model={model.name!r} gets its scores from {type(operation).__name__} {operation.name!r}; a "
                "temperature goes into a Dense or convolution layer, with at most softmax or sigmoid behind it"
            )
        tensor = operation._inbound_nodes[node].input_tensors[0]


def _loss(scores: np.ndarray, truths: np.ndarray, single: bool) -> float:
    if not single:
        return binary_cross_entropy(scores, truths == 1)
    return float(-np.log(np.maximum((scores * truths).sum(1), 1e-7)).mean())


def _error(scores: np.ndarray, truths: np.ndarray, single: bool) -> float:
    if single:
        return calibration_error(calibration_bins(scores.max(1), scores.argmax(1) == truths.argmax(1)))
    said = scores > 0.5
    return calibration_error(calibration_bins(np.where(said, scores, 1 - scores).ravel(), (said == truths).ravel()))
