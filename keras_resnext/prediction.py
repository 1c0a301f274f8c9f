"""What the command line's MODEL stands for, and classifying picture files with it."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import numpy as np

from .architectures import ARCHITECTURES
from .model import create
from .preprocessing import imagenet_labels, load_image, preprocess_input
from .pretrained import PYTORCH_SUFFIXES
from .pytorch import from_pytorch


def load_model(name: str) -> keras.Model:
    """The model that `name` stands for: an architecture (random weights), a .keras file or a PyTorch checkpoint.

    Raises:
        FileNotFoundError: a path to nothing.
        ValueError: neither, or a file that cannot be read as what its name says.
    """
    if name in ARCHITECTURES:
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
    except (OSError, KeyError, TypeError, ValueError) as error:  # what Keras raises on broken or foreign files
        raise ValueError(f"MODEL={name!r} is no readable .keras file: {error}") from error


def read_labels(path: str | os.PathLike[str]) -> list[str]:
    """Class names from a text file, one a line."""
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"labels={os.fspath(path)!r} is no UTF-8 text: {error}") from None


def predict_images(
    model: keras.Model, images: Sequence[str | os.PathLike[str]], *, top: int = 5, labels: Sequence[str] | None = None
) -> Iterator[tuple[str | os.PathLike[str], list[tuple[str, float]]]]:
    """Classifies picture files one by one.

    Args:
        model: classifier on (batch, height, width, 3) pictures normalised by `preprocess_input`.
        images: paths.
        top: how many classes a picture; fewer where the model has fewer.
        labels: class names; default ImageNet's for 1000 classes, else the numbers.

    Yields:
        (path, [(class name, score), …]), best first.

    Raises:
        ValueError: a model that is no such classifier, labels of the wrong number, or a picture that is none.
    """
    if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4 or model.inputs[0].shape[-1] != 3:
        raise ValueError(f"model={model.name!r} must take RGB pictures (batch, height, width, 3)")
    if len(model.outputs) != 1 or len(model.outputs[0].shape) != 2:
        raise ValueError(f"model={model.name!r} gives feature maps, no class scores: it has no head")
    classes = model.outputs[0].shape[-1]
    if labels is None:
        labels = imagenet_labels() if classes == 1000 else [str(i) for i in range(classes)]
    if len(labels) != classes:
        raise ValueError(f"labels has {len(labels)} names and the model {classes} classes")
    height, width = (side or 224 for side in model.inputs[0].shape[1:3])
    pictures = [load_image(path, (height, width)) for path in images]
    for path, picture in zip(images, pictures, strict=True):
        scores = keras.ops.convert_to_numpy(model(preprocess_input(picture[None]), training=False))[0]
        best = np.argsort(-scores, kind="stable")[:top]
        yield path, [(labels[i], float(scores[i])) for i in best]
