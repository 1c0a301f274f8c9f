"""Reads safetensors files (huggingface/safetensors, README, "Format")."""

from __future__ import annotations

import json
import math
import mmap
from typing import Any

import numpy as np

from .storage import DTYPES, MAX_DIMENSIONS, FormatError, mapped_array

MAX_HEADER = 1 << 23  # bytes; a header takes about 100 for each tensor


def is_safetensors(data: mmap.mmap) -> bool:
    return 2 <= int.from_bytes(data[:8], "little") <= MAX_HEADER and data[8:9] == b"{"


def read_safetensors(data: mmap.mmap) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors and the texts of `__metadata__`. The data must fill the file without hole or overlap."""
    start = 8 + int.from_bytes(data[:8], "little")
    if start > len(data):
        raise FormatError(f"the safetensors header ends at byte {start}, behind the file, which may be truncated")
    header = json.loads(data[8:start].decode("utf-8"), object_pairs_hook=_unique)
    metadata = header.pop("__metadata__", {})
    if type(metadata) is not dict or any(type(value) is not str for value in metadata.values()):
        raise FormatError("safetensors header: __metadata__ must be texts by name")
    tensors, places = {}, []
    for name, entry in header.items():
        dtype, shape, begin, stop = _entry(name, entry)
        places.append((begin, stop))
        tensors[name] = mapped_array(data, dtype, math.prod(shape), start + begin).reshape(shape)
    end = 0
    for begin, stop in sorted(places):
        if begin != end:
            raise FormatError(f"safetensors header: a hole or an overlap at byte {begin} of the data")
        end = stop
    if start + end != len(data):
        raise FormatError(
            f"the safetensors data should have {end} bytes and has {len(data) - start}; it may be truncated"
        )
    return tensors, metadata


def _entry(name: str, entry: Any) -> tuple[np.dtype[Any], list[int], int, int]:
    """Type, shape, first and last byte of a tensor, as its row of the header says."""
    rows = {row.safetensors: row.numpy for row in DTYPES.values()}
    if type(entry) is not dict or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"safetensors header: {name!r} must have dtype, shape and data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if type(code) is not str or code not in rows:
        raise FormatError(f"tensor {name!r} has the unsupported type {str(code)[:20]!r}, not one of {', '.join(rows)}")
    for numbers in (shape, offsets):
        if type(numbers) is not list or any(type(number) is not int or number < 0 for number in numbers):
            raise FormatError(f"safetensors header: shape and data_offsets of {name!r} must be lists of sizes")
    count = math.prod(shape) if len(shape) <= MAX_DIMENSIONS else -1
    if count < 0 or len(offsets) != 2 or offsets[1] - offsets[0] != count * rows[code].itemsize:
        raise FormatError(f"safetensors header: data_offsets of {name!r} do not fit its shape and type")
    return rows[code], shape, offsets[0], offsets[1]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(result := dict(pairs)) != len(pairs):
        raise FormatError("safetensors header: a name stands there twice")
    return result
