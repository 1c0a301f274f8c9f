"""Keras's own files: read by their layers' names without building a model, written whole or not at all."""

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ..files import placed_whole
from ..preprocessing import Preprocessing
from .keras_archive import read_config, read_keras_file, readable
from .names import module_name

KERAS_SUFFIXES = (".keras", ".weights.h5")

# Entries of a layer in the order in which Keras writes them, by the rank of the first: norms, dense, convolutions.
_ENTRIES = {1: ("weight", "bias", "running_mean", "running_var"), **dict.fromkeys((2, 3, 4), ("weight", "bias"))}
_TO_PYTORCH = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1)}
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

    The arrays are views of the mapped file, which must not be truncated meanwhile.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: no readable file of Keras, or one whose layers have no names (Keras before 3.10). It is a
            ValueError.
    """
    weights: dict[str, np.ndarray] = {}
    contents = read_keras_file(path).weights
    members: dict[str, list[str]] = {}
    for place in contents.arrays:
        members.setdefault(place.rpartition("/")[0], []).append(place)
    with readable(path):
        for place, attributes in contents.groups.items():
            if not place.startswith("layers/") or "name" not in attributes:
                continue
            inside, layer = members.get(place, ()), attributes["name"]
            arrays = [contents.arrays[f"{place}/{index}"] for index in range(len(inside))]
            kinds = _ENTRIES.get(arrays[0].ndim, ()) if arrays else ()
            if len(arrays) > len(kinds):
                raise ValueError(f"layer {layer!r} is of no kind that a ResNeXt has")
            for kind, array in zip(kinds, arrays, strict=False):
                axes, name = _TO_PYTORCH.get(array.ndim), f"{module_name(layer)}.{kind}"
                if name in weights:
                    raise ValueError(f"two layers are called {layer!r}")
                weights[name] = array.transpose(axes) if axes else array
        if not weights:
            raise ValueError("its layers have no names, or no weights")
    return weights


def read_preprocessing(path: str | os.PathLike[str]) -> Preprocessing | None:
    """What a .keras file says of how its images are prepared; None if it says nothing.

    Raises:
        FileNotFoundError, ValueError: as `read_keras_weights`.
    """
    with readable(path):
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
