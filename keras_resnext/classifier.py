"""What prediction and export ask of a model: RGB pictures in, scores of named classes out."""

from collections.abc import Sequence
from typing import Any

import keras

from .preprocessing import imagenet_labels


def check_pictures(model: Any) -> None:
    """Raises ValueError unless `model` takes one batch of RGB pictures."""
    if not isinstance(model, keras.Model):
        raise ValueError(f"model must be a keras.Model; got {type(model).__name__}")
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs:
        raise ValueError(f"model={model.name!r} has no known inputs: it must be functional, or a built Sequential")
    shapes = [tuple(tensor.shape) for tensor in inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][0] is not None or shapes[0][3] != 3:
        raise ValueError(f"model={model.name!r} must take one input (None, height, width, 3); it takes {shapes}")


def check_classifier(model: Any) -> int:
    """The number of classes, once `model` is known to be a classifier of RGB pictures."""
    check_pictures(model)
    shapes = [tuple(tensor.shape) for tensor in model.outputs]
    if len(shapes) != 1 or len(shapes[0]) != 2 or last_activation(model) == "pooling":
        raise ValueError(
            f"model={model.name!r} must give one output (None, classes) of class scores; it gives "
            f"{'features, ' * (len(shapes) == 1)}{shapes}"
        )
    return int(shapes[0][1])


def last_activation(model: keras.Model) -> Any:
    """The activation of the layer that the output comes from; "pooling" for pooled features; None if there is none."""
    tensor = model.outputs[0]
    while True:
        operation, node, index = tensor._keras_history
        if isinstance(operation, keras.Model):
            tensor = operation.outputs[index]
        elif isinstance(operation, keras.layers.Activation) and operation.activation is keras.activations.linear:
            tensor = operation._inbound_nodes[node].input_tensors[0]  # a cast, such as mixed precision ends in
        elif isinstance(operation, keras.layers.GlobalAveragePooling2D | keras.layers.GlobalMaxPooling2D):
            return "pooling"
        else:
            return getattr(operation, "activation", None)


def class_names(labels: Sequence[str] | None, classes: int) -> list[str]:
    if labels is None:
        return imagenet_labels() if classes == 1000 else [str(i) for i in range(classes)]
    if not isinstance(labels, (list, tuple)) or any(
        not isinstance(name, str) or name.splitlines() != [name] for name in labels
    ):
        raise ValueError(f"labels={labels!r} must be a list of names, each one line")
    if len(labels) != classes:
        raise ValueError(f"labels has {len(labels)} names; it must have {classes}, one for each class of the model")
    return list(labels)
