"""What is written, torch and safetensors read, and an old file stays until the new one is whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_resnext.pytorch import writer
from keras_resnext.pytorch.checkpoint import read_checkpoint, write_checkpoint
from keras_resnext.pytorch.storage import DTYPES as ROWS
from tests.pytorch.making import (
    DTYPES,
    bits,
    noise,
    same,
)

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_round_trip(tmp_path: Path, suffix: str) -> None:
    tensors = {f"layer.{name}": noise(5, 3, dtype=name) for name in DTYPES}
    tensors |= {"num_batches_tracked": torch.tensor(1 << 40), "none": noise(0, 2), "naïve ☃": noise(1)}
    arrays = {name: bits(t).view(ROWS[str(t.dtype)[6:]].numpy).reshape(t.shape) for name, t in tensors.items()}
    path = tmp_path / f"x{suffix}"
    write_checkpoint(path, arrays)
    if suffix == ".safetensors":
        theirs = [safetensors_torch.load_file(str(path))]
    else:
        theirs = [torch.load(path, weights_only=True, mmap=mapped) for mapped in (False, True)]
        assert list(theirs[0]) == list(tensors)
    for loaded in theirs:
        assert all(loaded[name].dtype == t.dtype and loaded[name].shape == t.shape for name, t in tensors.items())
        assert all(np.array_equal(bits(loaded[name]), bits(t)) for name, t in tensors.items())
    ours = read_checkpoint(path).data
    assert list(ours) == list(tensors)
    assert all(same(ours[name], t) for name, t in tensors.items())
    assert all(array.flags.aligned for array in ours.values())
    assert os.listdir(tmp_path) == [path.name]


def test_written_zip_is_aligned_and_repeatable(tmp_path: Path) -> None:
    arrays = {"a": np.ones((3, 5), np.float32), "b": np.asfortranarray(np.ones((2, 3))), "c": np.ones(4, ">f4")[::2]}
    for name in ("x.pth", "y.pth"):
        write_checkpoint(tmp_path / name, arrays)
    assert (tmp_path / "x.pth").read_bytes() == (tmp_path / "y.pth").read_bytes()
    read = read_checkpoint(tmp_path / "x.pth").data
    assert all(np.array_equal(read[name], array) for name, array in arrays.items())
    assert all(array.__array_interface__["data"][0] % 64 == 0 for array in read.values())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_overwriting_the_file_that_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    write_checkpoint(path, {"a": np.arange(1000.0)})
    write_checkpoint(path, dict(read_checkpoint(path).data, b=np.zeros(3)))
    assert np.array_equal(read_checkpoint(path).data["a"], np.arange(1000.0))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_failed_writing_leaves_the_old_file(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"old")
    calls: list[int] = []

    def broken(array: np.ndarray) -> memoryview:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return memoryview(bytes(array))

    monkeypatch.setattr(writer, "_content", broken)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(path, {str(i): np.ones(4) for i in range(5)})
    assert len(calls) == 3
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [path.name]
    monkeypatch.undo()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_checkpoint(path, {"a": np.ones(4)})
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [path.name]


def test_killed_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(b"old")
    package = Path(__file__).parents[2] / "keras_resnext"
    # Packages that are only folders, as `import keras_resnext` would start Keras in the child.
    code = f"""
import os, sys, types
for name, folder in (("keras_resnext", {str(package)!r}), ("keras_resnext.pytorch", {str(package / "pytorch")!r})):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
from keras_resnext.pytorch.writer import write_checkpoint
import numpy as np
os.fsync = lambda descriptor: os.kill(os.getpid(), 9)
write_checkpoint({str(path)!r}, {{"a": np.ones(1000)}})
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert path.read_bytes() == b"old"


def test_refused_before_anything_is_written(tmp_path: Path) -> None:
    for path, tensors, message in [
        ("x.h5", {}, r"must end in one of \.pth, \.pt, \.safetensors"),
        ("x.pth", {"a": np.array(["text"])}, "tensor 'a' has the type <U4"),
        ("x.pth", {"a": np.ones(2, np.uint16)}, "tensor 'a' has the type uint16, not one of"),
        ("x.pth", {1: np.ones(2)}, "a tensor cannot be named 1"),
        ("x.safetensors", {"__metadata__": np.ones(2)}, "cannot be named '__metadata__'"),
        ("x.safetensors", {"a": np.ones(2, complex)}, "type complex128, not one of"),
    ]:
        with pytest.raises(ValueError, match=message):
            write_checkpoint(tmp_path / path, tensors)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        write_checkpoint(tmp_path / "none" / "x.pth", {})
    assert os.listdir(tmp_path) == []


def test_symbolic_links_are_written_through(tmp_path: Path) -> None:
    (tmp_path / "link.pth").symlink_to(tmp_path / "real.pth")
    write_checkpoint(tmp_path / "link.pth", {"a": np.ones(2)})
    assert (tmp_path / "link.pth").is_symlink()
    assert (tmp_path / "real.pth").is_file()
