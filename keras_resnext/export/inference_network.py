"""What every export computes: images on 0..255 to probabilities and features, as one functional Keras model."""

from typing import Any

import keras

from ..preprocessing import Preprocessing
from ..runtimes.keras_model import check_classifier, check_images, lacking_activation, last_activation
from .export_options import is_positive
from .fusion import fuse

Tensor = Any


def build_network(
    model: keras.Model, target: str, size: tuple[int, int], preprocessing: Preprocessing, kind: str | None
) -> keras.Model:
    """Puts the normalisation before a model and a softmax or sigmoid behind its logits, and joins what can be joined.

    Args:
        model: one for which `classes_of` raises nothing.
        target: "cpu", "gpu" or "portable", as in `fuse`.
        size: height and width.
        preprocessing: how the model's images are normalised.
        kind: of a classifier's scores.

    Returns:
        A network that takes `images`, float32 (batch, height, width, 3), RGB on 0..255, and gives a dictionary:
        "probabilities" (batch, classes) if the model is a classifier, and "features" (batch, channels), pooled, if it
        has such.

    Raises:
        ValueError: an unknown target, or a model that is not functional.
        RuntimeError: Keras runs on another backend than TensorFlow.
    """
    fused = fuse(model, target)
    images = keras.Input((*size, 3), name="images", dtype="float32")
    normalise = keras.layers.Normalization(
        mean=list(preprocessing.mean), variance=[deviation**2 for deviation in preprocessing.std], dtype="float32"
    )
    normalised = normalise(images)
    if preprocessing.channels == "BGR":  # TFLite and ONNX have this, and no slices that go backwards
        normalised = keras.ops.take(normalised, [2, 1, 0], axis=-1)
    outputs: dict[str, Tensor] = {}
    if classes_of(model):
        features = _features(fused)
        if features is not None:
            both = keras.Model(fused.inputs[0], [fused.outputs[0], features])
            scores, outputs["features"] = both(normalised)
        else:
            scores = keras.Model(fused.inputs[0], fused.outputs[0])(normalised)
        if lacking := lacking_activation(model, kind or ""):
            scores = keras.layers.Activation(lacking, dtype="float32", name=lacking)(scores)
        outputs["probabilities"] = scores
    else:
        maps = keras.Model(fused.inputs[0], fused.outputs[0])(normalised)
        outputs["features"] = keras.layers.GlobalAveragePooling2D(name="pool")(maps) if len(maps.shape) == 4 else maps
    return keras.Model(images, outputs, name=model.name)


def classes_of(model: Any) -> int | None:
    """How many classes `model` tells apart; None for one that gives features.

    Raises:
        ValueError: a model that is neither.
    """
    outputs = getattr(model, "outputs", None)
    if isinstance(model, keras.Model) and outputs and len(outputs) == 1:
        shape = outputs[0].shape
        if len(shape) == 4 or (len(shape) == 2 and last_activation(model) == "pooling"):
            check_images(model)
            return None
    return check_classifier(model)


def check_image_size(model: keras.Model, image_size: int | tuple[int, int] | None) -> None:
    """Raises ValueError unless `image_size` is a size that the model can have, or None."""
    given = (image_size, image_size) if isinstance(image_size, int | None) else tuple(image_size)
    if len(given) != 2 or any(side is not None and not is_positive(side) for side in given):
        raise ValueError(f"image_size={image_size!r} must be a positive integer or (height, width)")
    fixed = model.inputs[0].shape[1:3]
    if any(f is not None and g is not None and f != g for f, g in zip(fixed, given, strict=True)):
        raise ValueError(f"image_size={image_size!r} must be {fixed}, which model={model.name!r} fixes")


def _features(model: keras.Model) -> Tensor | None:
    """What the last dense layer takes, if that is (batch, channels)."""
    tensor = model.outputs[0]
    while True:
        operation, index, _ = tensor._keras_history
        inputs = operation._inbound_nodes[index].input_tensors if operation._inbound_nodes else []
        if len(inputs) != 1 or isinstance(operation, keras.Model):
            return None
        if isinstance(operation, keras.layers.Dense):
            return inputs[0] if len(inputs[0].shape) == 2 else None
        tensor = inputs[0]
