"""What a layer gives: its maps, and features for retrieval and clustering.

Any functional or Sequential model of RGB images, with a head or without, on TensorFlow and JAX.
"""

import os
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import keras
import numpy as np
from keras import ops

from ..network.input_preprocessing import Given
from ..preprocessing import load_image, preprocess_input
from ..runtimes.keras_model import check_images, image_input
from .probing import Recorder, as_float64, check_batch, find_head, find_layer, run

Tensor = Any


def feature_maps(model: keras.Model, images: np.ndarray, layer: str | None = None) -> np.ndarray:
    """What a layer gives for images.

    Args:
        model: of images, with a head or without.
        images: (n, height, width, 3), prepared as the model takes them.
        layer: as in `grad_cam`.

    Returns:
        float32 (n, h, w, channels).

    Raises:
        ValueError: images of another shape, or an unknown layer.
    """
    check_images(model)
    images = check_batch(model, images)
    chosen = find_layer(model, layer)
    seen = Recorder(chosen)
    run(model, ops.convert_to_tensor(images), {chosen: seen})
    return as_float64(seen.tensor).astype("float32")


def extract_features(
    model: keras.Model,
    files: Sequence[str | os.PathLike[str]],
    *,
    layer: str | None = None,
    batch_size: int = 8,
    image_size: int | None = None,
    preprocessing: Given = None,
) -> np.ndarray:
    """Features of image files, for retrieval and clustering.

    Args:
        model: of images, with a head or without.
        files: paths.
        layer: name of one whose map is averaged over its places; default what the head takes: the input of the last
            dense layer, else the model's own output, averaged if it is a map.
        batch_size: images that run together.
        image_size: height and width where the model leaves them free; default as its preprocessing has it.
        preprocessing: as in `classifier.open_classifier`; needed where the model does not say it.

    Returns:
        float32 (files, channels), in the order of `files`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no files, an image that is none, an unknown layer, a model whose features cannot be told, or
            one that does not say how its images are prepared.
    """
    check_images(model)
    if not files:
        raise ValueError("files is empty; it must name at least one image")
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r} must be a positive integer")
    chosen = find_layer(model, layer) if layer is not None else find_head(model)
    size, how = image_input(model, image_size, preprocessing)
    rows = []
    for start in range(0, len(files), batch_size):
        pixels = [
            load_image(path, size, resize=how.resize, interpolation=how.interpolation, exif=how.exif)
            for path in files[start : start + batch_size]
        ]
        rows.append(_features(model, preprocess_input(np.stack(pixels), how), chosen, of_input=layer is None))
    return np.concatenate(rows)


def features_of(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """What the head takes, as in `extract_features`, float32 (n, channels).

    Args:
        model: of images, with a head or without.
        images: (n, height, width, 3), prepared as the model takes them.

    Raises:
        ValueError: images of another shape, or a model whose features cannot be told.
    """
    return _features(model, check_batch(model, images), find_head(model), of_input=True)


def _features(model: keras.Model, images: np.ndarray, chosen: Any, of_input: bool) -> np.ndarray:
    tensor = ops.convert_to_tensor(images)
    if chosen is None:
        features = run(model, tensor, {})
    else:
        seen = Recorder(chosen, of_input=of_input)
        run(model, tensor, {chosen: seen})
        features = seen.tensor
    array = as_float64(features)
    return (array.mean(axis=(1, 2)) if array.ndim == 4 else array).astype("float32")
