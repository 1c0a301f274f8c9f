"""What the command line's MODEL stands for."""

import inspect
import os
import sys
from pathlib import Path
from typing import Any

import keras

from .architectures import ARCHITECTURES
from .keras_files import KERAS_SUFFIXES, read_keras_weights
from .model import ResNeXt, create
from .pretrained import PYTORCH_SUFFIXES, from_pretrained, mark_as_published
from .published import find_by_file_name, find_published
from .pytorch import from_pytorch


def load_model(name: str | os.PathLike[str], *, ema: bool = False, bgr: bool = False, **options: Any) -> keras.Model:
    """The model that `name` stands for.

    Args:
        name: an architecture (random weights), a published checkpoint, or a file: .keras, .weights.h5 or a PyTorch
            checkpoint.
        ema, bgr: as in `from_pytorch`, for PyTorch checkpoints alone.
        options: of `ResNeXt`, where the model is built; a .keras file holds its own.

    Raises:
        FileNotFoundError: a path to nothing.
        OSError: a published checkpoint that cannot be downloaded.
        ValueError: none of these, a file that cannot be read as what its name says, or options that do not fit.
    """
    text, path = os.fspath(name), Path(name)
    if (ema or bgr) and not path.name.lower().endswith(PYTORCH_SUFFIXES):
        raise ValueError(f"{'ema' if ema else 'bgr'}=True is for PyTorch checkpoints; MODEL={text!r} is none")
    known_options = inspect.signature(ResNeXt).parameters
    if unknown := options.keys() - known_options.keys():
        raise ValueError(f"{', '.join(sorted(unknown))}: no option of ResNeXt; choose from {', '.join(known_options)}")
    if text in ARCHITECTURES:
        print(f"keras-resnext: {text} has random weights; `keras-resnext list` names trained ones", file=sys.stderr)
        return create(text, **options)
    known = (*KERAS_SUFFIXES, *PYTORCH_SUFFIXES)
    if not path.name.lower().endswith(known):
        try:
            row = find_published(text)
        except ValueError:
            raise ValueError(
                f"MODEL={text!r} is neither a file ending in {', '.join(known)}, nor published weights "
                f"(`keras-resnext list` shows them), nor an architecture; choose one of {', '.join(ARCHITECTURES)}"
            ) from None
        return from_pretrained(row.name, **options)
    if path.is_dir():
        raise ValueError(f"MODEL={text!r} is a folder, not a file")
    if not path.is_file():
        raise FileNotFoundError(f"MODEL={text!r}: there is no such file")
    if path.suffix == ".keras":
        if options:
            raise ValueError(f"MODEL={text!r} is a Keras model as it is; {', '.join(options)} cannot change it")
        try:
            return keras.saving.load_model(path, compile=False)
        except Exception as error:  # Keras, zipfile and h5py raise anything at all on broken or foreign files
            raise ValueError(f"MODEL={text!r} is no readable .keras file: {error}") from error
    source = read_keras_weights(path) if path.name.endswith(KERAS_SUFFIXES) else path
    model = from_pytorch(source, ema=ema, bgr=bgr, **options)
    if known_row := find_by_file_name(path.name):
        mark_as_published(model, known_row)
    return model


def describe_model(name: str | os.PathLike[str]) -> dict[str, Any]:
    """What a manifest says of where a model came from: its source, and what is published of it."""
    text = os.fspath(name)
    row = find_by_file_name(Path(name).name)
    if not text.lower().endswith((*KERAS_SUFFIXES, *PYTORCH_SUFFIXES)) and text not in ARCHITECTURES:
        row = find_published(text)
    facts: dict[str, Any] = {"source": Path(name).name if row is None else row.name}
    if row is not None:
        facts |= {
            "architecture": row.architecture,
            "licence": row.licence,
            "accuracy": {"top1": row.top1, "top5": row.top5},
        }
    return facts
