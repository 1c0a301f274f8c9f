"""Writes .pth, .pt and .safetensors files without PyTorch (torch/serialization.py; huggingface/safetensors)."""

from __future__ import annotations

import json
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..files import placed_whole
from .storage import DTYPES

ALIGNMENT = 64  # of tensor data, as in torch


def write_checkpoint(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Write named arrays so that torch.load(weights_only=True) or safetensors reads them, by the suffix of `path`.

    .pth and .pt hold an OrderedDict in the order of `tensors`. The file appears whole or not at all: it is written
    beside its place under another name, synced, then moved. At most one array is copied at a time. Raises ValueError
    for another suffix, a name that is no text or a type that torch lacks; OSError where the disk refuses.
    """
    target = Path(os.path.realpath(path))
    if target.suffix not in _WRITERS:
        raise ValueError(f"path {str(path)!r} must end in one of {', '.join(_WRITERS)}")
    for name, array in tensors.items():
        if type(name) is not str or (name == "__metadata__" and target.suffix == ".safetensors"):
            raise ValueError(f"a tensor cannot be named {name!r}")
        if np.asarray(array).dtype.name not in DTYPES:
            raise ValueError(f"tensor {name!r} has the type {np.asarray(array).dtype}, not one of {', '.join(DTYPES)}")
    with placed_whole(target) as aside, open(aside, "xb") as file:
        _WRITERS[target.suffix](file, tensors)


def _content(array: np.ndarray) -> memoryview:
    """The array's elements as contiguous little-endian bytes."""
    array = np.asarray(array)
    return np.ascontiguousarray(array, DTYPES[array.dtype.name].numpy).reshape(-1).view(np.uint8).data


def _write_safetensors(file: IO[bytes], tensors: Mapping[str, np.ndarray]) -> None:
    # The data stands by falling element size, as the safetensors library writes it, so that all of it is aligned.
    order = sorted(tensors, key=lambda name: -np.asarray(tensors[name]).itemsize)
    ends: dict[str, int] = {}
    end = 0
    for name in order:
        end = ends[name] = end + np.asarray(tensors[name]).nbytes
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name, value in tensors.items():
        array = np.asarray(value)
        offsets = [ends[name] - array.nbytes, ends[name]]
        header[name] = {"dtype": DTYPES[array.dtype.name].safetensors, "shape": array.shape, "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        file.write(_content(tensors[name]))


def _write_zip(file: IO[bytes], tensors: Mapping[str, np.ndarray]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, content: bytes | memoryview) -> None:
            entry = zipfile.ZipInfo(f"archive/{name}")
            entry.file_size = len(content)
            wide = entry.file_size * 1.05 > zipfile.ZIP64_LIMIT  # zipfile's own rule for a 20 byte zip64 field
            head = file.tell() + 30 + len(entry.filename) + 20 * wide + 4
            padding = -head % ALIGNMENT
            entry.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding  # as torch pads
            with archive.open(entry, "w", force_zip64=wide) as stream:
                stream.write(content)

        add("data.pkl", _pickle(tensors))
        add("byteorder", b"little")
        for index, array in enumerate(tensors.values()):
            add(f"data/{index}", _content(array))
        add("version", b"3\n")


def _pickle(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The pickle, protocol 2, of an OrderedDict of tensors, as torch.save writes it."""

    def integer(value: int) -> bytes:
        encoded = pickle.encode_long(value)
        return pickle.LONG1 + bytes([len(encoded)]) + encoded

    def text(value: str) -> bytes:
        encoded = value.encode("utf-8", "surrogatepass")
        return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded

    def sequence(items: list[bytes]) -> bytes:
        return pickle.MARK + b"".join(items) + pickle.TUPLE

    empty = pickle.GLOBAL + b"collections\nOrderedDict\n" + pickle.EMPTY_TUPLE + pickle.REDUCE
    parts = [pickle.PROTO + b"\x02", empty, pickle.MARK]
    for index, (name, value) in enumerate(tensors.items()):
        array = np.asarray(value)
        kind = pickle.GLOBAL + f"torch\n{DTYPES[array.dtype.name].storage}\n".encode()
        storage = (
            sequence([text("storage"), kind, text(str(index)), text("cpu"), integer(array.size)]) + pickle.BINPERSID
        )
        strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
        size, stride = sequence([*map(integer, array.shape)]), sequence([*map(integer, strides)])
        rebuild = pickle.GLOBAL + b"torch._utils\n_rebuild_tensor_v2\n"
        arguments = sequence([storage, integer(0), size, stride, pickle.NEWFALSE, empty])
        parts += [text(name), rebuild, arguments, pickle.REDUCE]
    return b"".join(parts) + pickle.SETITEMS + pickle.STOP


_WRITERS: dict[str, Callable[[IO[bytes], Mapping[str, np.ndarray]], None]] = {
    ".pth": _write_zip,
    ".pt": _write_zip,
    ".safetensors": _write_safetensors,
}
SUFFIXES = tuple(_WRITERS)
