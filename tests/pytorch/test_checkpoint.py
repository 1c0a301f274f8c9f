"""The checkpoint reader against torch and safetensors themselves, against hostile files, and against noise."""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib.util
import io
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import time
import tracemalloc
import types
import zipfile
import zlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_resnext.pytorch import writer
from keras_resnext.pytorch.checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from keras_resnext.pytorch.rebuild import Namespace, load
from keras_resnext.pytorch.storage import DTYPES as ROWS
from keras_resnext.pytorch.storage import FormatError, storage_id
from keras_resnext.pytorch.torch_legacy import LEGACY_MAGIC, LEGACY_PROTOCOL
from keras_resnext.pytorch.unpickler import MAX_INT_BITS, MAX_MARKS, MAX_PICKLE

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

_spec = importlib.util.spec_from_file_location(
    "fuzz_checkpoint", Path(__file__).parents[2] / "tools" / "fuzz_checkpoint.py"
)
assert _spec is not None
assert _spec.loader is not None
fuzz = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fuzz)


@pytest.fixture(autouse=True)
def _clean_session() -> None:
    """In place of conftest's: no test here builds a model, and clearing takes half a second."""


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


# --- what torch writes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_reads_bit_equal(tmp_path: Path, form: str, dtype: str) -> None:
    tensors = {"a": noise(3, 4, 5, dtype=dtype), "scalar": noise(1, dtype=dtype)[0], "empty": noise(0, 3, dtype=dtype)}
    read = read_checkpoint(save(tmp_path / "x.pth", tensors, form))
    assert read.format == form
    assert read.metadata == {}
    assert list(read.data) == list(tensors)
    for name, tensor in tensors.items():
        assert same(read.data[name], tensor)
        assert not read.data[name].flags.writeable


def test_bfloat16_is_that_of_ml_dtypes(tmp_path: Path) -> None:
    read = read_checkpoint(save(tmp_path / "x.pth", torch.tensor([1.5, -2.0]).bfloat16(), "zip")).data
    assert read.dtype == ml_dtypes.bfloat16
    assert read.astype(np.float32).tolist() == [1.5, -2.0]


@pytest.mark.parametrize("form", FORMATS)
def test_views_and_shared_storages(tmp_path: Path, form: str) -> None:
    base = noise(6, 8)
    tensors = [base.t(), base[1:5:2, ::3], base[3, 4], base[0], base.permute(1, 0)[2:], base]
    read = read_checkpoint(save(tmp_path / "x.pth", tensors, form)).data
    assert all(same(array, tensor) for array, tensor in zip(read, tensors, strict=True))
    assert all(np.shares_memory(array, read[-1]) for array in read)


@pytest.mark.parametrize("form", FORMATS)
def test_wrapped_checkpoint_of_mmcls(tmp_path: Path, form: str) -> None:
    state = torch.nn.Sequential(torch.nn.Conv2d(4, 6, 3, groups=2), torch.nn.BatchNorm2d(6)).state_dict()
    assert state._metadata
    meta = {"env": "text é", "seed": 0, "lr": np.float64(0.1), "CLASSES": ("tench", "goldfish"), "hash": b"\x00\xff"}
    meta |= {"palette": np.arange(6, dtype=np.uint8).reshape(2, 3, order="F"), "none": None, "ok": True, "big": 1 << 70}
    read = read_checkpoint(save(tmp_path / "x.pth", {"meta": meta, "state_dict": state}, form)).data
    assert type(read["state_dict"]) is collections.OrderedDict
    assert not vars(read["state_dict"])
    assert list(read["state_dict"]) == list(state)
    assert all(same(read["state_dict"][name], tensor) for name, tensor in state.items())
    assert np.array_equal(read["meta"].pop("palette"), meta.pop("palette"))
    assert read["meta"] == meta


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", [argparse.Namespace, types.SimpleNamespace])
def test_namespaces_become_plain_data(tmp_path: Path, form: str, kind: Any) -> None:
    args = kind(lr=0.1, device=torch.device("cuda:1"), dtype=torch.float16, size=torch.Size([2, 3]), __class__x=1)
    read = read_checkpoint(save(tmp_path / "x.pth", {"args": args}, form)).data["args"]
    assert type(read) is Namespace
    assert read.attributes == {"lr": 0.1, "device": "cuda:1", "dtype": np.float16, "size": (2, 3), "__class__x": 1}


@pytest.mark.parametrize("form", FORMATS)
def test_training_checkpoint(tmp_path: Path, form: str) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 3, 6])
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    special = torch.nn.Parameter(noise(2, 2))
    special.note = "kept by torch, dropped here"
    value = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "special": special}
    value |= {"sets": ({1, "a"}, frozenset([2])), "default": collections.defaultdict(list, {"k": [1]})}
    read = read_checkpoint(save(tmp_path / "x.pth", value, form)).data
    assert same(read["optimizer"]["state"][0]["momentum_buffer"], model.weight.grad)
    assert read["schedule"]["milestones"] == {3: 2, 6: 1}
    assert same(read["special"], special)
    assert read["sets"] == value["sets"]
    assert read["default"] == {"k": [1]}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("form", FORMATS)
def test_every_pickle_protocol(tmp_path: Path, form: str, protocol: int) -> None:
    value = {"a": noise(2, 3), "b": [(1, 2.5, -3, "x" * 300, b"y" * 300), {7}, None, 1 << 40]}
    read = read_checkpoint(save(tmp_path / "x.pth", value, form, pickle_protocol=protocol)).data
    assert same(read["a"], value["a"])
    assert read["b"] == value["b"]


def test_python_2_pickles() -> None:
    text = b"\x80\x02ccollections\nOrderedDict\n]](U\x01aK\x01ea\x85R."
    assert load(io.BytesIO(text), lambda _: None) == {"a": 1}
    with pytest.raises(FormatError, match="opcode INT"):  # protocol 0, which torch never wrote
        load(io.BytesIO(b"I01\n."), lambda _: None)


def test_storage_views_of_early_torch_are_refused() -> None:
    for view, message in [(None, "class, a key and a count"), (("2", 2, 3), "storage view"), (5, "storage view")]:
        storage = None if view is None else ROWS["float32"].numpy
        kind = types.SimpleNamespace(dtype=storage)
        with pytest.raises(FormatError, match=message):
            storage_id(("storage", kind, "1", "cpu", 6, view))


def test_reading_maps_the_file(tmp_path: Path) -> None:
    for form in FORMATS:
        path = save(tmp_path / form, {"a": torch.zeros(30 << 20, dtype=torch.uint8)}, form)
        tracemalloc.start()
        array = read_checkpoint(path).data["a"]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert array.nbytes == 30 << 20
        assert peak < (2 << 20 if form == "zip" else MAX_PICKLE + (2 << 20))


@pytest.mark.parametrize("form", FORMATS)
def test_content_decides_and_not_the_suffix(tmp_path: Path, form: str) -> None:
    assert read_checkpoint(save(tmp_path / "x.safetensors", {"a": noise(2)}, form)).format == form
    safetensors_torch.save_file({"a": noise(2)}, str(tmp_path / "x.pth"))
    assert read_checkpoint(str(tmp_path / "x.pth")).format == "safetensors"


def test_safetensors_reads_bit_equal(tmp_path: Path) -> None:
    tensors = {name: noise(3, 5, dtype=name) for name in DTYPES}
    tensors |= {"scalar": noise(1)[0], "empty": noise(0, 4)}
    safetensors_torch.save_file(tensors, str(tmp_path / "x"), {"format": "pt", "note": "é"})
    read = read_checkpoint(tmp_path / "x")
    assert read.metadata == {"format": "pt", "note": "é"}
    assert read.data.keys() == tensors.keys()
    assert all(same(read.data[name], tensor) for name, tensor in tensors.items())


# --- what it writes -------------------------------------------------------------------------------------------------


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


# --- hostile pickles ------------------------------------------------------------------------------------------------

PREAMBLE = b"".join(pickle.dumps(value, 2) for value in (LEGACY_MAGIC, LEGACY_PROTOCOL, {}))
STORAGE = b"X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def containers(pickled: bytes) -> dict[str, bytes]:
    """The pickle in every place of every format that holds one."""
    return {
        "zip": fuzz.rezip(pickled),
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


COMMAND = "touch MARKER"
EVENTS: list[str] = []  # what Python itself says it did: an audit hook cannot be taken away again, so there is one
WATCHED = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
    "exec",
    "compile",
    "import",
    "pickle.find_class",
)
sys.addaudithook(lambda event, _: EVENTS.append(event) if event in WATCHED else None)
ATTACKS: dict[str, tuple[bytes, str]] = {
    "os.system": (b"cos\nsystem\n" + short(COMMAND) + b"\x85R.", r"os\.system"),
    "posix.system": (b"cposix\nsystem\n" + short(COMMAND) + b"\x85R.", r"posix\.system"),
    "nt.system": (b"cnt\nsystem\n" + short(COMMAND) + b"\x85R.", r"nt\.system"),
    "eval": (b"cbuiltins\neval\n" + short("open('MARKER','w')") + b"\x85R.", r"builtins\.eval"),
    "python 2 eval": (b"c__builtin__\neval\n" + short("open('MARKER','w')") + b"\x85R.", r"builtins\.eval"),
    "exec": (b"cbuiltins\nexec\n" + short("open('MARKER','w')") + b"\x85R.", r"builtins\.exec"),
    "open": (b"cbuiltins\nopen\n" + short("MARKER") + short("w") + b"\x86R.", r"builtins\.open"),
    "subprocess": (b"csubprocess\nPopen\n" + short(COMMAND) + b"\x85R.", r"subprocess\.Popen"),
    "partial": (b"cfunctools\npartial\ncos\nsystem\n\x85R.", r"functools\.partial"),
    "getattr": (b"cbuiltins\ngetattr\ncos\nsystem\n" + short("x") + b"\x86R.", r"builtins\.getattr"),
    "getattr of a known name": (b"cbuiltins\ngetattr\nctorch\nSize\n" + short("x") + b"\x86R.", r"builtins\.getattr"),
    "dotted STACK_GLOBAL": (short("torch") + short("os.system") + b"\x93N\x85R.", r"torch\.os\.system"),
    "dunder path": (short("collections") + short("OrderedDict.__init__.__globals__") + b"\x93.", "__globals__"),
    "STACK_GLOBAL": (short("os") + short("system") + b"\x93" + short(COMMAND) + b"\x85R.", r"os\.system"),
    "STACK_GLOBAL of numbers": (b"K\x01K\x02\x93.", "a name that is no text"),
    "INST": (b"(" + short(COMMAND) + b"ios\nsystem\n.", "opcode INST"),
    "OBJ": (b"(ccollections\nOrderedDict\n" + short(COMMAND) + b"o.", "opcode OBJ"),
    "EXT1": (b"\x82\x01.", "opcode EXT1"),
    "EXT2": (b"\x83\x01\x00.", "opcode EXT2"),
    "EXT4": (b"\x84\x01\x00\x00\x00.", "opcode EXT4"),
    "NEWOBJ_EX": (b"ccollections\nOrderedDict\n)}\x92.", "opcode NEWOBJ_EX"),
    "NEWOBJ of text": (short("x") + b")\x81.", "calls an object of type str"),
    "NEWOBJ of a storage class": (b"ctorch\nFloatStorage\n)\x81.", r"calls torch\.FloatStorage"),
    "REDUCE of a result": (b"ccollections\nOrderedDict\n)R)R.", "calls an object of type OrderedDict"),
    "REDUCE with a list": (b"ccollections\nOrderedDict\n]R.", "something other than a tuple"),
    "BUILD of a function": (b"ccollections\nOrderedDict\n}" + short("call") + b"cos\nsystem\nsb.", r"os\.system"),
    "BUILD of a global": (b"ccollections\nOrderedDict\n}" + short("call") + b"K\x01sb.", "object of type Global"),
    "BUILD of a dict": (b"}}b.", "state of an object of type dict"),
    "BUILD of a list": (b"]}b.", "state of an object of type list"),
    "BUILD of numpy.ndarray": (b"cnumpy\nndarray\n}b.", "state of an object of type Global"),
    "BUILD a namespace with slots": (b"cargparse\nNamespace\n)\x81N}\x86b.", "state must be a dictionary"),
    "persistent id text": (b"Px\n.", "opcode PERSID"),
    "persistent id module": (b"(" + short("module") + b"NNNNtQ.", "no storage"),
    "copyreg": (b"ccopy_reg\n_reconstructor\n(cbuiltins\nobject\nh\x00NtR.", r"copy_reg\._reconstructor"),
    "torch.load": (b"ctorch.serialization\nload\n" + short("MARKER") + b"\x85R.", r"torch\.serialization\.load"),
    "numpy.load": (b"cnumpy\nload\n" + short("MARKER") + b"\x85R.", r"numpy\.load"),
    "codecs": (b"c_codecs\nencode\n" + short("x") + short("rot13") + b"\x86R.", "a text and 'latin1'"),
    "object dtype": (b"cnumpy\ndtype\n" + short("O8") + b"\x85R.", "no plain number"),
    "dtype from a list": (b"cnumpy\ndtype\n]\x85R.", "no plain number"),
    "tensor without storage": (b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00))NNtR.", "without a storage"),
    "tensor subclass": (b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch\ndevice\nN)NtR.", "_rebuild_from_type_v2"),
    "unhashable key": (b"}]K\x01s.", "type list as a key"),
    "unhashable element": (b"cbuiltins\nset\n]]a\x85R.", "type list as a key"),
    "big integer key": (b"}\x8a\x0a" + b"\x11" * 10 + b"K\x01s.", "beyond 64 bits as a key"),
    "tuple as a key": (b"}K\x01\x85K\x01s.", "type tuple as a key"),
    "long integer": (b"\x8b\x00\x10\x00\x00" + b"\x01" * 4096 + b".", f"more than {MAX_INT_BITS} bits"),
    "long decimal": (b"I" + b"9" * 4000 + b"\n.", "opcode INT"),
    "longer decimal": (b"L" + b"9" * 100_000 + b"L\n.", "ValueError|opcode LONG"),
    "integer beyond the file": (b"\x8b\xff\xff\xff\x7f.", "ValueError"),
    "text beyond the file": (b"X\xff\xff\xff\xff.", "ValueError"),
    "bytes beyond everything": (b"\x8e" + b"\xff" * 8 + b".", "ValueError"),
    "frame beyond the file": (b"\x95" + b"\xff" * 8, "ValueError"),
    "marks": (b"(" * 100_000, f"more than {MAX_MARKS} containers"),
    "empty stack": (b".", "empty stack"),
    "unset memo": (b"h\x07.", "never set"),
    "unopened container": (b"t.", "never opened"),
    "odd items": (b"}(K\x01u.", "a key without a value"),
    "no STOP": (b"N", "ValueError"),
    "unknown opcode": (b"\xfe.", "ValueError"),
    "terminal escapes": (b"cos\n\x1b[2J\n.", r"\\x1b"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_pickles_execute_nothing(tmp_path: Path, attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where the marker would appear
    pickled, match = ATTACKS[attack]
    EVENTS.clear()
    for content in containers(pickled).values():
        assert "\x1b" not in refuse(tmp_path / "x.pth", content, match)
    assert EVENTS == []
    assert os.listdir(tmp_path) == ["x.pth"]


def test_the_attack_is_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes do run under pickle.load, so the test above proves something."""
    monkeypatch.chdir(tmp_path)
    EVENTS.clear()
    pickle.loads(ATTACKS["posix.system"][0])
    assert (tmp_path / "MARKER").exists()
    assert {"pickle.find_class", "os.system"} <= set(EVENTS)


@pytest.mark.parametrize("form", FORMATS)
def test_pickled_module_is_named(tmp_path: Path, form: str) -> None:
    path = save(tmp_path / "x.pth", torch.nn.Linear(2, 2), form)
    refuse(path, path.read_bytes(), r"torch\.nn\.modules\.linear\.Linear.*save model\.state_dict\(\)")


def machine(pickled: bytes) -> Any:
    return load(io.BytesIO(pickled), lambda identity: np.arange(12, dtype=np.float32))


def test_cycles_survive() -> None:
    value: list[Any] = []
    mapping = {"self": value}
    value += [value, mapping, (value,)]
    for protocol in range(1, 6):
        read = machine(pickle.dumps(value, protocol))
        assert read[0] is read
        assert read[1]["self"] is read
        assert read[2][0] is read
    assert fuzz.visit(read) == 3


def test_metadata_of_ordered_dict_is_dropped() -> None:
    read = machine(b"ccollections\nOrderedDict\n)R}" + short("items") + b"K\x01sb.")
    assert read == {}
    assert not vars(read)
    assert callable(read.items)


def test_attributes_of_a_namespace_touch_no_object() -> None:
    read = machine(b"cargparse\nNamespace\n)\x81}" + short("__class__") + b"K\x01sb.")
    assert type(read) is Namespace
    assert read.attributes == {"__class__": 1}


BOMBS = {
    "DAG of 8**20000 leaves": b"]q\x00" + b"(h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00tq\x00" * 20_000 + b".",
    "DAG of pairs": b"K\x01q\x00" + b"h\x00h\x00\x86q\x00" * 60_000 + b".",
    "depth of tuples": b")" + b"\x85" * 300_000 + b".",
    "depth of lists": b"]q\x00" + b"]q\x01h\x00ah\x01q\x00" * 100_000 + b".",
    "copied lists": b"(" + b"K\x01" * 100_000 + b"tq\x00" + b"cbuiltins\nlist\nh\x00\x85R" * 10_000 + b".",
    "copied text": b"X\x00\x00\x10\x00" + b"x" * (1 << 20) + b"q\x00c_codecs\nencode\nq\x01"
    + (b"h\x01h\x00" + short("latin1") + b"\x86R") * 50_000 + b".",
    "sets": b"\x8f" * 300_000 + b".",
    "opcodes": b"N" * 3_000_000 + b".",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_stay_cheap(bomb: str) -> None:
    measured = bomb.startswith("copied")  # the others cost what their opcodes cost, and tracing memory slows them down
    if measured:
        tracemalloc.start()
    start = time.perf_counter()
    with contextlib.suppress(FormatError):
        machine(BOMBS[bomb])
    assert time.perf_counter() - start < 15
    if measured:
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("size", "stride", "offset", "message"),
    [
        ((12,), (1,), 1, "does not fit"),
        ((13,), (1,), 0, "does not fit"),
        ((13,), (0,), 0, "does not fit"),
        ((1 << 40, 1 << 40), (0, 0), 0, "does not fit"),
        ((2, 2), (11, 1), 0, "does not fit"),
        ((2,), (-1,), 1, "integers from 0"),
        ((-2,), (1,), 1, "integers from 0"),
        ((2,), (1,), -1, "integers from 0"),
        ((2,), (1 << 62,), 0, "does not fit"),
        ((2,), (1 << 63,), 0, "integers from 0"),
        ((2, 2), (1,), 0, "tuples of one length"),
        ((1,) * 33, (1,) * 33, 0, "tuples of one length"),
        ((True,), (1,), 0, "integers from 0"),
        ((0, 1 << 62), (1, 1), 0, "ValueError"),
        ((0,), (1,), 13, "does not fit"),
    ],
)
def test_views_outside_of_the_storage(size: Any, stride: Any, offset: Any, message: str) -> None:
    def pickled(value: Any) -> bytes:
        return pickle.dumps(value, 2)[2:-1]

    call = (
        b"ctorch._utils\n_rebuild_tensor\n((" + STORAGE + b"K\x0ctQ" + pickled(offset) + pickled(size) + pickled(stride)
    )
    with pytest.raises(FormatError, match=message):
        machine(call + b"tR.")


# --- broken files ---------------------------------------------------------------------------------------------------


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
    for index, (content, finish) in enumerate(fuzz.samples()):
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
    refuse(tmp_path / "x.pth", zipped([("a/data.pkl", b"N" * (40 << 20))]), "data.pkl has 41943040 bytes")
    lying = bytearray(zipped([("a/data.pkl", b"N.")]))
    at = lying.rfind(b"PK\x01\x02")
    lying[at + 20 : at + 28] = struct.pack("<LL", 2, 1 << 30)
    refuse(tmp_path / "x.pth", bytes(lying), "damaged or out of bounds")
    lying[at + 20 : at + 28] = struct.pack("<LL", 1 << 30, 1 << 30)
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


# --- noise ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def samples() -> list[Any]:
    return list(fuzz.samples())


@settings(max_examples=1200, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(seed=st.integers(0, 1 << 62))
def test_mutations_end_in_a_result_or_in_our_error(
    samples: list[Any], tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    rng = random.Random(seed)
    source, finish = rng.choice(samples)
    path = tmp_path_factory.getbasetemp() / "mutated"
    path.unlink(missing_ok=True)
    path.write_bytes(finish(fuzz.mutate(rng, source)))
    start = time.perf_counter()
    with contextlib.suppress(CheckpointError):
        fuzz.visit(read_checkpoint(path).data)
    assert time.perf_counter() - start < 5


@settings(max_examples=800, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(
    tail=st.binary(max_size=200),
    head=st.sampled_from([b"", b"\x80\x02", b"PK\x03\x04", PREAMBLE, b"\x08" + bytes(7) + b"{"]),
)
def test_noise_ends_in_our_error(tmp_path_factory: pytest.TempPathFactory, head: bytes, tail: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "noise"
    path.unlink(missing_ok=True)
    path.write_bytes(head + tail)
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
