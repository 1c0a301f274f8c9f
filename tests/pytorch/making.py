"""Makes checkpoint files, right and wrong ones, for the tests of the reader."""

from __future__ import annotations

import io
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_resnext.pytorch.checkpoint import CheckpointError, read_checkpoint
from keras_resnext.pytorch.rebuild import load
from keras_resnext.pytorch.torch_legacy import LEGACY_MAGIC, LEGACY_PROTOCOL
from tools.fuzz_checkpoint.byte_mutations import rezip

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

FORMATS = ["zip", "legacy"]
DTYPES = ["float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool"]


def save(path: Path, value: Any, form: str, **options: Any) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=form == "zip", **options)
    return path


def bits(tensor: Any) -> np.ndarray:
    """A torch tensor's bytes in order, as an array of uint8."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()


def same(array: np.ndarray, tensor: Any) -> bool:
    name = str(tensor.dtype).removeprefix("torch.")
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return array.dtype.name == name and array.shape == tuple(tensor.shape) and np.array_equal(raw, bits(tensor))


def noise(*shape: int, dtype: str = "float32") -> Any:
    kind = getattr(torch, dtype)
    raw = torch.randint(0, 2 if dtype == "bool" else 256, (*shape, kind.itemsize), dtype=torch.uint8)
    return raw.view(kind).reshape(shape)


PREAMBLE = b"".join(pickle.dumps(value, 2) for value in (LEGACY_MAGIC, LEGACY_PROTOCOL, {}))
STORAGE = b"X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def containers(pickled: bytes) -> dict[str, bytes]:
    """The pickle in every place of every format that holds one."""
    return {
        "zip": rezip(pickled),
        "first": b"\x80\x02" + pickled.removeprefix(b"\x80\x02"),
        "object": PREAMBLE + pickled + pickle.dumps([], 2),
        "keys": PREAMBLE + pickle.dumps({}, 2) + pickled,
    }


def refuse(path: Path, content: bytes, match: str) -> str:
    path.write_bytes(content)
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match=match) as error:
        read_checkpoint(path)
    assert time.perf_counter() - start < 10
    assert str(error.value).startswith(f"{path}: ")
    assert len(str(error.value)) < 1500
    return str(error.value)


def machine(pickled: bytes) -> Any:
    return load(io.BytesIO(pickled), lambda identity: np.arange(12, dtype=np.float32))
