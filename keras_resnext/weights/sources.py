"""Weights by name or file, for `ResNeXt(weights=…)`: the published checkpoints are downloaded, verified and cached."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from ..network.architectures import ARCHITECTURES
from ..network.input_preprocessing import set_preprocessing
from ..pytorch.folder import PYTORCH_SUFFIXES, is_checkpoint_folder
from .assign import load_pytorch_weights, structure_of
from .download import download
from .hub import fetch_from_hub
from .hub_config import HubConfig, read_hub_config
from .keras_files import KERAS_SUFFIXES, read_keras_weights, read_preprocessing
from .published import PublishedWeights, find_by_file_name, find_published, warn_of_licence


def load_weights(
    model: keras.Model, weights: str | os.PathLike[str], architecture: str | None, changed: Mapping[str, Any]
) -> None:
    """Loads `weights`, published or a file, into `model`, and with published ones their preprocessing.

    Args:
        model: built by `ResNeXt`.
        weights: as for `ResNeXt`.
        architecture: the row of the table that the model is; None for none.
        changed: options of `model` with which published weights would compute something else.

    Raises:
        FileNotFoundError: no such file.
        OSError: published weights cannot be downloaded.
        ValueError: an unknown name, or weights that do not fit.
    """
    if not isinstance(weights, (str, os.PathLike)):
        raise ValueError(f"weights={weights!r} must be None, the name of published weights or the path of a file")
    path = Path(fetch_from_hub(weights))
    if is_checkpoint_folder(path):
        load_hub_folder(model, path)
        return
    row = find_by_file_name(path.name)
    if not path.name.lower().endswith(KERAS_SUFFIXES + PYTORCH_SUFFIXES):
        suffixes = ", ".join(KERAS_SUFFIXES + PYTORCH_SUFFIXES)
        if not isinstance(weights, str) or architecture is None:
            raise ValueError(
                f"weights={str(weights)!r} must be None or a file ending in one of {suffixes}; published weights have "
                f"names, but there are none of model={model.name!r}"
            )
        if changed:
            options = ", ".join(f"{name}={value!r}" for name, value in changed.items())
            raise ValueError(f"weights={weights!r}: published weights were trained without {options}")
        try:
            row = find_published(weights, architecture)
        except ValueError as error:
            raise ValueError(f"weights={error}, or a file ending in one of {suffixes}") from None
        path = fetch(row)
        tell_what_was_taken(weights, row)
    if not path.is_file():
        raise FileNotFoundError(f"weights={str(weights)!r}: there is no such file")
    source = read_keras_weights(path) if path.name.endswith(KERAS_SUFFIXES) else path
    load_pytorch_weights(model, source, bgr=row is not None and row.bgr, adapting=True)
    if path.suffix == ".keras" and (preprocessing := read_preprocessing(path)) and takes_rgb(model):
        set_preprocessing(model, preprocessing)
    if row is not None:
        mark_as_published(model, row)


def load_hub_folder(model: keras.Model, folder: Path) -> None:
    """Loads a folder as Hugging Face's hub has them, and the preprocessing that its config.json names.

    Raises:
        ValueError: weights that do not fit, or that were trained in a network with other options.
    """
    config = read_hub_config(folder)
    if config and (unseen := config.unseen(structure_of(model))):
        options = ", ".join(f"{name}={value!r}" for name, value in unseen.items())
        raise ValueError(f"weights={str(folder)!r}: {config.path} says that they are for a model with {options}")
    load_pytorch_weights(model, folder, adapting=True)
    mark_as_configured(model, config)


def mark_as_configured(model: keras.Model, config: HubConfig | None) -> None:
    """Has the model remember the preprocessing of its config.json."""
    if config is not None and config.preprocessing is not None and takes_rgb(model):
        set_preprocessing(model, config.preprocessing)


def tell_what_was_taken(name: str, row: PublishedWeights) -> None:
    """Says on standard error what a short name such as "imagenet" stands for."""
    if name not in row.names:
        print(f"keras-resnext: {name} stands for {row.name}, {row.top1} % on ImageNet", file=sys.stderr)


def mark_as_published(model: keras.Model, row: PublishedWeights) -> None:
    """Has the model remember the preprocessing of its weights, and says what their licence forbids."""
    warn_of_licence(row)
    if takes_rgb(model):
        set_preprocessing(model, row.preprocessing)


def takes_rgb(model: keras.Model) -> bool:
    return bool(model.inputs[0].shape[-1] == 3)


def fetch(row: PublishedWeights) -> Path:
    """The original file of a row, downloaded into `cache_folder()` on first use.

    Raises:
        DownloadError: the file is not there and cannot be fetched.
    """
    # Twice the weights in float32, and a head of ImageNet-21k: what optimizers or averages take beside them is not
    # published.
    most = 8 * ARCHITECTURES[row.architecture].parameters + 300_000_000
    return download(row.url, cache_folder() / row.file, row.sha256_prefix, most=most)


def cache_folder() -> Path:
    """Where published checkpoints are kept: `models/keras_resnext` in Keras's own folder, $KERAS_HOME or ~/.keras."""
    home = os.environ.get("KERAS_HOME")
    return (Path(home) if home else Path.home() / ".keras") / "models" / "keras_resnext"
