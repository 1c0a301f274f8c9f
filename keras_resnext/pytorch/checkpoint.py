"""PyTorch checkpoints without PyTorch: torch.save's zip and legacy formats and safetensors, read as maps of the file.

Sources: torch/serialization.py (formats), APPNOTE.TXT (zip), huggingface/safetensors (README, "Format").
"""

from __future__ import annotations

import errno
import io
import json
import math
import mmap
import os
import pickle
import secrets
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from keras_resnext.pytorch.unpickler import DTYPES, HINT, MAX_DIMENSIONS, MAX_PICKLE, UnpickleError, load

MAX_ENTRIES = 100_000  # of a zip archive; torch writes one for each tensor
MAX_HEADER = 1 << 23  # of a safetensors file, whose header takes about 100 bytes for each tensor
ALIGNMENT = 64  # of tensor data, as in torch
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

# What people hand over by mistake: position of the mark, the mark, what it means.
FOREIGN: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras weights?), which Keras itself loads"),
    (257, b"ustar", "a tar archive; if torch before 0.1.10 wrote it, load and save it again with a newer torch"),
    (0, b"\x1f\x8b", "compressed with gzip; unpack it first"),
    (0, b"\x08\x00\x00\x00TFL3", "a TFLite model"),
    (0, b"version https://git-lfs", "a Git LFS pointer, so the file itself was never downloaded"),
    (0, b"<", "an HTML or XML page, probably of a failed download"),
)


class CheckpointError(ValueError):
    """A file that is no readable checkpoint; the message names the file and what is wrong."""


class _FormatError(UnpickleError):
    """What is wrong, before the file's name is put in front of it."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    `data` is the saved object: dictionaries, lists, numbers and texts, with read-only arrays for tensors (bfloat16 as
    in ml_dtypes) and `unpickler.Namespace` for an argparse.Namespace. The arrays are views of the mapped file: nothing
    is read before it is used, and the file must not be truncated meanwhile. Containers may be nested deeply, and may
    hold themselves.
    """

    format: str  # "zip", "legacy" or "safetensors"
    data: Any
    metadata: Mapping[str, str] = field(default_factory=dict)  # safetensors' __metadata__, else empty


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a .pth, .pt or .safetensors file by its content, never by its name, and execute nothing that it says.

    Raises CheckpointError for everything that is no readable checkpoint, FileNotFoundError, IsADirectoryError or
    another OSError for a path that cannot be opened.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{path}: not a regular file")
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise CheckpointError(f"{path}: the file is empty")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        return _reader(data)(data)
    except UnpickleError as error:
        raise CheckpointError(f"{path}: {error}") from error.__cause__
    except Exception as error:  # such as UnicodeDecodeError or RecursionError out of JSON, MemoryError
        raise CheckpointError(f"{path}: malformed ({type(error).__name__}: {str(error)[:200]})") from error


def _reader(data: mmap.mmap) -> Callable[[mmap.mmap], Checkpoint]:
    if 2 <= int.from_bytes(data[:8], "little") <= MAX_HEADER and data[8:9] == b"{":
        return _read_safetensors
    if data[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _read_zip
    if data[:1] == b"\x80":
        return _read_legacy
    for position, mark, meaning in FOREIGN:
        if data[position : position + 512].lstrip()[: len(mark)] == mark:
            raise _FormatError(f"not a checkpoint but {meaning}")
    raise _FormatError(f"neither a torch.save nor a safetensors file; it begins with {data[:16]!r}")


def _array(data: mmap.mmap, dtype: np.dtype[Any], count: int, start: int) -> np.ndarray:
    """`count` elements of the file, in bounds, as a read-only view."""
    if count < 0 or not 0 <= start <= len(data) or count * dtype.itemsize > len(data) - start:
        raise _FormatError(f"{count} elements of {dtype} at byte {start} end behind the file, which may be truncated")
    array = np.frombuffer(data, dtype, count, start) if count else np.empty(0, dtype)
    array.flags.writeable = False
    return array


def _storage_id(identity: tuple[Any, ...]) -> tuple[np.dtype[Any], str, int]:
    """Element type, key and element count of a persistent id `("storage", class, key, location, count, …)`."""
    dtype, key, count = getattr(identity[1], "dtype", None), identity[2], identity[4]
    if not isinstance(dtype, np.dtype) or type(key) is not str or type(count) is not int or count < 0:
        raise _FormatError("a storage must have a storage class, a key and a count")
    return dtype, key, count


# --- zip ------------------------------------------------------------------------------------------------------------


class _Entry(NamedTuple):
    start: int  # of the content
    size: int
    plain: bool  # neither compressed nor encrypted


def _unpack(layout: str, data: mmap.mmap | bytes, position: int, what: str) -> tuple[Any, ...]:
    if position < 0 or position + struct.calcsize(layout) > len(data):
        raise _FormatError(f"the zip archive's {what} lies outside of the file, which may be truncated")
    return struct.unpack_from(layout, data, position)


def _directory(data: mmap.mmap) -> dict[str, _Entry]:
    """The entries of a zip archive by its central directory, the zip64 one where there is one."""
    end = data.rfind(b"PK\x05\x06", max(0, len(data) - 65557))
    if end < 0:
        raise _FormatError("a zip archive without its directory; the file is probably truncated")
    count, length, start = _unpack("<10xHLL2x", data, end, "end")
    if data[max(0, end - 20) : end - 16] == b"PK\x06\x07":
        (end,) = _unpack("<8xQ4x", data, end - 20, "zip64 locator")
        magic, count, length, start = _unpack("<4s28xQQQ", data, end, "zip64 end")
        if magic != b"PK\x06\x06":
            raise _FormatError("the zip archive's zip64 end is not where its locator says")
    if count > MAX_ENTRIES or start + length > end:
        raise _FormatError(f"the zip archive's directory of {count} entries at byte {start} is out of bounds")
    entries: dict[str, _Entry] = {}
    for _ in range(count):
        magic, flags, method, packed, size, names, extras, comments, offset = _unpack(
            "<4s4xHH8xLLHHH8xL", data, start, "directory"
        )
        if magic != b"PK\x01\x02" or start + 46 + names + extras > end:
            raise _FormatError("the zip archive's directory is damaged")
        name = data[start + 46 : start + 46 + names].decode("utf-8", "surrogateescape")
        extra = data[start + 46 + names : start + 46 + names + extras]
        size, packed, offset = _zip64(extra, (size, packed, offset))
        magic, local_names, local_extras = _unpack("<4s22xHH", data, offset, "entry")
        content = offset + 30 + local_names + local_extras
        if magic != b"PK\x03\x04" or content + packed > end or (method == 0 and packed != size):
            raise _FormatError(f"the zip archive's entry {name!r} is damaged or out of bounds")
        if name in entries:
            raise _FormatError(f"the zip archive has two entries {name!r}")
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


def _read_zip(data: mmap.mmap) -> Checkpoint:
    entries = _directory(data)
    if {"config.json", "metadata.json"} <= entries.keys():
        raise _FormatError("not a checkpoint but a Keras model (.keras); load it with keras.saving.load_model")
    roots = [name[: -len("data.pkl")] for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
        raise _FormatError("a zip archive without data.pkl, so not of torch.save")
    root = roots[0]
    if f"{root}constants.pkl" in entries or any(name.startswith(f"{root}code/") for name in entries):
        raise _FormatError(f"a TorchScript archive (torch.jit.save); {HINT}")

    def content(name: str) -> _Entry:
        entry = entries.get(root + name)
        if entry is None or not entry.plain:
            raise _FormatError(f"the zip archive's entry {name!r} is {'compressed' if entry else 'missing'}")
        return entry

    order = content("byteorder") if f"{root}byteorder" in entries else None
    if order and (written := data[order.start : order.start + min(order.size, 16)]) != b"little":
        raise _FormatError(f"byte order {written!r}; only little-endian files are read")

    def storage(identity: tuple[Any, ...]) -> np.ndarray:
        dtype, key, count = _storage_id(identity)
        entry = content(f"data/{key}")
        if count != entry.size // dtype.itemsize:
            raise _FormatError(f"storage {key!r} has {entry.size} bytes and should have {count} elements of {dtype}")
        return _array(data, dtype, count, entry.start)

    start, size, _ = content("data.pkl")
    if size > MAX_PICKLE:
        raise _FormatError(f"data.pkl has {size} bytes, and at most {MAX_PICKLE} are read")
    return Checkpoint("zip", load(io.BytesIO(data[start : start + size]), storage))


# --- legacy ---------------------------------------------------------------------------------------------------------


def _read_legacy(data: mmap.mmap) -> Checkpoint:
    """Pickles of magic number, protocol, system, object, storage keys; then for each storage its count and content."""
    file = io.BytesIO(data[:MAX_PICKLE])
    magic, protocol = load(file, _no_storage), None
    if type(magic) is int and magic == LEGACY_MAGIC:
        protocol = load(file, _no_storage)
    if type(protocol) is not int or protocol != LEGACY_PROTOCOL:
        raise _FormatError("a pickle, but not one of torch.save")
    load(file, _no_storage)  # the system's type sizes; the content is little-endian on every system
    sizes: dict[str, tuple[np.dtype[Any], int]] = {}
    places: dict[str, int] = {}

    def survey(identity: tuple[Any, ...]) -> np.ndarray:
        dtype, key, count = _storage_id(identity)
        if sizes.setdefault(key, (dtype, count)) != (dtype, count):
            raise _FormatError(f"storage {key!r} has two types or sizes")
        return _view(_array(data, dtype, count, 0), identity)

    def storage(identity: tuple[Any, ...]) -> np.ndarray:
        dtype, key, count = _storage_id(identity)
        return _view(_array(data, dtype, count, places[key]), identity)

    # Only the object says how wide each storage's elements are, and it stands before them: it is built twice, first
    # with the beginning of the file in place of every storage.
    beginning = file.tell()
    load(file, survey)
    keys = load(file, _no_storage)
    position = file.tell()
    if type(keys) is not list or any(type(key) is not str for key in keys) or sorted(keys) != sorted(sizes):
        raise _FormatError("the list of storages does not fit the object")
    for key in keys:
        dtype, count = sizes[key]
        if data[position : position + 8] != count.to_bytes(8, "little"):
            raise _FormatError(
                f"storage {key!r} at byte {position} should have {count} elements; the file may be truncated"
            )
        places[key] = position + 8
        position += 8 + _array(data, dtype, count, position + 8).nbytes
    file.seek(beginning)
    return Checkpoint("legacy", load(file, storage))


def _view(storage: np.ndarray, identity: tuple[Any, ...]) -> np.ndarray:
    """The part that the view metadata `(key, offset, count)` of early torch versions names, else all of it."""
    view = identity[5] if len(identity) > 5 else None
    if view is None:
        return storage
    if type(view) is not tuple or len(view) != 3 or any(type(number) is not int for number in view[1:]):
        raise _FormatError("a storage view must have key, offset and count")
    if view[1] < 0 or view[2] < 0 or view[1] + view[2] > storage.size:
        raise _FormatError("a storage view outside of its storage")
    return storage[view[1] : view[1] + view[2]]


def _no_storage(identity: tuple[Any, ...]) -> np.ndarray:
    raise _FormatError("a storage where there can be none")


# --- safetensors ----------------------------------------------------------------------------------------------------


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(result := dict(pairs)) != len(pairs):
        raise _FormatError("safetensors header: a name stands there twice")
    return result


def _read_safetensors(data: mmap.mmap) -> Checkpoint:
    start = 8 + int.from_bytes(data[:8], "little")
    if start > len(data):
        raise _FormatError(f"the safetensors header ends at byte {start}, behind the file, which may be truncated")
    header = json.loads(data[8:start].decode("utf-8"), object_pairs_hook=_unique)
    metadata = header.pop("__metadata__", {})
    if type(metadata) is not dict or any(type(value) is not str for value in metadata.values()):
        raise _FormatError("safetensors header: __metadata__ must be texts by name")
    rows = {row.safetensors: row.numpy for row in DTYPES.values()}
    places: list[tuple[int, int]] = []

    def tensor(name: str, entry: Any) -> np.ndarray:
        if type(entry) is not dict or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise _FormatError(f"safetensors header: {name!r} must have dtype, shape and data_offsets")
        code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if type(code) is not str or code not in rows:
            raise _FormatError(
                f"tensor {name!r} has the unsupported type {str(code)[:20]!r}, not one of {', '.join(rows)}"
            )
        for numbers in (shape, offsets):
            if type(numbers) is not list or any(type(number) is not int or number < 0 for number in numbers):
                raise _FormatError(f"safetensors header: shape and data_offsets of {name!r} must be lists of sizes")
        count = math.prod(shape) if len(shape) <= MAX_DIMENSIONS else -1
        if count < 0 or len(offsets) != 2 or offsets[1] - offsets[0] != count * rows[code].itemsize:
            raise _FormatError(f"safetensors header: data_offsets of {name!r} do not fit its shape and type")
        places.append((offsets[0], offsets[1]))
        return _array(data, rows[code], count, start + offsets[0]).reshape(shape)

    tensors = {name: tensor(name, entry) for name, entry in header.items()}
    end = 0
    for begin, stop in sorted(places):
        if begin != end:
            raise _FormatError(f"safetensors header: a hole or an overlap at byte {begin} of the data")
        end = stop
    if start + end != len(data):
        raise _FormatError(
            f"the safetensors data should have {end} bytes and has {len(data) - start}; it may be truncated"
        )
    return Checkpoint("safetensors", tensors, metadata)


# --- writing --------------------------------------------------------------------------------------------------------


def write_checkpoint(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Write named arrays so that torch.load(weights_only=True) or safetensors reads them, by the suffix of `path`.

    .pth and .pt hold an OrderedDict in the order of `tensors`. The file appears whole or not at all: it is written
    beside its place under another name, synced, then moved. At most one array is copied at a time. Raises ValueError
    for another suffix, a name that is no text or a type that the format lacks; OSError where the disk refuses.
    """
    target = Path(os.path.realpath(path))
    if target.suffix not in _WRITERS:
        raise ValueError(f"path {str(path)!r} must end in one of {', '.join(_WRITERS)}")
    for name, array in tensors.items():
        if type(name) is not str or (name == "__metadata__" and target.suffix == ".safetensors"):
            raise ValueError(f"a tensor cannot be named {name!r}")
        row = DTYPES.get(np.asarray(array).dtype.name)
        if row is None or (row.storage is None and target.suffix != ".safetensors"):
            raise ValueError(f"tensor {name!r} has the type {np.asarray(array).dtype}, which {target.suffix} lacks")
    aside = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        with open(aside, "xb") as file:
            _WRITERS[target.suffix](file, tensors)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


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
