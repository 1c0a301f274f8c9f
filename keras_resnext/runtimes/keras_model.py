"""A Keras model of images: what it takes, what its output means, and how to run it."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from ..network.input_preprocessing import Given, choose_preprocessing
from ..preprocessing import Preprocessing
from . import KINDS

Run = Callable[[np.ndarray], np.ndarray]


def check_images(model: Any, *, rgb: bool = True) -> None:
    """Raises ValueError unless `model` takes one batch of images: RGB, or without `rgb` of any channels."""
    if not isinstance(model, keras.Model):
        raise ValueError(f"model must be a keras.Model; got {type(model).__name__}")
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs:
        raise ValueError(f"model={model.name!r} has no known inputs: it must be functional, or a built Sequential")
    shapes = [tuple(tensor.shape) for tensor in inputs]
    fits = len(shapes) == 1 and len(shapes[0]) == 4 and shapes[0][0] is None
    if not fits or (shapes[0][3] != 3 if rgb else shapes[0][3] is None):
        wanted = 3 if rgb else "channels"
        raise ValueError(f"model={model.name!r} must take one input (None, height, width, {wanted}); it takes {shapes}")


def check_classifier(model: Any, *, rgb: bool = True) -> int:
    """The number of classes, once `model` is known to be a classifier of images; `rgb` as of `check_images`."""
    check_images(model, rgb=rgb)
    shapes = [tuple(tensor.shape) for tensor in model.outputs]
    if len(shapes) != 1 or len(shapes[0]) != 2 or last_activation(model) == "pooling":
        raise ValueError(
            f"model={model.name!r} must give one output (None, classes) of class scores; it gives "
            f"{'features, ' * (len(shapes) == 1)}{shapes}"
        )
    return int(shapes[0][1])


def image_input(
    model: keras.Model, image_size: int | tuple[int, int] | None = None, given: Given = None
) -> tuple[tuple[int, int], Preprocessing]:
    """((height, width), how images are prepared for that size).

    Args:
        model: of images.
        image_size: counts where the model leaves its size free; default as its preprocessing has it.
        given: as `choose_preprocessing` has it.

    Raises:
        ValueError, FileNotFoundError: as `choose_preprocessing`.
    """
    preprocessing = choose_preprocessing(model, given)
    wanted = (image_size, image_size) if isinstance(image_size, int | None) else image_size
    fixed = model.inputs[0].shape[1:3]
    height, width = (f or w or preprocessing.size for f, w in zip(fixed, wanted, strict=True))
    side = min(height, width)
    return (height, width), replace(preprocessing, size=side, resize=preprocessing.resize_for(side))


def last_operation(model: keras.Model) -> Any:
    """The operation that the output comes from: a layer, also of a model inside; never a mere cast or another shape."""
    tensor = model.outputs[0]
    while True:
        operation, node, index = tensor._keras_history
        if isinstance(operation, keras.Model):
            tensor = operation.outputs[index]
        elif _passes_on(operation, (taken := operation._inbound_nodes[node].input_tensors)[0].shape[1:]):
            tensor = taken[0]
        else:
            return operation


def _passes_on(operation: Any, shape: tuple[int | None, ...]) -> bool:
    """Whether all scores of an image go through as they are: casts of mixed precision, dropout, 1x1 maps laid flat."""
    if isinstance(operation, keras.layers.Flatten | keras.layers.Reshape):
        return None not in shape and math.prod(shape) == shape[-1]  # type: ignore[arg-type]
    linear = getattr(operation, "activation", None) is keras.activations.linear
    return isinstance(operation, keras.layers.Identity | keras.layers.Dropout) or (
        isinstance(operation, keras.layers.Activation) and linear
    )


def last_activation(model: keras.Model) -> Any:
    """The activation of the layer that the output comes from; "pooling" for pooled features; None if there is none."""
    operation = last_operation(model)
    if isinstance(operation, keras.layers.GlobalAveragePooling2D | keras.layers.GlobalMaxPooling2D):
        return "pooling"
    return getattr(operation, "activation", None)


def output_kind(model: keras.Model) -> str:
    """What the scores of a classifier mean.

    "single": probabilities of classes of which one is right; a model that ends in linear scores gets a softmax.
    "multi": it ends in a sigmoid, and each output is a probability of its own. "raw": one number that is no
    probability.

    Raises:
        ValueError: it ends in something else.
    """
    operation = last_operation(model)
    activation, name = getattr(operation, "activation", None), type(operation).__name__
    if activation is keras.activations.sigmoid or name == "Sigmoid":
        return "multi"
    if activation is keras.activations.softmax or name == "Softmax":
        return "single"
    if activation is keras.activations.linear:
        return "raw" if model.outputs[0].shape[-1] == 1 else "single"
    what = f"{name} {operation.name!r}" + f" ({getattr(activation, '__name__', activation)})" * (activation is not None)
    raise ValueError(
        f"model={model.name!r} ends in {what}, which does not show what its outputs mean; give kind={'|'.join(KINDS)}: "
        "for single (one class is right) and multi (labels) it must give probabilities, 0 to 1; raw is any numbers"
    )


def lacking_activation(model: keras.Model, kind: str) -> str | None:
    """What scores of a kind still have to go through behind the model: "softmax" or "sigmoid" behind linear ones."""
    is_linear = last_activation(model) is keras.activations.linear
    return {"single": "softmax", "multi": "sigmoid"}.get(kind) if is_linear else None


def load_run(model: keras.Model, kind: str) -> Run:
    """A function from prepared images (n, height, width, 3) to scores (n, classes) in float32.

    Linear scores become probabilities, as `kind` has them. The first call runs the layers one by one: compiling takes
    seconds, which a single image does not earn back.
    """
    finish = {"softmax": softmax, "sigmoid": sigmoid, None: None}[lacking_activation(model, kind)]
    run_first = [lambda images: keras.ops.convert_to_numpy(keras.ops.cast(model(images, training=False), "float32"))]

    def run(images: np.ndarray) -> np.ndarray:
        scores = np.asarray((run_first.pop() if run_first else model.predict_on_batch)(images), "float32")
        return scores if finish is None else finish(scores)

    return run


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities (batch, classes) of logits, computed without overflow."""
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def sigmoid(scores: np.ndarray) -> np.ndarray:
    """The probability of each logit by itself, computed without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * scores))
