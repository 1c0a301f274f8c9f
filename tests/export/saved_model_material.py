"""A small network, its images and its export, which tests of SavedModels share."""

import io
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from keras_resnext import ResNeXt, preprocess_input

SIZE, CLASSES = 16, 7


LABELS = ["zero", "one", "zwei", "trois", "quattro", "cinco", "sześć"]


OPTIONS: dict[str, Any] = {
    "blocks": (1, 1, 1), "groups": 8, "base_channels": 8, "stem": "cifar", "stem_channels": 8,
    "input_shape": (SIZE, SIZE, 3), "classes": CLASSES,
}  # fmt: skip


def small(**options: Any) -> keras.Model:
    """A small network whose every weight and statistic is random."""
    model = ResNeXt(**{**OPTIONS, **options})
    rng = np.random.default_rng(0)
    for variable in model.weights:
        noise = rng.normal(0, 0.3, variable.shape)
        variable.assign(np.abs(noise) + 0.5 if variable.path.endswith(("gamma", "variance")) else noise)
    fc = model.get_layer("fc")
    features = np.asarray(keras.Function(model.input, fc.input)(preprocess_input(make_images(4).astype("float32"))))
    fc.kernel.assign(fc.kernel / features.std())  # no class near certainty, so that every score counts
    return model


def make_images(count: int, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def encoded(original: Image.Image | np.ndarray, form: str, **options: Any) -> bytes:
    image = original if isinstance(original, Image.Image) else Image.fromarray(original)
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def keras_probabilities(model: keras.Model, images: np.ndarray) -> np.ndarray:
    return np.asarray(model(preprocess_input(images.astype("float32")), training=False))


def classify(signatures: Any, *make_images: bytes) -> dict[str, np.ndarray]:
    outputs = signatures["serving_bytes"](image_bytes=tf.constant(list(make_images), tf.string))
    return {name: value.numpy() for name, value in outputs.items()}
