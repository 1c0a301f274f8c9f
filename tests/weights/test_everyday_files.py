"""Checkpoint files as training code, hubs and detectors write them give the network's own weights, or a way out."""

import argparse
import collections
import datetime
import enum
import fractions
import json
import os
import pathlib
import pickle
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from keras_resnext import ResNeXt, from_pytorch, load_pytorch_weights
from keras_resnext.loading import load_model
from keras_resnext.pytorch import CheckpointError, read_checkpoint
from keras_resnext.pytorch.unpickler import Placeholder
from keras_resnext.weights.assign import read_entries, state_dict
from keras_resnext.weights.info import describe_file
from tests.support import randomise

OPTIONS = dict(blocks=(1, 1, 1, 1), groups=4, width_per_group=4, base_channels=16, classes=5)


class Colour(enum.Enum):
    RED = 1


@pytest.fixture(scope="module")
def state():
    model = randomise(ResNeXt(**OPTIONS, input_shape=(32, 32, 3)))
    return {name: torch.tensor(array) for name, array in state_dict(model).items()}


@pytest.fixture(scope="module")
def body(state):
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


def holds(source, state, **options):
    """Whether reading `source` gives the weights of `state` and nothing else."""
    entries, expected = read_entries(source, **options), read_entries(state, headless=True)
    assert entries.keys() == expected.keys()
    return all(np.array_equal(array, expected[name][1]) for name, (_, array) in entries.items())


def saved(folder, value, form=True):
    torch.save(value, folder / "file.pth", _use_new_zipfile_serialization=form)
    return folder / "file.pth"


def lightning(state):
    return {
        "epoch": 3, "pytorch-lightning_version": "2.2.0", "loops": {}, "optimizer_states": [], "lr_schedulers": [],
        "callbacks": {"ModelCheckpoint{'monitor': 'val_loss'}": {"best_model_score": torch.tensor(0.5)}},
        "state_dict": {f"model.{name}": value for name, value in state.items()} | {"criterion.weight": torch.ones(5)},
    }  # fmt: skip


BESIDE = {
    "path": argparse.Namespace(data=pathlib.PosixPath("/data"), lr=0.1),
    "datetime": datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc),
    "enum": Colour.RED,
    "deque": collections.deque([1, 2], maxlen=5),
    "function": torch.nn.functional.relu,
    "class": fractions.Fraction,
    "fraction": fractions.Fraction(1, 3),
    "texts": np.array(["cat", "dog"]),
    "objects": np.array([{}, None], dtype=object),
    "dates": np.array(["2024-01-01"], dtype="datetime64[D]"),
    "tuple key": {(0, 1): 3, ("a", (1, 2)): 4},
    "number key": {np.int64(3): 1},
    "complex": torch.ones(2, dtype=torch.complex64),
    "generator": np.random.default_rng(0),
    "random state": (np.random.RandomState(0).get_state(), torch.get_rng_state()),
    "bytearray": bytearray(b"abc"),
}


@pytest.mark.parametrize("beside", BESIDE)
def test_objects_beside_the_weights(state, tmp_path, beside):
    assert holds(saved(tmp_path, {"state_dict": state, "beside": BESIDE[beside]}), state)


def test_schedulers_scalers_and_optimizers(state, tmp_path):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([parameter], 0.1)
    parameter.sum().backward()
    optimizer.step()  # from now on it has a state by parameter
    beside = {"optimizer": optimizer, "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3)}
    beside |= {"scaler": torch.amp.GradScaler("cpu"), "module": torch.nn.Linear(2, 2)}
    for form in (True, False):
        path = saved(tmp_path, {"state_dict": state, **beside}, form)
        assert holds(path, state)
        data = read_checkpoint(path).data
        assert {type(data[name]) for name in beside} == {Placeholder}
        assert data["scheduler"].name == "torch.optim.lr_scheduler.StepLR"
        os.unlink(path)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_detectron2s_pickle_of_arrays(body, tmp_path, protocol):
    arrays = {}
    for name, value in body.items():
        new = re.sub(r"^layer(\d)", lambda m: f"res{int(m[1]) + 1}", name)
        new = (
            re.sub(r"bn(\d)", r"conv\1.norm", new)
            .replace("downsample.0", "shortcut")
            .replace("downsample.1", "shortcut.norm")
        )
        arrays[new if new.startswith("res") else f"stem.{new}"] = value.numpy()
    content = {"model": arrays, "__author__": "us", "more": np.zeros(20 << 20, np.uint8)}  # more than 1,000,000 steps
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content, protocol))
    with pytest.warns(UserWarning, match="a backbone without a head"), pytest.warns(UserWarning, match="bgr=True"):
        assert holds(tmp_path / "R-50.pkl", body)


def test_a_folder_of_the_hub(state, tmp_path):
    for folder in ("one", "bin", "shards"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(json.dumps({"num_classes": 5}))
    state = {name: value.contiguous() for name, value in state.items()}
    save_file(state, tmp_path / "one" / "model.safetensors")
    torch.save(state, tmp_path / "bin" / "pytorch_model.bin")
    names = sorted(state)
    shards = {f"model-{i}.safetensors": names[i::2] for i in (0, 1)}
    for shard, part in shards.items():
        save_file({name: state[name] for name in part}, tmp_path / "shards" / shard)
    weight_map = {name: shard for shard, part in shards.items() for name in part}
    index = tmp_path / "shards" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    for folder in ("one", "bin", "shards"):
        assert holds(tmp_path / folder, state)
    assert load_model(tmp_path / "shards").output_shape == (None, 5)
    for wrong in ("../one/model.safetensors", "/etc/passwd", "", ".."):
        index.write_text(json.dumps({"weight_map": {"a": wrong}}))
        with pytest.raises(CheckpointError, match="in its own folder"):
            read_entries(tmp_path / "shards")
    index.write_text("[]")
    with pytest.raises(CheckpointError, match="no index of weights"):
        read_entries(tmp_path / "shards")
    with pytest.raises(CheckpointError, match="a folder without weights; expected one of model"):
        read_entries(tmp_path)


def test_a_folder_of_one_checkpoint_and_info(state, tmp_path):
    torch.save(state, tmp_path / "best.pth")
    (tmp_path / "README.md").write_text("no weights")
    assert holds(tmp_path, state)
    found = describe_file(tmp_path)
    assert (found.classes, found.size) == (5, (tmp_path / "best.pth").stat().st_size)
    torch.save(state, tmp_path / "last.pth")
    for read in (describe_file, load_model):
        with pytest.raises(CheckpointError, match=r"2 checkpoints, best\.pth, last\.pth; give the path of one"):
            read(tmp_path)


def test_a_lightning_checkpoint_and_what_info_tells(state, tmp_path):
    path = saved(tmp_path, lightning(state))
    with pytest.warns(UserWarning, match=r"left out: criterion\.\* \(1\)$"):
        assert holds(path, state)
    found = describe_file(path)
    assert (found.wrapper, found.prefix, found.left_out) == ("state_dict", "model.", "criterion.* (1)")
    assert not found.problem


def test_a_detectors_backbone(body, tmp_path):
    data = {f"backbone.{name}": value for name, value in body.items()}
    data |= {"neck.convs.0.weight": torch.zeros(8, 64, 1, 1), "roi_head.fc_cls.weight": torch.zeros(81, 16)}
    expected = r"left out: neck\.\* \(1\), roi_head\.\* \(1\); the checkpoint holds a backbone without a head"
    with pytest.warns(UserWarning, match=expected):
        model = from_pytorch(saved(tmp_path, {"state_dict": data}))
    assert model.output_shape == (None, None, None, 512)


def test_a_head_of_several_layers_and_both_ways_out(state, body, tmp_path):
    head = {"fc.0.weight": torch.ones(6, 512), "fc.0.bias": torch.ones(6), "fc.2.weight": torch.ones(5, 6)}
    path = saved(tmp_path, body | head)
    with pytest.raises(ValueError, match=r"fc\.2\.weight \(5, 6\).*include_top=False.*classes="):
        from_pytorch(path)
    with pytest.warns(UserWarning, match=r"left out: fc\.\* \(3\)"):
        assert from_pytorch(path, include_top=False).output_shape == (None, None, None, 512)
    with (
        pytest.warns(UserWarning, match=r"head of the checkpoint cannot be read: fc \(fc\.0.*left out: fc"),
        pytest.warns(UserWarning, match="starts at random"),
    ):
        assert from_pytorch(path, classes=7).output_shape == (None, 7)
    assert "fc.2.weight" in describe_file(path).problem
    with pytest.raises(ValueError, match="the head of the checkpoint cannot be read"):
        load_pytorch_weights(ResNeXt(**OPTIONS), path)


def test_moco_and_its_prefix(state, body, tmp_path):
    data = {f"module.encoder_{side}.{name}": value for side in "qk" for name, value in state.items()}
    path = saved(tmp_path, {"state_dict": data | {"module.queue": torch.zeros(16, 8)}})
    for read in (from_pytorch, describe_file):
        with pytest.raises(ValueError, match=r"2 networks.*prefix=.*encoder_q.*encoder_k"):
            read(path)
    with pytest.warns(UserWarning, match=r"left out: module\.encoder_k\.\* \(\d+\), module\.queue \(1\)"):
        assert holds(path, state, prefix="encoder_q")
    assert describe_file(path, prefix="encoder_k").prefix == "module.encoder_k."


def test_whole_modules_are_refused_with_the_way_out(tmp_path):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    for form in (True, False):
        path = saved(tmp_path, module, form)
        with pytest.raises(CheckpointError, match=r"container\.Sequential.*torch\.save\(model\.state_dict\(\)"):
            from_pytorch(path)
        os.unlink(path)
        path = saved(tmp_path, {"model": module, "epoch": 3}, form)
        with pytest.raises(ValueError, match=r"model \(.*Sequential\).*torch\.save\(model\.state_dict\(\)"):
            from_pytorch(path)
        os.unlink(path)


def test_an_object_where_a_weight_is_needed(state, tmp_path):
    path = saved(tmp_path, {**state, "conv1.weight": pathlib.PosixPath("/data")})
    with pytest.raises(ValueError, match=r"conv1\.weight must be an array and is an object, pathlib"):
        from_pytorch(path)
    path.unlink()
    with pytest.raises(ValueError, match=r"conv1"):
        from_pytorch(saved(tmp_path, {**state, "conv1.weight": np.array(["a"])}))
