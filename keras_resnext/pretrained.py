"""Weights by file, for `ResNeXt(weights=…)`."""

import os
from pathlib import Path

import keras

from .pytorch import load_pytorch_weights

KERAS_SUFFIXES = (".keras", ".weights.h5")
PYTORCH_SUFFIXES = (".pth", ".pt", ".safetensors", ".tar", ".ckpt", ".bin")


def load_weights(model: keras.Model, weights: str | os.PathLike[str]) -> None:
    """Loads the file `weights` into `model`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another suffix than those of Keras and PyTorch files, or weights that do not fit.
    """
    if not isinstance(weights, (str, os.PathLike)):
        raise ValueError(f"weights={weights!r} must be None or the path of a file")
    path = Path(weights)
    if not path.name.endswith(KERAS_SUFFIXES + PYTORCH_SUFFIXES):
        suffixes = ", ".join(KERAS_SUFFIXES + PYTORCH_SUFFIXES)
        raise ValueError(f"weights={str(weights)!r} must be None or the path of a file ending in one of {suffixes}")
    if not path.is_file():
        raise FileNotFoundError(f"weights={str(weights)!r}: there is no such file")
    if path.name.endswith(PYTORCH_SUFFIXES):
        load_pytorch_weights(model, path)
        return
    try:
        model.load_weights(path)
    except Exception as error:  # Keras, zipfile and h5py raise anything at all on broken or foreign files
        raise ValueError(f"weights={str(weights)!r} cannot be loaded into model={model.name!r}: {error}") from error
