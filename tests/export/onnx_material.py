"""Small networks and runtimes that tests of ONNX files share."""

from typing import Any

import keras
import numpy as np
from keras import layers

from keras_resnext import ResNeXt, preprocess_input
from tests.support import randomise

SIZE, CLASSES, GROUPS, FEATURES = 64, 10, 8, 512  # at 32 the last map is one pixel, and pooling another operation


OPTIONS: dict[str, Any] = {
    "blocks": (1, 1, 1, 1), "groups": GROUPS, "width_per_group": 4, "base_channels": 16, "stem_channels": 16,
    "input_shape": (SIZE, SIZE, 3), "classes": CLASSES,
}  # fmt: skip


def small(**options: Any) -> keras.Model:
    return spread(randomise(ResNeXt(**{**OPTIONS, **options})))


def spread(model: keras.Model) -> keras.Model:
    """No class near certainty, so that every score counts."""
    for layer in model.layers:
        if isinstance(layer, layers.Dense):
            size = model.inputs[0].shape[1] or SIZE
            inputs = keras.Function(model.inputs[0], layer.input)(preprocess_input(make_images(4, size)))
            layer.kernel.assign(layer.kernel / np.asarray(inputs).std())
    return model


def make_images(count: int, height: int = SIZE, width: int | None = None) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, height, width or height, 3)).astype("float32")
