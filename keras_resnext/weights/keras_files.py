"""Keras's own files: read by their layers' names without building a model, written whole or not at all."""

import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import h5py
import ml_dtypes
import numpy as np

from ..files import placed_whole
from ..preprocessing import Preprocessing
from .names import module_name

KERAS_SUFFIXES = (".keras", ".weights.h5")

# Entries of a layer in the order in which Keras writes them, by the rank of the first: norms, dense, convolutions.
_ENTRIES = {1: ("weight", "bias", "running_mean", "running_var"), **dict.fromkeys((2, 3, 4), ("weight", "bias"))}
_TO_PYTORCH = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1)}
MAX_EXPANSION = 10  # bytes read for one in the file; weights hardly compress
_RECORD = "keras_resnext>InputPreprocessing"


def save_keras(model: Any, path: str | os.PathLike[str]) -> None:
    """Saves a Keras model to `path`, .keras for all of it or .weights.h5; whoever looks sees the old file or the new.

    Raises:
        ValueError: another suffix.
        OSError: the disk refuses.
    """
    target = Path(os.path.realpath(path))
    suffix = next((suffix for suffix in KERAS_SUFFIXES if target.name.endswith(suffix)), None)
    if suffix is None:
        raise ValueError(f"path={os.fspath(path)!r} must end in one of {', '.join(KERAS_SUFFIXES)}")
    with placed_whole(target) as aside:
        if suffix == ".keras":
            model.save(aside)
        else:
            # HDF5 crashes the process where the disk is full. In a .keras file the same weights go through memory.
            whole = aside.with_name(f"{aside.name}.keras")
            model.save(whole)
            with (
                zipfile.ZipFile(whole) as zipped,
                zipped.open("model.weights.h5") as weights,
                open(aside, "wb") as file,
            ):
                shutil.copyfileobj(weights, file)
            whole.unlink()


def read_keras_weights(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The weights in a .keras or .weights.h5 file under mmcls's names and in PyTorch's shapes, as a state_dict is.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no readable file of Keras, or one whose layers have no names (Keras before 3.10).
    """
    weights: dict[str, np.ndarray] = {}

    def visit(place: str, group: Any) -> None:
        if not isinstance(group, h5py.Group) or not place.startswith("layers/") or "name" not in group.attrs:
            return
        arrays = [_read(group, str(index)) for index in range(len(group))]
        kinds = _ENTRIES.get(arrays[0].ndim, ()) if arrays else ()
        if len(arrays) > len(kinds):
            raise ValueError(f"layer {group.attrs['name']!r} is of no kind that a ResNeXt has")
        for kind, array in zip(kinds, arrays, strict=False):
            axes, name = _TO_PYTORCH.get(array.ndim), f"{module_name(str(group.attrs['name']))}.{kind}"
            if name in weights:
                raise ValueError(f"two layers are called {group.attrs['name']!r}")
            weights[name] = array.transpose(axes) if axes else array

    with _readable(path), _open_weights(path) as file:
        file.visititems(visit)  # it follows no links
        if not weights:
            raise ValueError("its layers have no names, or no weights")
    return weights


def read_preprocessing(path: str | os.PathLike[str]) -> Preprocessing | None:
    """What a .keras file says of how its images are prepared; None if it says nothing.

    Raises:
        FileNotFoundError, ValueError: as `read_keras_weights`.
    """
    with _readable(path):
        waiting: list[Any] = [read_config(path)]
        while waiting:
            value = waiting.pop()
            if isinstance(value, dict):
                if value.get("registered_name") == _RECORD:
                    return Preprocessing(**value["config"]["preprocessing"])
                waiting.extend(value.values())
            elif isinstance(value, list):
                waiting.extend(value)
    return None


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The `config.json` of a .keras file."""
    with _readable(path), zipfile.ZipFile(path) as archive:
        config = json.loads(_member(archive, "config.json").read())
        if not isinstance(config, dict):
            raise ValueError("its config.json is no dictionary")
        return config


@contextmanager
def _readable(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile, h5py and json raise anything at all on broken or foreign files
        raise ValueError(f"{os.fspath(path)}: no readable Keras file: {error}") from error


@contextmanager
def _open_weights(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    if os.fspath(path).endswith(".keras"):
        with zipfile.ZipFile(path) as archive, h5py.File(_member(archive, "model.weights.h5")) as file:
            yield file
    else:
        with h5py.File(path) as file:
            yield file


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """A file in the archive, in memory if it is not huge for what is stored of it."""
    stored = archive.getinfo(name)
    if stored.file_size > MAX_EXPANSION * stored.compress_size + (1 << 20):
        raise ValueError(f"{name} is {stored.file_size} bytes out of {stored.compress_size}, which no weights are")
    return io.BytesIO(archive.read(stored))


def _read(group: Any, name: str) -> np.ndarray:
    dataset = group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise ValueError(f"{group.name}/{name} is no array of this file's own")
    if dataset.nbytes > MAX_EXPANSION * dataset.id.get_storage_size():
        raise ValueError(f"{dataset.name} is {dataset.nbytes} bytes out of {dataset.id.get_storage_size()} in the file")
    array = np.asarray(dataset[()])
    # h5py has no bfloat16: Keras stores its bytes and an attribute.
    return array.view(ml_dtypes.bfloat16) if array.dtype.kind == "V" and array.dtype.itemsize == 2 else array
