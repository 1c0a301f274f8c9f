"""What prediction, evaluation and export ask of a model: RGB pictures in, scores of named classes out."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from .preprocessing import imagenet_ids, imagenet_labels


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


def match_classes(found: Sequence[str], known: Sequence[str] | None, classes: int) -> tuple[np.ndarray, list[str]]:
    """Which of the model's classes each class of the data is.

    Names that the model knows decide: those of the data must be among them. With 1000 classes of ImageNet, WordNet ids
    (n01440764) and ImageNet's names are known too. Where no names are known, the data's classes are the model's in the
    data's order, which for folders is sorted by name; fewer than the model has must be the numbers of its classes.

    Args:
        found: the data's class names.
        known: the model's, one for each class; None where they are not known.
        classes: how many classes the model has.

    Returns:
        (int64 (found,) index of each among the model's classes, names of the model's classes).

    Raises:
        ValueError: they do not belong together.
    """
    numbers = [str(i) for i in range(classes)]
    imagenet = classes == 1000 and known in (None, imagenet_labels())
    # What the data's names may be among, and what the classes are then called.
    candidates = [(known, known)] if known is not None else []
    candidates += [(imagenet_ids(), imagenet_labels()), (imagenet_labels(), imagenet_labels())] if imagenet else []
    candidates += [(found, found)] if known is None and len(found) == classes else []
    candidates += [(numbers, known or numbers)] if known is None and len(found) < classes else []
    for among, names in candidates:
        if set(found) <= set(among):
            if twice := [name for name in found if list(among).count(name) > 1]:
                raise ValueError(f"the data's class {twice[0]!r} is the name of more than one class of the model")
            place = {name: i for i, name in enumerate(among)}
            return np.array([place[name] for name in found], "int64"), list(names)
    if known is None:
        raise ValueError(
            f"the data has {len(found)} classes ({_some(found)}) and the model {classes}, of unknown names: give "
            "labels, the names of the model's classes in order"
        )
    foreign = [name for name in found if name not in set(known)]
    raise ValueError(
        f"the data's classes {_some(foreign)} are not among the model's {classes}: {_some(known)}; give labels, the "
        "names of the model's classes in order"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + ", …" * (len(names) > 5)
