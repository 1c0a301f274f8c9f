"""Reads torch.save's zip format (torch/serialization.py; APPNOTE.TXT): a stored entry for the pickle and each storage.

The standard library's zipfile would copy every entry; here the directory alone is read, and the file stays mapped.
"""

from __future__ import annotations

import io
import mmap
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .rebuild import HINT, load
from .storage import FormatError, mapped_array, storage_id
from .unpickler import MAX_PICKLE

MAX_ENTRIES = 100_000  # torch writes one for each tensor


class _Entry(NamedTuple):
    start: int  # of the content
    size: int
    plain: bool  # neither compressed nor encrypted


def _unpack(layout: str, data: mmap.mmap | bytes, position: int, what: str) -> tuple[Any, ...]:
    if position < 0 or position + struct.calcsize(layout) > len(data):
        raise FormatError(f"the zip archive's {what} lies outside of the file, which may be truncated")
    return struct.unpack_from(layout, data, position)


def _directory(data: mmap.mmap) -> dict[str, _Entry]:
    """The entries of a zip archive by its central directory, the zip64 one where there is one."""
    end = data.rfind(b"PK\x05\x06", max(0, len(data) - 65557))
    if end < 0:
        raise FormatError("a zip archive without its directory; the file is probably truncated")
    count, length, start = _unpack("<10xHLL2x", data, end, "end")
    if data[max(0, end - 20) : end - 16] == b"PK\x06\x07":
        (end,) = _unpack("<8xQ4x", data, end - 20, "zip64 locator")
        magic, count, length, start = _unpack("<4s28xQQQ", data, end, "zip64 end")
        if magic != b"PK\x06\x06":
            raise FormatError("the zip archive's zip64 end is not where its locator says")
    if count > MAX_ENTRIES or start + length > end:
        raise FormatError(f"the zip archive's directory of {count} entries at byte {start} is out of bounds")
    entries: dict[str, _Entry] = {}
    for _ in range(count):
        magic, flags, method, packed, size, names, extras, comments, offset = _unpack(
            "<4s4xHH8xLLHHH8xL", data, start, "directory"
        )
        if magic != b"PK\x01\x02" or start + 46 + names + extras > end:
            raise FormatError("the zip archive's directory is damaged")
        name = data[start + 46 : start + 46 + names].decode("utf-8", "surrogateescape")
        extra = data[start + 46 + names : start + 46 + names + extras]
        size, packed, offset = _zip64(extra, (size, packed, offset))
        magic, local_names, local_extras = _unpack("<4s22xHH", data, offset, "entry")
        content = offset + 30 + local_names + local_extras
        if magic != b"PK\x03\x04" or content + packed > end or (method == 0 and packed != size):
            raise FormatError(f"the zip archive's entry {name!r} is damaged or out of bounds")
        if name in entries:
            raise FormatError(f"the zip archive has two entries {name!r}")
        entries[name] = _Entry(content, size, method == 0 and not flags & 1)
        start += 46 + names + extras + comments
    return entries


def _zip64(extra: bytes, values: tuple[int, ...]) -> Iterator[int]:
    """The values, each one that is full (0xFFFFFFFF) taken from the zip64 extra field."""
    position = 0
    while position + 4 <= len(extra) and extra[position : position + 2] != b"\x01\x00":
        position += 4 + int.from_bytes(extra[position + 2 : position + 4], "little")
    position += 4
    for value in values:
        if value == 0xFFFFFFFF:
            (value,) = _unpack("<Q", extra, position, "zip64 extra field")
            position += 8
        yield value


def read_zip(data: mmap.mmap) -> Any:
    """What `data.pkl` builds; its storages are views of the stored entries beside it."""
    entries = _directory(data)
    if {"config.json", "metadata.json"} <= entries.keys():
        raise FormatError("not a checkpoint but a Keras model (.keras); load it with keras.saving.load_model")
    roots = [name[: -len("data.pkl")] for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
        raise FormatError("a zip archive without data.pkl, so not of torch.save")
    root = roots[0]
    if f"{root}constants.pkl" in entries or any(name.startswith(f"{root}code/") for name in entries):
        raise FormatError(f"a TorchScript archive (torch.jit.save); {HINT}")

    def content(name: str) -> _Entry:
        entry = entries.get(root + name)
        if entry is None or not entry.plain:
            raise FormatError(f"the zip archive's entry {name!r} is {'compressed' if entry else 'missing'}")
        return entry

    order = content("byteorder") if f"{root}byteorder" in entries else None
    if order and (written := data[order.start : order.start + min(order.size, 16)]) != b"little":
        raise FormatError(f"byte order {written!r}; only little-endian files are read")

    def storage(identity: tuple[Any, ...]) -> np.ndarray:
        dtype, key, count = storage_id(identity)
        entry = content(f"data/{key}")
        if count != entry.size // dtype.itemsize:
            raise FormatError(f"storage {key!r} has {entry.size} bytes and should have {count} elements of {dtype}")
        return mapped_array(data, dtype, count, entry.start)

    start, size, _ = content("data.pkl")
    if size > MAX_PICKLE:
        raise FormatError(f"data.pkl has {size} bytes, and at most {MAX_PICKLE} are read")
    return load(io.BytesIO(data[start : start + size]), storage)
