"""PyTorch checkpoints without PyTorch: torch.save's zip and legacy formats, and safetensors, read as mapped files."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .safetensors_file import is_safetensors, read_safetensors
from .storage import FormatError
from .torch_legacy import read_legacy
from .torch_zip import read_zip
from .writer import write_checkpoint

__all__ = ["Checkpoint", "CheckpointError", "read_checkpoint", "write_checkpoint"]

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


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    `data` is the saved object: dictionaries, lists, numbers and texts, with read-only arrays for tensors (bfloat16 as
    in ml_dtypes) and `rebuild.Namespace` for an argparse.Namespace. The arrays are views of the mapped file: nothing
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
        return _read(data)
    except FormatError as error:
        raise CheckpointError(f"{path}: {error}") from error.__cause__
    except Exception as error:  # such as UnicodeDecodeError or RecursionError out of JSON, MemoryError
        raise CheckpointError(f"{path}: malformed ({type(error).__name__}: {str(error)[:200]})") from error


def _read(data: mmap.mmap) -> Checkpoint:
    if is_safetensors(data):
        return Checkpoint("safetensors", *read_safetensors(data))
    if data[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return Checkpoint("zip", read_zip(data))
    if data[:1] == b"\x80":
        return Checkpoint("legacy", read_legacy(data))
    for position, mark, meaning in FOREIGN:
        if data[position : position + 512].lstrip()[: len(mark)] == mark:
            raise FormatError(f"not a checkpoint but {meaning}")
    raise FormatError(f"neither a torch.save nor a safetensors file; it begins with {data[:16]!r}")
