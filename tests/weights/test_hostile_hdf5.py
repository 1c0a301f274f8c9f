"""HDF5 of any content is read in bounded work by our own reader, which never runs into links, loops or claims."""

import json
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import ml_dtypes
import numpy as np
import pytest

from keras_resnext.loading import load_model
from keras_resnext.pytorch.checkpoint import CheckpointError
from keras_resnext.weights import hdf5_reader
from keras_resnext.weights.hdf5_reader import read_hdf5
from keras_resnext.weights.info import describe_file
from keras_resnext.weights.keras_archive import to_hdf5
from tools import fuzz_keras_files
from tools.fuzz_keras_files import made


def patched(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return data.replace(old, new, 1)


def links(file: Any) -> None:
    for index in range(1, 2001):
        file[f"layers/conv/vars/{index}"] = file["layers/conv/vars/0"]


def texts(file: Any) -> None:
    dataset = file.create_dataset("texts", (1000,), h5py.string_dtype())
    dataset[0] = "x" * 1000


def layers_with_texts(file: Any) -> None:
    for index in range(1000):
        file.create_group(f"layers/conv_{index}").attrs["name"] = "x" * 5000


def deep(file: Any) -> None:
    file.create_group("/".join(["g"] * 20_000))


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "2,000 hard links": (lambda: made(links), "two things point to byte"),
    "a cycle": (lambda: made(lambda file: file.__setitem__("layers/a", file["layers"])), "two things point to byte"),
    "variable length": (lambda: made(texts), "'texts' holds no numbers"),
    "long texts": (lambda: made(layers_with_texts), "a text of 5000 bytes"),
    "20,000 groups": (lambda: made(deep), "groups inside one another, more than 64 deep"),
    "too many groups": (
        lambda: made(lambda file: [file.create_group(f"{i}") for i in range(500)]),
        "more than 2000 obj",
    ),
    "GHSA-3m4q-jmj6-r34q: external data": (
        lambda: made(lambda file: file.create_dataset("e", (3,), "f4", external=[("/etc/passwd", 0, 12)])),
        "data in other files",
    ),
    "external link": (
        lambda: made(lambda file: file.__setitem__("e", h5py.ExternalLink("/etc/passwd", "/"))),
        "which Keras does not write",
    ),
    "soft link": (lambda: made(lambda file: file.__setitem__("s", h5py.SoftLink("/layers"))), "soft link"),
    "CVE-2026-0897: shape bomb": (
        lambda: made(lambda file: file.create_dataset("c", (1 << 20, 1 << 20), "f4", chunks=(64, 64))),
        "is not stored in one piece",
    ),
    "a shape without data": (
        lambda: made(lambda file: file.create_dataset("c", (1 << 20, 1 << 20), "f4")),
        "is 4398046511104 bytes out of 0 in the file",
    ),
    "compressed": (
        lambda: made(lambda file: file.create_dataset("c", data=np.zeros((64, 64)), compression="gzip")),
        "compressed or filtered data",
    ),
    "the latest format": (lambda: made(lambda file: None, libver="latest"), "superblock 3"),
    "a user's block": (lambda: made(lambda file: None, userblock_size=512), "not an HDF5 file"),
    "truncated": (lambda: made(lambda file: None)[:-100], "may be truncated"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_keras_does_not_write(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, message = REFUSED[case]
    content = make()
    if case == "too many groups":
        monkeypatch.setattr(hdf5_reader, "MAX_STEPS", 2000)
    (tmp_path / "m.weights.h5").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", content)
    for name in ("m.weights.h5", "m.keras"):
        for read in (describe_file, load_model):
            start = time.monotonic()
            with pytest.raises(CheckpointError, match=message):
                read(tmp_path / name)
            assert time.monotonic() - start < 1


def test_arrays_that_share_their_bytes() -> None:
    """Each is within the file; together they are not."""
    count, size = 9, 800
    data = made(lambda file: [file.create_dataset(f"{i}", data=np.full(size, i, "f8")) for i in range(count)])
    assert len(read_hdf5(memoryview(data)).arrays) == count + 1
    first = data.find(np.full(size, 1, "f8").tobytes())
    whole = (len(data) - first) // 8
    for i in range(1, count):
        place = data.find(np.full(size, i, "f8").tobytes())
        old = place.to_bytes(8, "little") + (8 * size).to_bytes(8, "little")
        data = patched(data, old, first.to_bytes(8, "little") + (8 * whole).to_bytes(8, "little"))
    shape = size.to_bytes(8, "little") * 2  # and the most it may grow to
    data = data.replace(shape, whole.to_bytes(8, "little") * 2)
    data = patched(data, whole.to_bytes(8, "little") * 2, shape)  # of the array before them
    with pytest.raises(hdf5_reader.Hdf5Error, match="its arrays together are larger"):
        read_hdf5(memoryview(data))


def test_reads_what_h5py_writes(tmp_path: Path) -> None:
    """Every type, empty and scalar arrays, wide groups, names in any script: bit-equal, and again once rewritten."""
    rng = np.random.default_rng(0)
    values = {
        f"a_{kind}": rng.integers(0, 2, (3, 4)).astype(kind)
        for kind in ["?", "i1", "u1", "i2", "i4", "i8", "u8", "f2", "f4", "f8", ">f4"]
    }
    values |= {"empty": np.zeros((0, 3), "f4"), "scalar": np.float32(2)}
    values |= {f"{i}": np.int64(i) for i in range(300)}
    bfloat = rng.random((2, 3)).astype(ml_dtypes.bfloat16)

    def fill(file: Any) -> None:
        for name, value in values.items():
            file[f"g/{name}"] = value
        file["g"].attrs["name"] = "schön"
        file["g"].attrs["dtype"] = np.bytes_("fixed")
        file.create_dataset("half", data=bfloat).attrs["dtype"] = "bfloat16"

    contents = read_hdf5(memoryview(made(fill)))
    (tmp_path / "again.h5").write_bytes(to_hdf5(contents).getvalue())
    for found in (contents, read_hdf5(memoryview((tmp_path / "again.h5").read_bytes()))):
        assert found.groups["g"] == {"name": "schön", "dtype": "fixed"}
        assert found.groups["layers/conv/vars"] == {"name": "conv1"}
        assert found.arrays["half"].dtype == ml_dtypes.bfloat16
        assert found.arrays["half"].tobytes() == bfloat.tobytes()
        for name, value in values.items():
            array = found.arrays[f"g/{name}"]
            assert array.dtype == np.asarray(value).dtype
            assert array.shape == np.shape(value)
            assert array.tobytes() == np.asarray(value).tobytes()


def saved_parts(tmp_path: Path) -> dict[str, bytes]:
    image = keras.Input((4, 4, 3))
    keras.Model(image, keras.layers.Conv2D(2, 3)(image)).save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_archives_around_them(tmp_path: Path) -> None:
    """Sizes that lie, in both directions; packed, which is read; damaged; with more inside than Keras writes."""
    parts, path = saved_parts(tmp_path), tmp_path / "x.keras"

    def archive(method: int = zipfile.ZIP_STORED, **more: bytes) -> bytes:
        with zipfile.ZipFile(path, "w", method) as file:
            for name, content in {**parts, **more}.items():
                file.writestr(name, content)
        return path.read_bytes()

    def refused(content: bytes, message: str) -> None:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"x\.keras: no readable Keras file: .*{message}"):
            load_model(path)

    archive(zipfile.ZIP_DEFLATED)
    assert load_model(path).output_shape == (None, 2, 2, 2)
    packed = archive(zipfile.ZIP_DEFLATED, **{"model.weights.h5": bytes(42 << 20)})
    refused(packed, "bytes out of")
    size = (42 << 20).to_bytes(4, "little")
    refused(packed.replace(size, (1000).to_bytes(4, "little")), "is not the 1000 bytes that the archive says")
    at = packed.rfind(b"model.weights.h5") - 46
    lying = packed[: at + 20] + size + packed[at + 24 :]  # its packed size, in the directory alone
    refused(lying, "damaged or out of bounds|contradict each other")
    refused(patched(archive(), b"\x89HDF", b"\x89HDf"), "CRC-32")
    refused(archive(**{"config.json": json.dumps(["x" * (4 << 20)]).encode()}), "up to 4194304 are read")
    refused(archive(**{"config.json": b"[" * 100_000}), "recursion")
    refused(archive(**{"assets/vocabulary.txt": b"x"}), "'assets/vocabulary.txt'")
    refused(archive(**{"config.json": b"{}"}), "no model but a dict")


def test_the_fuzzer_finds_nothing(tmp_path: Path) -> None:
    before, lines = signal.getsignal(signal.SIGALRM), []
    try:
        assert fuzz_keras_files.run(120, 7, tmp_path, None, lines.append) == 0, lines
    finally:
        signal.signal(signal.SIGALRM, before)
    assert "CheckpointError" in lines[-1]
    assert "load_model: read" in lines[-1]
