"""Reads torch.save's format before 1.6 (torch/serialization.py, `_legacy_load`), and plain pickles of arrays."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

from .file_part import FilePart
from .rebuild import load
from .storage import FormatError, mapped_array, storage_id
from .unpickler import MAX_WORK

LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
LEGACY_WORK = MAX_WORK // 2  # for each of the three pickles that take long


def read_legacy(data: mmap.mmap) -> Any:
    """Pickles of magic number, protocol, system, object, storage keys; then for each storage its count and content.

    A plain pickle of named arrays, as Detectron2 publishes them, or of a list that holds such, is the object itself and
    may fill the whole file.
    """
    file = FilePart(data, 0, len(data))
    magic, protocol = load(file, _no_storage), None
    if isinstance(magic, (dict, list, tuple)) and magic:
        return magic
    if type(magic) is int and magic == LEGACY_MAGIC:
        protocol = load(file, _no_storage, 100)
    if type(protocol) is not int or protocol != LEGACY_PROTOCOL:
        raise FormatError("a pickle, but not one of torch.save")
    load(file, _no_storage, 1000)  # the system's type sizes; the content is little-endian on every system
    sizes: dict[str, tuple[np.dtype[Any], int]] = {}
    places: dict[str, int] = {}

    def survey(identity: tuple[Any, ...]) -> np.ndarray:
        dtype, key, count = storage_id(identity)
        if sizes.setdefault(key, (dtype, count)) != (dtype, count):
            raise FormatError(f"storage {key!r} has two types or sizes")
        return mapped_array(data, dtype, count, 0)

    def storage(identity: tuple[Any, ...]) -> np.ndarray:
        dtype, key, count = storage_id(identity)
        return mapped_array(data, dtype, count, places[key])

    # Only the object says how wide each storage's elements are, and it stands before them: it is built twice, first
    # with the beginning of the file in place of every storage.
    beginning = file.tell()
    load(file, survey, LEGACY_WORK)
    keys = load(file, _no_storage, LEGACY_WORK)
    position = file.tell()
    if type(keys) is not list or any(type(key) is not str for key in keys) or sorted(keys) != sorted(sizes):
        raise FormatError("the list of storages does not fit the object")
    for key in keys:
        dtype, count = sizes[key]
        if data[position : position + 8] != count.to_bytes(8, "little"):
            raise FormatError(
                f"storage {key!r} at byte {position} should have {count} elements; the file may be truncated"
            )
        places[key] = position + 8
        position += 8 + mapped_array(data, dtype, count, position + 8).nbytes
    file.seek(beginning)
    return load(file, storage, LEGACY_WORK)


def _no_storage(identity: tuple[Any, ...]) -> np.ndarray:
    raise FormatError("a storage where there can be none")
