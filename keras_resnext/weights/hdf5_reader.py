"""The part of HDF5 that Keras writes, read in bounded work from bytes that nobody vouches for.

HDF5's C library hangs or crashes on damaged files, so it never sees a foreign one. h5py writes Keras's files in the
format of HDF5 1.0: symbol tables, arrays in one piece, texts as attributes. All else is refused: other links than hard
ones, chunks and filters, data in other files. The format: support.hdfgroup.org, "HDF5 File Format Specification 3.0".
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

MAX_STEPS = 200_000  # messages, links and nodes; a ResNeXt-101 with an optimizer's state takes 20,000
MAX_DEPTH = 64
MAX_TEXT = 4096  # bytes of a name
MAX_RANK = 8
NOWHERE = (1 << 64) - 1

# Bits of the exponent and of the mantissa -> dtype.
_FLOATS: dict[tuple[int, int], Any] = {
    (5, 10): np.float16,
    (8, 7): ml_dtypes.bfloat16,
    (8, 23): np.float32,
    (11, 52): np.float64,
}
_HARMLESS = {0x00: "nil", 0x04: "old fill value", 0x05: "fill value", 0x0E: "old time", 0x12: "time"}
_REFUSED = {
    0x02: "links of HDF5 1.8",
    0x06: "links of HDF5 1.8",
    0x07: "data in other files",
    0x0B: "compressed or filtered data",
    0x15: "attributes of HDF5 1.8",
}


class Hdf5Error(ValueError):
    """Bytes that are not HDF5, or HDF5 that Keras does not write."""


@dataclass
class Contents:
    """What an HDF5 file holds, by paths without a leading slash; arrays are views of the file's bytes."""

    groups: dict[str, dict[str, str]] = field(default_factory=dict)  # their attributes that are texts
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


def read_hdf5(data: memoryview) -> Contents:
    """Reads all of a file.

    Every object, node and heap is read once at most and steps are counted, so no content makes this loop or grow:
    all arrays together are no larger than the file.

    Raises:
        Hdf5Error: damaged, or with something that Keras does not write.
    """
    return _Reader(data).read()


class _Reader:
    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.seen: set[int] = set()
        self.steps = 0
        self.array_bytes = 0
        self.heaps: dict[int, dict[int, tuple[int, int]]] = {}

    def read(self) -> Contents:
        magic, version, *_, offsets, lengths = self.unpack("<8s7B", 0)
        if magic != b"\x89HDF\r\n\x1a\n":
            raise Hdf5Error("not an HDF5 file")
        if version != 0 or (offsets, lengths) != (8, 8):
            raise Hdf5Error(f"HDF5 superblock {version}; Keras writes 0")
        base, _, end, _, _, root = self.unpack("<6Q", 24)
        if base or end > len(self.data):
            raise Hdf5Error(f"the file has {len(self.data)} bytes and should have {end}; it may be truncated")
        found = Contents()
        waiting = [("", root, 0)]
        while waiting:
            path, address, depth = waiting.pop()
            if depth > MAX_DEPTH:
                raise Hdf5Error(f"groups inside one another, more than {MAX_DEPTH} deep")
            messages = list(self.messages(address))
            kinds = [kind for kind, _, _ in messages]
            attributes = dict(self.attributes(messages))
            if 0x11 in kinds:
                start = messages[kinds.index(0x11)][1]
                found.groups[path] = attributes
                links = list(self.links(*self.unpack("<QQ", start)))
                if len(dict(links)) != len(links):
                    raise Hdf5Error(f"group {path!r} has two members of one name")
                # Last in, first out: members come in the order of the file.
                waiting.extend((f"{path}/{name}".lstrip("/"), place, depth + 1) for name, place in reversed(links))
            elif 0x08 in kinds:
                array = self.array(path, {kind: (start, size) for kind, start, size in messages})
                is_bfloat16 = attributes.get("dtype") == "bfloat16" and array.dtype == "V2"
                found.arrays[path] = array.view(ml_dtypes.bfloat16) if is_bfloat16 else array
            else:
                raise Hdf5Error(f"{path!r} is neither a group nor an array")
        return found

    def unpack(self, layout: str, position: int) -> tuple[Any, ...]:
        if position + struct.calcsize(layout) > len(self.data):
            raise Hdf5Error(f"byte {position} is beyond the end of the file, which may be truncated")
        return struct.unpack_from(layout, self.data, position)

    def step(self) -> None:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise Hdf5Error(f"more than {MAX_STEPS} objects, links and attributes")

    def once(self, address: int) -> None:
        """Refuses a structure that something else already is or points to, as hard links and cycles do."""
        self.step()
        if address in self.seen:
            raise Hdf5Error(f"two things point to byte {address}; Keras writes no links")
        self.seen.add(address)

    def messages(self, address: int) -> Iterator[tuple[int, int, int]]:
        """(kind, start, size) of an object header's messages."""
        self.once(address)
        version, count, size = self.unpack("<BxH4xL", address)
        if version != 1:
            raise Hdf5Error(f"object header {version} at byte {address}; Keras writes 1")
        blocks = [(address + 16, size)]
        for position, size in blocks:
            end = position + size
            while position + 8 <= end and count:
                self.step()
                count -= 1
                kind, length, flags = self.unpack("<HHB", position)
                start, position = position + 8, position + 8 + length
                if position > min(end, len(self.data)):
                    raise Hdf5Error(f"a message at byte {start} is longer than its header")
                if kind == 0x10:
                    place, room = self.unpack("<QQ", start)
                    self.once(place)
                    blocks.append((place, room))
                elif kind in _REFUSED or flags & 2:
                    raise Hdf5Error(f"{_REFUSED.get(kind, 'shared messages')}, which Keras does not write")
                elif kind in (0x01, 0x03, 0x08, 0x0C, 0x11):
                    yield kind, start, length
                elif kind not in _HARMLESS:
                    raise Hdf5Error(f"a message of kind {kind:#x}, which Keras does not write")

    def links(self, tree: int, heap: int) -> Iterator[tuple[str, int]]:
        """(name, address of the object) of a group's members."""
        self.once(heap)
        magic, size, names = self.unpack("<4s4xQ8xQ", heap)
        if magic != b"HEAP":
            raise Hdf5Error(f"no heap of names at byte {heap}")
        nodes = [tree]
        while nodes:
            node = nodes.pop()
            self.once(node)
            magic, kind, _, used = self.unpack("<4sBBH", node)
            if magic == b"TREE" and kind == 0:
                nodes += reversed([self.unpack("<Q", node + 32 + 16 * index)[0] for index in range(used)])
                self.steps += used
            elif magic == b"SNOD":
                for index in range(self.unpack("<6xH", node)[0]):
                    self.step()
                    offset, place, cached = self.unpack("<QQL", node + 8 + 40 * index)
                    if cached > 1:
                        raise Hdf5Error("a soft link, which Keras does not write")
                    if offset >= size:
                        raise Hdf5Error(f"a name at byte {offset} of {size}")
                    name = self.text(names + offset, min(size - offset, MAX_TEXT)).partition(b"\0")[0]
                    yield _decoded(name, as_member=True), place
            else:
                raise Hdf5Error(f"no node of a group at byte {node}")

    def text(self, position: int, length: int) -> bytes:
        if position + length > len(self.data):
            raise Hdf5Error(f"a text at byte {position} is beyond the end of the file")
        return bytes(self.data[position : position + length])

    def attributes(self, messages: list[tuple[int, int, int]]) -> Iterator[tuple[str, str]]:
        """The attributes that Keras reads, `name` and `dtype`; others are not looked at."""
        for kind, start, length in messages:
            if kind != 0x0C:
                continue
            version, names, types, spaces = self.unpack("<BxHHH", start)
            if version not in (1, 2, 3):
                raise Hdf5Error(f"an attribute of version {version}")
            pad = 8 if version == 1 else 1
            first = start + (9 if version == 3 else 8)
            second = first + -(-names // pad) * pad
            value = second + -(-types // pad) * pad + -(-spaces // pad) * pad
            name = self.text(first, min(names, MAX_TEXT)).partition(b"\0")[0]
            if name not in (b"name", b"dtype"):
                continue
            form, size = self.unpack("<B3xL", second)
            if form & 15 == 3 and size <= MAX_TEXT:
                raw = self.text(value, size).rstrip(b"\0 ")
            elif form & 15 == 9 and value + 16 <= start + length:
                raw = self.heap_text(*self.unpack("<LQL", value))
            else:
                raise Hdf5Error(f"attribute {name.decode()!r} is not a text of up to {MAX_TEXT} bytes")
            yield name.decode(), _decoded(raw)

    def heap_text(self, length: int, address: int, index: int) -> bytes:
        """A text of variable length."""
        if address not in self.heaps:
            self.once(address)
            magic, size = self.unpack("<4s4xQ", address)
            if magic != b"GCOL" or address + size > len(self.data):
                raise Hdf5Error(f"no heap of texts at byte {address}")
            self.heaps[address], position, end = {}, address + 16, address + size
            while position + 16 <= end:
                self.step()
                number, room = self.unpack("<H6xQ", position)
                if not number:
                    break
                self.heaps[address][number] = (position + 16, room)
                position += 16 + -(-room // 8) * 8
        start, room = self.heaps[address].get(index, (0, -1))
        if not length <= room or length > MAX_TEXT:
            raise Hdf5Error(f"a text of {length} bytes, of which the heap has {room}")
        return self.text(start, length)

    def array(self, path: str, messages: dict[int, tuple[int, int]]) -> np.ndarray:
        if 0x01 not in messages or 0x03 not in messages:
            raise Hdf5Error(f"{path!r} has no shape or no type")
        shape = self.shape(messages[0x01][0])
        dtype = self.dtype(path, messages[0x03][0])
        size = math.prod(shape) * dtype.itemsize
        start = messages[0x08][0]
        version, layout = self.unpack("<BB", start)
        if version not in (3, 4) or layout not in (0, 1):
            raise Hdf5Error(f"{path!r} is not stored in one piece, as Keras writes; it may be compressed or chunked")
        place, stored = self.unpack("<QQ", start + 2) if layout else (start + 4, self.unpack("<H", start + 2)[0])
        if stored == 0 or place == NOWHERE:
            place, stored = 0, 0
        if stored != size or place + size > len(self.data):
            raise Hdf5Error(f"{path!r} of shape {shape} is {size} bytes out of {stored} in the file")
        self.array_bytes += size
        if self.array_bytes > len(self.data):
            raise Hdf5Error("its arrays together are larger than the file")
        array = np.frombuffer(self.data[place : place + size], dtype).reshape(shape)
        return array != 0 if dtype == np.uint8 and self.unpack("<B", messages[0x03][0])[0] & 15 == 8 else array

    def shape(self, start: int) -> tuple[int, ...]:
        version, rank, _, kind = self.unpack("<4B", start)
        if version not in (1, 2) or rank > MAX_RANK or (version == 2 and kind == 2):
            raise Hdf5Error(f"a shape of version {version} and rank {rank}")
        return self.unpack(f"<{rank}Q", start + (8 if version == 1 else 4))

    def dtype(self, path: str, start: int) -> np.dtype[Any]:
        form, bits, high, size = self.unpack("<BBBxL", start)
        kind, order, dtype = form & 15, ">" if bits & 1 else "<", None
        if kind == 0 and size in (1, 2, 4, 8):
            dtype = np.dtype(f"{order}{'i' if bits & 8 else 'u'}{size}")
        elif kind == 1 and size in (2, 4, 8) and not bits & 0x40 and high == 8 * size - 1:
            exponent, mantissa = self.unpack("<13xBxB", start)
            known = _FLOATS.get((exponent, mantissa))
            if known is not None and np.dtype(known).itemsize == size and (order == "<" or known != ml_dtypes.bfloat16):
                dtype = np.dtype(known) if order == "<" else np.dtype(known).newbyteorder(">")
        elif kind == 5 and size == 2:  # older versions of h5py have no bfloat16
            dtype = np.dtype("V2")
        elif kind == 8 and size == 1:  # h5py writes bool as an enumeration
            dtype = np.dtype("u1")
        if dtype is None:
            raise Hdf5Error(f"{path!r} holds no numbers (HDF5 type {kind} of {size} bytes)")
        return dtype


def _decoded(raw: bytes, *, as_member: bool = False) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise Hdf5Error(f"{raw[:40]!r} is not UTF-8") from None
    if as_member and (not text or "/" in text or text in (".", "..")):
        raise Hdf5Error(f"{text!r} cannot be a name")
    return text
