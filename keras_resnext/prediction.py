"""Classifying image files."""

import os
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np

from .labels import class_names
from .network.input_preprocessing import get_preprocessing
from .preprocessing import load_image, preprocess_input
from .runtimes.keras_model import check_classifier, last_activation


def image_reader(model: keras.Model, image_size: int | None = None) -> Callable[[str | os.PathLike[str]], np.ndarray]:
    """Reads an image file as the model's own preprocessing says: path to uint8 (height, width, 3), not normalised.

    `image_size` is height and width where the model leaves them free; default as its preprocessing has it.
    """
    preprocessing = get_preprocessing(model)
    height, width = (side or image_size or preprocessing.size for side in model.inputs[0].shape[1:3])
    resize = preprocessing.resize_for(min(height, width))
    return lambda path: load_image(path, (height, width), resize=resize, interpolation=preprocessing.interpolation)


def predict_images(
    model: keras.Model,
    images: Sequence[str | os.PathLike[str]],
    *,
    top: int = 5,
    labels: Sequence[str] | None = None,
    image_size: int | None = None,
) -> Iterator[tuple[str | os.PathLike[str], list[tuple[str, float]]]]:
    """Classifies image files one by one, prepared as the model's own preprocessing says.

    Args:
        model: classifier on normalised (batch, height, width, 3) images; logits get a softmax.
        images: paths.
        top: how many classes an image; fewer where the model has fewer.
        labels: class names; default ImageNet's for 1000 classes, else the numbers.
        image_size: height and width where the model leaves them free; default as its preprocessing has it.

    Yields:
        (path, [(class name, score), …]), best first.

    Raises:
        ValueError: a model that is no such classifier, labels of the wrong number, or an image that is none.
    """
    names = class_names(labels, check_classifier(model))
    logits = last_activation(model) is keras.activations.linear
    preprocessing = get_preprocessing(model)
    pixels = list(map(image_reader(model, image_size), images))
    for path, image in zip(images, pixels, strict=True):
        scores = model(preprocess_input(image[None], preprocessing), training=False)
        scores = keras.ops.convert_to_numpy(keras.ops.softmax(scores) if logits else scores)[0]
        best = np.argsort(-scores, kind="stable")[:top]
        yield path, [(names[i], float(scores[i])) for i in best]
