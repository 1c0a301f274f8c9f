"""Classifying picture files."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np

from .classifier import check_classifier, class_names, last_activation
from .preprocessing import get_preprocessing, load_image, preprocess_input

LABELS = "labels.txt"


def read_labels(path: str | os.PathLike[str]) -> list[str]:
    """Class names from a text file, one a line."""
    if Path(path).is_dir():
        raise ValueError(f"labels={os.fspath(path)!r} is a folder, not a text file")
    if not Path(path).is_file():
        raise FileNotFoundError(f"labels={os.fspath(path)!r}: there is no such file")
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"labels={os.fspath(path)!r} is no UTF-8 text: {error}") from None


def labels_beside(model: str | os.PathLike[str], classes: int) -> tuple[str, ...] | None:
    """The class names that training wrote beside the file of a model; None where there are none.

    A labels.txt of another number of names belongs to something else.
    """
    path = Path(model)
    if not path.is_file() or not (file := path.with_name(LABELS)).is_file():
        return None
    names = tuple(file.read_text(encoding="utf-8", errors="replace").splitlines())
    return names if len(names) == classes else None


def picture_reader(model: keras.Model, image_size: int | None = None) -> Callable[[str | os.PathLike[str]], np.ndarray]:
    """Reads a picture file as the model's own preprocessing says: path to uint8 (height, width, 3), not normalised.

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
    """Classifies picture files one by one, prepared as the model's own preprocessing says.

    Args:
        model: classifier on normalised (batch, height, width, 3) pictures; logits get a softmax.
        images: paths.
        top: how many classes a picture; fewer where the model has fewer.
        labels: class names; default ImageNet's for 1000 classes, else the numbers.
        image_size: height and width where the model leaves them free; default as its preprocessing has it.

    Yields:
        (path, [(class name, score), …]), best first.

    Raises:
        ValueError: a model that is no such classifier, labels of the wrong number, or a picture that is none.
    """
    names = class_names(labels, check_classifier(model))
    logits = last_activation(model) is keras.activations.linear
    preprocessing = get_preprocessing(model)
    pictures = list(map(picture_reader(model, image_size), images))
    for path, picture in zip(images, pictures, strict=True):
        scores = model(preprocess_input(picture[None], preprocessing), training=False)
        scores = keras.ops.convert_to_numpy(keras.ops.softmax(scores) if logits else scores)[0]
        best = np.argsort(-scores, kind="stable")[:top]
        yield path, [(names[i], float(scores[i])) for i in best]
