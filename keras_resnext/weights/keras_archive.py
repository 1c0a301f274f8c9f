"""Opens files of Keras that nobody vouches for: the parts of a .keras archive, and the arrays of its HDF5 file."""

from __future__ import annotations

import io
import json
import mmap
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import h5py
import numpy as np

from ..pytorch.checkpoint import CheckpointError
from ..pytorch.torch_zip import Entry, read_directory
from .hdf5_reader import Contents, read_hdf5

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
MAX_CONFIG = 4 << 20  # bytes; of a ResNeXt-101 0.4 MB
MAX_EXPANSION = 2  # bytes unpacked for one in the file, which Keras does not compress
SPARE = 32 << 20


class KerasFile(NamedTuple):
    """A file of Keras: `config` as in config.json, None where the file holds weights alone."""

    config: dict[str, Any] | None
    weights: Contents


@contextmanager
def readable(path: str | os.PathLike[str]) -> Iterator[None]:
    """Whatever a broken or foreign file makes raise becomes a CheckpointError that names it."""
    try:
        yield
    except (FileNotFoundError, CheckpointError):
        raise
    except Exception as error:  # Keras, zlib and json raise anything at all
        text = str(error) or type(error).__name__
        raise CheckpointError(f"{os.fspath(path)}: no readable Keras file: {text[:1000]}") from error


def read_keras_file(path: str | os.PathLike[str]) -> KerasFile:
    """All of a .keras or .weights.h5 file; its arrays are views of the mapped file, which must not be truncated.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: no readable file of Keras. It is a ValueError.
    """
    with readable(path):
        data = _mapped(path)
        if not os.fspath(path).endswith(".keras"):
            return KerasFile(None, read_hdf5(memoryview(data)))
        entries = read_directory(data)
        return KerasFile(_config(data, entries), read_hdf5(_content(data, entries, WEIGHTS)))


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The `config.json` of a .keras file.

    Raises:
        FileNotFoundError, CheckpointError: as `read_keras_file`.
    """
    with readable(path):
        data = _mapped(path)
        return _config(data, read_directory(data))


def to_hdf5(contents: Contents) -> io.BytesIO:
    """What was read, and nothing else, as Keras would write it. In memory: HDF5 crashes where a disk is full."""
    clean = io.BytesIO()
    with h5py.File(clean, "w") as file:
        for place, attributes in contents.groups.items():
            file.require_group(place or "/").attrs.update(attributes)
        for place, array in contents.arrays.items():
            dataset = file.create_dataset(place, data=array)
            if array.dtype.name == "bfloat16":
                dataset.attrs["dtype"] = "bfloat16"
    return clean


def _mapped(path: str | os.PathLike[str]) -> mmap.mmap:
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("not a regular file")
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _config(data: mmap.mmap, entries: dict[str, Entry]) -> dict[str, Any]:
    if CONFIG in entries and entries[CONFIG].size > MAX_CONFIG:
        raise ValueError(f"its {CONFIG} is {entries[CONFIG].size} bytes; up to {MAX_CONFIG} are read")
    others = sorted(name for name in entries.keys() - {CONFIG, METADATA, WEIGHTS} if not name.endswith("/"))
    if others:
        raise ValueError(f"it holds {others[0][:80]!r}; only {CONFIG}, {METADATA} and {WEIGHTS} are read")
    config = json.loads(bytes(_content(data, entries, CONFIG)))
    if not isinstance(config, dict):
        raise ValueError(f"its {CONFIG} is no dictionary")
    return config


def _content(data: mmap.mmap, entries: dict[str, Entry], name: str) -> memoryview:
    """The bytes of an entry: of the mapped file, or unpacked where somebody packed them."""
    if name not in entries:
        raise ValueError(f"it has no {name}")
    entry = entries[name]
    content = memoryview(data)[entry.start : entry.start + entry.packed]
    if not entry.plain:
        if entry.size > MAX_EXPANSION * len(data) + SPARE:
            raise ValueError(f"{name} is {entry.size} bytes out of {entry.packed}, which no weights are")
        unpacking = zlib.decompressobj(-zlib.MAX_WBITS)
        unpacked = unpacking.decompress(content, entry.size + 1)
        if len(unpacked) != entry.size or not unpacking.eof:
            raise ValueError(f"{name} is not the {entry.size} bytes that the archive says")
        content = memoryview(unpacked)
    if entry.crc is not None and zlib.crc32(content) != entry.crc:
        raise ValueError(f"{name} is damaged: its CRC-32 is not the one that was stored")
    return content


def count_numbers(contents: Contents) -> int:
    """How many numbers a weights file holds."""
    return int(sum(np.size(array) for array in contents.arrays.values()))
