"""A file that is broken, or something else, is refused with the reason."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_resnext.pytorch.checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from tests.pytorch.making import (
    PREAMBLE,
    STORAGE,
    refuse,
    save,
)
from tools.fuzz_checkpoint.byte_mutations import samples

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")


def test_paths(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "none.pth")
    with pytest.raises(IsADirectoryError):
        read_checkpoint(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_checkpoint(tmp_path / "pipe")


def keras_file() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("metadata.json", "config.json", "model.weights.h5"):
            archive.writestr(name, "{}")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "the file is empty"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
        (keras_file(), "a Keras model"),
        (b"\n<!DOCTYPE html><html>", "an HTML or XML page"),
        (b"\x1f\x8b\x08\x00", "compressed with gzip"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (bytes(257) + b"ustar\x0000", "a tar archive; if torch before"),
        (random.Random(0).randbytes(5000), "neither a torch.save nor a safetensors file"),
        (b"x", "neither"),
        (b"PK\x03\x04", "without its directory"),
        (b"PK\x05\x06" + bytes(18), "without data.pkl"),
        (b"\x80", "ValueError"),
        (b"\x80\x02}.", "not one of torch.save"),
        (PREAMBLE[:-3], "ValueError"),
    ],
)
def test_foreign_files(tmp_path: Path, content: bytes, match: str) -> None:
    refuse(tmp_path / "x.pth", content, match)


def test_tar_format_made_by_tarfile(tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(tmp_path / "x.pth", "w:", format=tarfile.PAX_FORMAT) as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            archive.addfile(tarfile.TarInfo(name))
    refuse(tmp_path / "x.pth", (tmp_path / "x.pth").read_bytes(), "a tar archive")


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
def test_torchscript(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), str(tmp_path / "x.pt"))
    refuse(tmp_path / "x.pt", (tmp_path / "x.pt").read_bytes(), r"TorchScript.*state_dict\(\)")


def test_every_truncation(tmp_path: Path) -> None:
    path = tmp_path / "case"
    for index, (content, finish) in enumerate(samples()):
        if finish is not bytes:
            continue
        step = max(1, len(content) // 150)
        for length in sorted({*range(0, len(content), step), *range(max(0, len(content) - 30), len(content))}):
            (path := tmp_path / f"case{index}-{length}").write_bytes(content[:length])
            with pytest.raises(CheckpointError):
                read_checkpoint(path)


def zipped(entries: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


TENSOR = b"\x80\x02ctorch._utils\n_rebuild_tensor\n((" + STORAGE + b"K\x04tQK\x00K\x04\x85K\x01\x85tR."


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("entries", "match"),
    [
        ([("a/data.pkl", TENSOR), ("a/data/0", bytes(15))], "15 bytes and should have 4 elements of float32"),
        ([("a/data.pkl", TENSOR), ("a/data/0", bytes(20))], "20 bytes and should have 4"),
        ([("a/data.pkl", TENSOR)], "entry 'data/0' is missing"),
        ([("a/data.pkl", TENSOR), ("a/data.pkl", TENSOR)], "two entries"),
        ([("a/data.pkl", TENSOR), ("b/data.pkl", TENSOR)], "without data.pkl"),
        ([("../../data.pkl", TENSOR)], "without data.pkl"),
        ([("a/data.pkl", TENSOR), ("a/data/0", bytes(16)), ("a/byteorder", b"big")], "byte order b'big'"),
        ([("a/data.pkl", TENSOR), ("a/byteorder", b"x" * 10_000)], "byte order"),
        ([("a/data.pkl", TENSOR), ("a/code/x.py", b"")], "TorchScript"),
        ([("word/document.xml", b"<x/>")], "without data.pkl"),
    ],
)
def test_zip_entries(tmp_path: Path, entries: list[tuple[str, bytes]], match: str) -> None:
    refuse(tmp_path / "x.pth", zipped(entries), match)


def test_zip_that_is_right(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(zipped([("a/data.pkl", TENSOR), ("a/data/0", bytes(16)), ("../../etc/x", b"x")]))
    assert read_checkpoint(tmp_path / "x.pth").data.tolist() == [0, 0, 0, 0]
    assert os.listdir(tmp_path) == ["x.pth"]


def test_zip_bombs(tmp_path: Path) -> None:
    bomb = zipped([("a/data.pkl", bytes(100 << 20))], zipfile.ZIP_DEFLATED)
    assert len(bomb) < 1 << 20
    refuse(tmp_path / "x.pth", bomb, "is compressed")
    refuse(tmp_path / "x.pth", zipped([("a/data.pkl", b"N" * (40 << 20))]), "takes more than 300000 steps")
    lying = bytearray(zipped([("a/data.pkl", b"N.")]))
    at = lying.rfind(b"PK\x01\x02")
    lying[at + 20 : at + 28] = struct.pack("<LL", 2, 1 << 30)
    refuse(tmp_path / "x.pth", bytes(lying), "contradict each other")
    lying[at + 20 : at + 28] = lying[18:26] = struct.pack("<LL", 1 << 30, 1 << 30)
    refuse(tmp_path / "x.pth", bytes(lying), "damaged or out of bounds")
    many = bytearray(zipped([("a/data.pkl", b"N.")]))
    many[-14:-10] = b"\xff\xff\xff\xff"
    refuse(tmp_path / "x.pth", bytes(many), "directory")


def test_zip64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)  # the fields that files beyond 4 GB have
    write_checkpoint(tmp_path / "x.pth", {"a": np.arange(100.0), "b": np.ones(1, np.int8)})
    monkeypatch.undo()
    assert b"PK\x06\x06" in (tmp_path / "x.pth").read_bytes()
    for read in (read_checkpoint(tmp_path / "x.pth").data["a"], torch.load(tmp_path / "x.pth")["a"].numpy()):
        assert np.array_equal(read, np.arange(100.0))
    assert read_checkpoint(tmp_path / "x.pth").data["a"].__array_interface__["data"][0] % 64 == 0


def test_checksums_are_not_needed(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pth", {"a": torch.arange(4.0)}, "zip")
    content = path.read_bytes()
    crc = zlib.crc32(torch.arange(4.0).numpy().tobytes()).to_bytes(4, "little")
    assert crc in content
    path.write_bytes(content.replace(crc, bytes(4)))
    assert read_checkpoint(path).data["a"].tolist() == [0, 1, 2, 3]


def test_legacy_storages(tmp_path: Path) -> None:
    keys = pickle.dumps(["0"], 2)
    fields = TENSOR.replace(b"K\x04tQ", b"K\x04NtQ")
    whole = PREAMBLE + fields + keys + struct.pack("<q", 4) + np.arange(4, dtype="<f4").tobytes()
    (tmp_path / "x.pth").write_bytes(whole)
    assert read_checkpoint(tmp_path / "x.pth").data.tolist() == [0, 1, 2, 3]
    refuse(tmp_path / "y.pth", whole[:-1], "end behind the file")
    refuse(
        tmp_path / "y.pth", whole.replace(struct.pack("<q", 4), struct.pack("<q", 1 << 60)), "should have 4 elements"
    )
    refuse(tmp_path / "y.pth", PREAMBLE + fields + pickle.dumps(["1"], 2) + bytes(100), "does not fit the object")
    refuse(tmp_path / "y.pth", PREAMBLE + fields + pickle.dumps({}, 2) + bytes(100), "does not fit the object")
    huge = fields.replace(b"K\x04NtQ", b"\x8a\x08" + struct.pack("<q", 1 << 61) + b"NtQ")
    refuse(tmp_path / "y.pth", PREAMBLE + huge + keys + bytes(100), "end behind the file")


def header(entries: Any, data: bytes = b"", raw: bytes | None = None) -> bytes:
    text = json.dumps(entries).encode() if raw is None else raw
    return struct.pack("<Q", len(text)) + text + data


def row(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (header({"a": row()}, bytes(7)), "end behind the file"),
        (header({"a": row()}, bytes(9)), "should have 8 bytes and has 9"),
        (header({"a": row(), "b": row()}, bytes(8)), "a hole or an overlap"),
        (header({"a": row(), "b": row(offsets=(4, 12))}, bytes(12)), "a hole or an overlap"),
        (header({"a": row(), "b": row(offsets=(12, 20))}, bytes(20)), "a hole or an overlap"),
        (header({"a": row(offsets=(8, 16))}, bytes(16)), "a hole or an overlap"),
        (header({"a": row(offsets=(8, 0))}, bytes(8)), "do not fit its shape"),
        (header({"a": row(offsets=(-8, 0))}, bytes(8)), "lists of sizes"),
        (header({"a": row(offsets=(0, 8.0))}, bytes(8)), "lists of sizes"),
        (header({"a": row(shape=(True, 2))}, bytes(8)), "lists of sizes"),
        (header({"a": row(offsets=(0,))}, bytes(8)), "do not fit its shape"),
        (header({"a": row(shape=(1 << 62, 1 << 62))}, bytes(8)), "do not fit its shape"),
        (header({"a": row(shape=(1 << 62,), offsets=(0, 1 << 64))}, bytes(8)), "end behind the file"),
        (header({"a": row(shape=(0, 1 << 70), offsets=(0, 0))}), "malformed"),
        (header({"a": row(shape=(1,) * 40, offsets=(0, 4))}, bytes(4)), "do not fit its shape"),
        (header({"a": row("F8_E4M3")}, bytes(8)), "unsupported type 'F8_E4M3'"),
        (header({"a": row(["F32"])}, bytes(8)), "unsupported type"),
        (header({"a": [1]}, bytes(8)), "must have dtype, shape and data_offsets"),
        (header({"a": {**row(), "x": 1}}, bytes(8)), "must have dtype, shape and data_offsets"),
        (header({"__metadata__": {"a": 1}}), "must be texts"),
        (header({"__metadata__": []}), "must be texts"),
        (header(None, raw=b'{"a":{},"a":{}}'), "stands there twice"),
        (header(None, raw=b'{"a":' + b"[" * 100_000), "RecursionError|malformed"),
        (header(None, raw=b'{"a":\xff}'), "UnicodeDecodeError"),
        (header(None, raw=b"{]"), "JSONDecodeError"),
        (header({})[:-1], "behind the file"),
        (struct.pack("<Q", 1 << 62) + b"{}", "neither"),
    ],
)
def test_safetensors_headers(tmp_path: Path, content: bytes, match: str) -> None:
    refuse(tmp_path / "x.safetensors", content, match)


def test_a_storage_of_two_types(tmp_path: Path) -> None:
    """torch.load takes the first type for all tensors of a storage: no file that torch wrote has two."""
    other = TENSOR.removeprefix(b"\x80\x02").removesuffix(b".").replace(b"FloatStorage", b"IntStorage")
    both = TENSOR.removesuffix(b".") + other + b"\x86."
    content = zipped([("archive/data.pkl", both), ("archive/data/0", bytes(16)), ("archive/version", b"3\n")])
    refuse(tmp_path / "x.pth", content, "storage '0' has two types, float32 and int32")
