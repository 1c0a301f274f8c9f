"""What prediction, evaluation and export ask of a model: RGB images in, scores of named classes out."""

from typing import Any

import keras
import numpy as np


def check_images(model: Any) -> None:
    """Raises ValueError unless `model` takes one batch of RGB images."""
    if not isinstance(model, keras.Model):
        raise ValueError(f"model must be a keras.Model; got {type(model).__name__}")
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs:
        raise ValueError(f"model={model.name!r} has no known inputs: it must be functional, or a built Sequential")
    shapes = [tuple(tensor.shape) for tensor in inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][0] is not None or shapes[0][3] != 3:
        raise ValueError(f"model={model.name!r} must take one input (None, height, width, 3); it takes {shapes}")


def check_classifier(model: Any) -> int:
    """The number of classes, once `model` is known to be a classifier of RGB images."""
    check_images(model)
    shapes = [tuple(tensor.shape) for tensor in model.outputs]
    if len(shapes) != 1 or len(shapes[0]) != 2 or last_activation(model) == "pooling":
        raise ValueError(
            f"model={model.name!r} must give one output (None, classes) of class scores; it gives "
            f"{'features, ' * (len(shapes) == 1)}{shapes}"
        )
    return int(shapes[0][1])


def last_operation(model: keras.Model) -> Any:
    """The operation that the output comes from: a layer, also of a model inside; never a mere cast."""
    tensor = model.outputs[0]
    while True:
        operation, node, index = tensor._keras_history
        if isinstance(operation, keras.Model):
            tensor = operation.outputs[index]
        elif isinstance(operation, keras.layers.Activation) and operation.activation is keras.activations.linear:
            tensor = operation._inbound_nodes[node].input_tensors[0]  # such as mixed precision ends in
        else:
            return operation


def last_activation(model: keras.Model) -> Any:
    """The activation of the layer that the output comes from; "pooling" for pooled features; None if there is none."""
    operation = last_operation(model)
    if isinstance(operation, keras.layers.GlobalAveragePooling2D | keras.layers.GlobalMaxPooling2D):
        return "pooling"
    return getattr(operation, "activation", None)


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities (batch, classes) of logits, computed without overflow."""
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
