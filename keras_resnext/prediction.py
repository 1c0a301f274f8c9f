"""What the command line's MODEL stands for, and classifying picture files with it."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np

from .architectures import ARCHITECTURES
from .classifier import check_classifier, class_names, last_activation
from .model import create
from .preprocessing import load_image, preprocess_input
from .pretrained import PYTORCH_SUFFIXES
from .pytorch import from_pytorch


def load_model(name: str) -> keras.Model:
    """The model that `name` stands for: an architecture (random weights), a .keras file or a PyTorch checkpoint.

    Raises:
        FileNotFoundError: a path to nothing.
        ValueError: neither, or a file that cannot be read as what its name says.
    """
    if name in ARCHITECTURES:
        print(f"keras-resnext: {name} has random weights; name a file for trained ones", file=sys.stderr)
        return create(name)
    path = Path(name)
    known = (".keras", *PYTORCH_SUFFIXES)
    if not path.name.endswith(known):
        raise ValueError(
            f"MODEL={name!r} is neither a file ending in {', '.join(known)} "
            f"nor an architecture; choose one of {', '.join(ARCHITECTURES)}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"MODEL={name!r}: there is no such file")
    if path.suffix in PYTORCH_SUFFIXES:
        return from_pytorch(path)
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras, zipfile and h5py raise anything at all on broken or foreign files
        raise ValueError(f"MODEL={name!r} is no readable .keras file: {error}") from error


def read_labels(path: str | os.PathLike[str]) -> list[str]:
    """Class names from a text file, one a line."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"labels={os.fspath(path)!r}: there is no such file")
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"labels={os.fspath(path)!r} is no UTF-8 text: {error}") from None


def predict_images(
    model: keras.Model,
    images: Sequence[str | os.PathLike[str]],
    *,
    top: int = 5,
    labels: Sequence[str] | None = None,
    image_size: int = 224,
) -> Iterator[tuple[str | os.PathLike[str], list[tuple[str, float]]]]:
    """Classifies picture files one by one.

    Args:
        model: classifier on (batch, height, width, 3) pictures normalised by `preprocess_input`; logits get a softmax.
        images: paths.
        top: how many classes a picture; fewer where the model has fewer.
        labels: class names; default ImageNet's for 1000 classes, else the numbers.
        image_size: height and width where the model leaves them free.

    Yields:
        (path, [(class name, score), …]), best first.

    Raises:
        ValueError: a model that is no such classifier, labels of the wrong number, or a picture that is none.
    """
    names = class_names(labels, check_classifier(model))
    height, width = (side or image_size for side in model.inputs[0].shape[1:3])
    logits = last_activation(model) is keras.activations.linear
    pictures = [load_image(path, (height, width)) for path in images]
    for path, picture in zip(images, pictures, strict=True):
        scores = model(preprocess_input(picture[None]), training=False)
        scores = keras.ops.convert_to_numpy(keras.ops.softmax(scores) if logits else scores)[0]
        best = np.argsort(-scores, kind="stable")[:top]
        yield path, [(names[i], float(scores[i])) for i in best]
