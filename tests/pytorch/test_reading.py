"""What torch and safetensors write is read bit for bit."""

from __future__ import annotations

import argparse
import collections
import io
import tracemalloc
import types
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from keras_resnext.pytorch.checkpoint import read_checkpoint
from keras_resnext.pytorch.rebuild import Namespace, load
from keras_resnext.pytorch.storage import DTYPES as ROWS
from keras_resnext.pytorch.storage import FormatError, storage_id
from tests.pytorch.making import (
    DTYPES,
    FORMATS,
    noise,
    same,
    save,
)

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")


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
        assert peak < 2 << 20


@pytest.mark.parametrize("protocol", [2, 4])
def test_arrays_of_numpy_of_any_size(tmp_path: Path, protocol: int) -> None:
    array = np.arange(5 << 20, dtype=np.int64)  # 40 MB inside data.pkl
    read = read_checkpoint(save(tmp_path / "x.pth", {"a": array}, "zip", pickle_protocol=protocol)).data["a"]
    assert np.array_equal(read, array)


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
