"""Weights from any file to any other, and the proof that both compute the same."""

import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras

from .files import placed_whole
from .loading import load_model
from .network.input_preprocessing import get_preprocessing
from .preprocessing import Preprocessing
from .pytorch.folder import PYTORCH_SUFFIXES, is_checkpoint_folder
from .pytorch.writer import SUFFIXES as WRITTEN_SUFFIXES
from .verification import Agreement
from .verification import verify as verify_weights
from .weights.assign import save_pytorch_weights, unshown_options
from .weights.hub import fetch_from_hub
from .weights.hub_config import is_folder_name, known_labels
from .weights.keras_files import KERAS_SUFFIXES, save_keras
from .weights.layouts import LAYOUTS
from .weights.published import find_published
from .weights.sources import fetch

TARGET_SUFFIXES = (*KERAS_SUFFIXES, *WRITTEN_SUFFIXES)


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    layout: str | None = None,
    ema: bool = False,
    bgr: bool = False,
    prefix: str | None = None,
    verify: bool = False,
    **options: Any,
) -> tuple[keras.Model, Agreement | None]:
    """Reads a model from `source` and writes it to `target`, whole or not at all.

    Args:
        source: what `loading.load_model` takes: a PyTorch checkpoint, .keras, .weights.h5, a published name, or one on
            Hugging Face's hub.
        target: ends in .keras, .weights.h5, .pth, .pt or .safetensors; an existing file is replaced. With layout="timm"
            also a folder, as `save_pytorch_weights` writes it.
        layout: of PyTorch files, "torchvision" (the default), "mmcls", "timm" or "open-mmlab".
        ema, bgr, prefix: as in `from_pytorch`.
        verify: whether to run the PyTorch file in torchvision's or timm's own network, and the other file in Keras, on
            the same images. Where they differ, `target` is left as it was.
        options: of `ResNeXt`: `classes` for a new, random head; what weights cannot show, such as `style`.

    Returns:
        The model, and how well the two files agree where `verify` asked for it.

    Raises:
        FileNotFoundError: no such source, or no such folder for the target.
        ValueError: a suffix, a layout or a source that cannot be; weights that do not agree.
        ImportError: `verify` without PyTorch and torchvision or timm.
    """
    path = Path(os.path.realpath(target))  # where it is written aside: a link may lead to another disk
    folder = layout == "timm" and is_folder_name(path)
    if not folder and (not path.name.endswith(TARGET_SUFFIXES) or path.name in TARGET_SUFFIXES):
        raise ValueError(
            f"target={os.fspath(target)!r} must be a name that ends in one of {', '.join(TARGET_SUFFIXES)}, or with "
            "layout='timm' a folder"
        )
    if folder and verify:
        raise ValueError(f"verify=True compares files; target={os.fspath(target)!r} is a folder")
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r} must be one of {', '.join(LAYOUTS)}")
    if layout is not None and path.name.endswith(KERAS_SUFFIXES):
        raise ValueError(f"layout={layout!r} is for PyTorch files; target={str(path)!r} is one of Keras")
    if (path.is_dir() and not folder) or not path.parent.is_dir():
        what = "a folder, not a file" if path.is_dir() else "in a folder that does not exist"
        raise FileNotFoundError(f"target={str(path)!r} is {what}")
    source = fetch_from_hub(source)
    checkpoint = _pytorch_file(source) if verify else None
    if verify and checkpoint is None and path.name.endswith(KERAS_SUFFIXES):
        raise ValueError("verify=True compares with PyTorch, so source or target must be a PyTorch file")
    if verify and options.get("classes") is not None:
        raise ValueError(f"verify=True cannot compare a new random head; classes={options['classes']!r} makes one")
    model = load_model(source, ema=ema, bgr=bgr, prefix=prefix, **options)
    if folder:
        save_pytorch_weights(model, path, "timm", labels=known_labels(source, model.output_shape[-1]))
        return model, None
    if path.suffix != ".keras" and (lost := _lost(model, layout or "torchvision")):
        warnings.warn(f"{path.name} cannot hold {', '.join(lost)}; only .keras files do", stacklevel=2)
    with placed_whole(path) as aside:
        if path.name.endswith(KERAS_SUFFIXES):
            save_keras(model, aside)
        else:
            save_pytorch_weights(model, aside, layout or "torchvision")
        agreement = None
        if verify:
            # The PyTorch file goes to its own library, the other one to Keras.
            if checkpoint is None:
                agreement = verify_weights(model, aside)
            else:
                agreement = verify_weights(load_model(aside), checkpoint, ema=ema, bgr=bgr, prefix=prefix)
    return model, agreement


def _lost(model: keras.Model, layout: str) -> list[str]:
    """What of the model no file of weights alone can hold."""
    lost = [f"{name}={value!r}" for name, value in unshown_options(model, layout).items()]
    preprocessing = get_preprocessing(model)
    usual = preprocessing == Preprocessing(preprocessing.size)  # `input_shape` says the size
    return lost if usual else [*lost, repr(preprocessing)]


def _pytorch_file(source: str | os.PathLike[str]) -> Path | None:
    """The checkpoint that `source` names, downloaded if it is a published one; None if it is none."""
    if is_checkpoint_folder(source):
        return Path(source)
    if os.fspath(source).lower().endswith(PYTORCH_SUFFIXES):
        return Path(source)
    with suppress(ValueError):
        return fetch(find_published(os.fspath(source)))
    return None
