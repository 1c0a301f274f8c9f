"""Numbers in a mapped file as read-only NumPy arrays, under the names that each format gives their types."""

from __future__ import annotations

import mmap
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

MAX_DIMENSIONS = 32  # what every NumPy supports


class FormatError(ValueError):
    """What is wrong with a file, before its name is put in front."""


class DType(NamedTuple):
    """One element type under its three names; all formats store it little-endian."""

    numpy: np.dtype[Any]
    storage: str
    safetensors: str


DTYPES: dict[str, DType] = {
    "float16": DType(np.dtype("<f2"), "HalfStorage", "F16"),
    "float32": DType(np.dtype("<f4"), "FloatStorage", "F32"),
    "float64": DType(np.dtype("<f8"), "DoubleStorage", "F64"),
    "bfloat16": DType(np.dtype(ml_dtypes.bfloat16), "BFloat16Storage", "BF16"),
    "int8": DType(np.dtype("i1"), "CharStorage", "I8"),
    "int16": DType(np.dtype("<i2"), "ShortStorage", "I16"),
    "int32": DType(np.dtype("<i4"), "IntStorage", "I32"),
    "int64": DType(np.dtype("<i8"), "LongStorage", "I64"),
    "uint8": DType(np.dtype("u1"), "ByteStorage", "U8"),
    "bool": DType(np.dtype("?"), "BoolStorage", "BOOL"),
}


def frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def mapped_array(data: mmap.mmap, dtype: np.dtype[Any], count: int, start: int) -> np.ndarray:
    """`count` elements of the file, in bounds, as a read-only view."""
    if count < 0 or not 0 <= start <= len(data) or count * dtype.itemsize > len(data) - start:
        raise FormatError(f"{count} elements of {dtype} at byte {start} end behind the file, which may be truncated")
    return frozen(np.frombuffer(data, dtype, count, start) if count else np.empty(0, dtype))


def storage_id(identity: tuple[Any, ...]) -> tuple[np.dtype[Any], str, int]:
    """Element type, key and element count of a persistent id `("storage", class, key, location, count[, view])`."""
    dtype, key, count = getattr(identity[1], "dtype", None), identity[2], identity[4]
    if not isinstance(dtype, np.dtype) or type(key) is not str or type(count) is not int or count < 0:
        raise FormatError("a storage must have a storage class, a key and a count")
    if any(view is not None for view in identity[5:]):
        raise FormatError("a storage view, as torch wrote it before 0.2; load and save it again with a newer torch")
    return dtype, key, count
