"""Reads torch.save's zip format (torch/serialization.py; APPNOTE.TXT): a stored entry for the pickle and each storage.

The standard library's zipfile would copy every entry; here the directory alone is read, and the file stays mapped.
"""

from __future__ import annotations

import functools
import itertools
import mmap
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .file_part import FilePart
from .rebuild import HINT, load
from .storage import FormatError, mapped_array, storage_id

MAX_ENTRIES = 50_000  # torch writes one for each tensor
DESCRIPTOR = 1 << 3  # the flag of sizes and CRC-32 behind the content, and not in front
FLAGS = DESCRIPTOR | 1 << 11 | 0b110  # names in UTF-8, and what compression was told; not encryption or patches


class Entry(NamedTuple):
    place: int  # of the local header
    start: int  # of the content
    packed: int  # bytes in the file
    size: int
    plain: bool  # not compressed
    crc: int | None  # None where torch was told to compute none


def _unpack(layout: str, data: mmap.mmap | bytes, position: int, what: str) -> tuple[Any, ...]:
    if position < 0 or position + struct.calcsize(layout) > len(data):
        raise FormatError(f"the zip archive's {what} lies outside of the file, which may be truncated")
    return struct.unpack_from(layout, data, position)


def read_directory(data: mmap.mmap) -> dict[str, Entry]:
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
    entries: dict[str, Entry] = {}
    for _ in range(count):
        magic, flags, method, crc, packed, size, names, extras, comments, offset = _unpack(
            "<4s4xHH4xLLLHHH8xL", data, start, "directory"
        )
        if magic != b"PK\x01\x02" or start + 46 + names + extras > end:
            raise FormatError("the zip archive's directory is damaged")
        raw = data[start + 46 : start + 46 + names]
        name = raw.decode("utf-8", "surrogateescape")
        if name in entries:
            raise FormatError(f"the zip archive has two entries {name!r}")
        if flags & ~FLAGS:
            raise FormatError(f"the zip archive's entry {name!r} is encrypted or of an unknown kind (flags {flags:#x})")
        extra = data[start + 46 + names : start + 46 + names + extras]
        size, packed, offset = _zip64(extra, (size, packed, offset))
        content = _check_local(data, offset, raw, (flags, method, crc, packed, size))
        if content + packed > end or (method == 0 and packed != size):
            raise FormatError(f"the zip archive's entry {name!r} is damaged or out of bounds")
        known = None if crc == 0 and flags & DESCRIPTOR else crc
        entries[name] = Entry(offset, content, packed, size, method == 0, known)
        start += 46 + names + extras + comments
    for first, second in itertools.pairwise(sorted(entries.values())):
        if first.start + first.packed > second.place:
            raise FormatError("the zip archive's entries overlap")
    return entries


def _check_local(data: mmap.mmap, offset: int, name: bytes, central: tuple[int, ...]) -> int:
    """Where an entry's content begins; what its own header says must be what the directory says.

    Args:
        central: flags, method, CRC-32, packed size and size by the directory.
    """
    shown = name.decode("utf-8", "surrogateescape")
    magic, *local, names, extras = _unpack("<4s2xHH4xLLLHH", data, offset, "entry")
    start = offset + 30 + names
    if magic != b"PK\x03\x04" or data[offset + 30 : start] != name:
        raise FormatError(f"the zip archive's entry {shown!r} is damaged or out of bounds")
    flags, method, crc, packed, size = local
    if packed == 0xFFFFFFFF or size == 0xFFFFFFFF:
        size, packed = _zip64(data[start : start + extras], (size, packed))
    behind = flags & DESCRIPTOR and (crc, packed, size) == (0, 0, 0)
    if (flags, method) != central[:2] or not (behind or (crc, packed, size) == central[2:]):
        raise FormatError(f"the zip archive's directory and its entry {shown!r} contradict each other")
    return start + extras


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
    entries, whole = read_directory(data), memoryview(data)
    if {"config.json", "metadata.json"} <= entries.keys():
        raise FormatError("not a checkpoint but a Keras model (.keras); load it with keras.saving.load_model")
    roots = [name[: -len("data.pkl")] for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
        raise FormatError("a zip archive without data.pkl, so not of torch.save")
    root = roots[0]
    if f"{root}constants.pkl" in entries or any(name.startswith(f"{root}code/") for name in entries):
        raise FormatError(f"a TorchScript archive (torch.jit.save); {HINT}")

    @functools.cache
    def content(name: str) -> Entry:
        entry = entries.get(root + name)
        if entry is None or not entry.plain:
            raise FormatError(f"the zip archive's entry {name!r} is {'compressed' if entry else 'missing'}")
        if entry.crc is not None and zlib.crc32(whole[entry.start : entry.start + entry.size]) != entry.crc:
            raise FormatError(f"the zip archive's entry {name!r} is damaged: its CRC-32 is not the one that was stored")
        return entry

    order = content("byteorder") if f"{root}byteorder" in entries else None
    if order and (written := data[order.start : order.start + min(order.size, 16)]) != b"little":
        raise FormatError(f"byte order {written!r}; only little-endian files are read")

    kinds: dict[str, np.dtype[Any]] = {}

    def storage(identity: tuple[Any, ...]) -> np.ndarray:
        dtype, key, count = storage_id(identity)
        if kinds.setdefault(key, dtype) != dtype:  # PyTorch would take the first for all
            raise FormatError(f"storage {key!r} has two types, {kinds[key]} and {dtype}")
        entry = content(f"data/{key}")
        if count != entry.size // dtype.itemsize:
            raise FormatError(f"storage {key!r} has {entry.size} bytes and should have {count} elements of {dtype}")
        return mapped_array(data, dtype, count, entry.start)

    entry = content("data.pkl")
    return load(FilePart(data, entry.start, entry.start + entry.size), storage)
