"""Whatever a checkpoint says, `info` and loading end soon in a result or in CheckpointError; nothing large is built."""

import os

import numpy as np
import pytest
import torch

from keras_resnext import from_pytorch, load_pytorch_weights, loading
from keras_resnext.conversion import convert
from keras_resnext.network.costs import MAX_SIZE, count_costs
from keras_resnext.network.structure import Structure
from keras_resnext.pytorch import CheckpointError, write_checkpoint
from keras_resnext.weights.find_network import find_network
from keras_resnext.weights.infer import MAX_BLOCKS, infer_built, infer_from_names
from keras_resnext.weights.info import describe_file
from tests.weights.small_states import make_state

STATE = make_state(0)


def bytes_of(*shape):
    return np.zeros(shape, "int8")


def wide():
    """A first block that shows a network of 30 GB."""
    parts = {"conv1": (60_000, 64, 1, 1), "conv2": (60_000, 1, 3, 3), "conv3": (240_000, 1, 1, 1)}
    return STATE | {f"layer1.0.{name}.weight": bytes_of(*shape) for name, shape in parts.items()}


def squeezed():
    """Squeeze-and-excitation that fits no ratio, in a network so wide that not every ratio can be tried."""
    squeezes = {f"layer{i}.0.se.conv1.weight": bytes_of(12 + i, 1, 1, 1) for i in (1, 2, 3, 4)}
    return STATE | squeezes | {"layer1.0.conv3.weight": bytes_of(10_000_000, 1, 1, 1)}


REFUSED = {
    "a huge network": (wide, r"layer1\.0\.conv3.*in the checkpoint.*in the model"),
    "a huge ratio": (squeezed, "follow no se_ratio"),
    "many blocks": (
        lambda: {f"layer1.{i}.conv1.weight": bytes_of(1, 1, 1, 1) for i in range(MAX_BLOCKS + 1)},
        "blocks",
    ),
    "a head without axes": (lambda: STATE | {"fc.weight": bytes_of()}, r"fc\.weight has shape \(\)"),
    "a kernel of three axes": (lambda: STATE | {"conv1.weight": bytes_of(64, 3, 7)}, r"conv1\.weight has shape"),
    "an empty kernel": (lambda: STATE | {"layer1.0.conv1.weight": bytes_of(0, 0, 1, 1)}, "has shape"),
    "half a network": (lambda: {n: v for n, v in STATE.items() if "bn2" not in n}, "16 missing"),
    "a head of two layers": (lambda: STATE | {"fc.2.weight": bytes_of(3, 5)}, "include_top=False"),
    "a huge gate": (
        lambda: STATE | {"layer1.0.se.conv.weight": bytes_of(1, 1, 10**6)},
        r"3 missing: layer2\.0\.eca.*\(1, 1, 1000000\) in the checkpoint, \(1, 1, 3\) in the model",
    ),
    "no network": (lambda: {"blocks.0.attn.qkv.weight": bytes_of(3, 3)}, "no ResNeXt"),
}


@pytest.mark.filterwarnings("ignore:the checkpoint holds a backbone")
@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_before_anything_is_built(case, tmp_path, monkeypatch):
    make, message = REFUSED[case]
    write_checkpoint(tmp_path / "x.pth", make())
    monkeypatch.setattr(loading, "ResNeXt", lambda **options: pytest.fail("a model is built"))
    for load in (from_pytorch, lambda path: convert(path, tmp_path / "y.safetensors")):
        with pytest.raises(CheckpointError, match=message):
            load(tmp_path / "x.pth")
    assert describe_file(tmp_path / "x.pth").problem


def test_loading_into_a_model_raises_the_same(tmp_path):
    write_checkpoint(tmp_path / "x.pth", STATE)
    model = from_pytorch(tmp_path / "x.pth")
    write_checkpoint(tmp_path / "y.pth", {name: value for name, value in STATE.items() if name != "conv1.weight"})
    (tmp_path / "z.pth").write_bytes(b"nothing")
    for name in "yz":
        with pytest.raises(CheckpointError):
            load_pytorch_weights(model, tmp_path / f"{name}.pth")


def test_weights_that_lie_over_each_other(tmp_path):
    storage = torch.zeros(max(value.size for value in STATE.values()))
    torch.save({name: storage[: v.size].view(v.shape) for name, v in STATE.items()}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"weights overlap: they take \d+ bytes in a file of"):
        from_pytorch(tmp_path / "x.pth")


def test_types_among_the_entries(tmp_path):
    torch.save({name: torch.tensor(v) for name, v in STATE.items()} | {"dtype": torch.float32}, tmp_path / "x.pth")
    assert not describe_file(tmp_path / "x.pth").problem
    assert find_network({**STATE, "conv1.weight": np.dtype("float32")}).weights.keys() == STATE.keys() - {
        "conv1.weight"
    }


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.keras", "x.weights.h5"])
def test_pipes_and_devices_are_not_opened(name, tmp_path):
    os.mkfifo(tmp_path / name)
    (tmp_path / f"zero.{name}").symlink_to("/dev/zero")
    for path in (tmp_path / name, tmp_path / f"zero.{name}"):
        for read in (describe_file, from_pytorch, loading.load_model):
            with pytest.raises(CheckpointError, match="not a regular file"):
                read(path)


def described_layers():
    """What a .keras file says of the layers of `STATE`."""
    config = {"strides": [1, 1], "dilation_rate": [1, 1], "epsilon": 1e-5}
    parts = ("conv1", "conv2", "conv3", "bn1", "relu1")
    return {
        f"layer{i}_0_{part}": {"class_name": "ReLU", "config": dict(config)} for i in (1, 2, 3, 4) for part in parts
    }


@pytest.mark.parametrize("value", ["2", 0, -1, None, 1.5])
@pytest.mark.parametrize("option", ["strides", "dilation_rate"])
def test_strides_of_a_keras_file_that_are_no_numbers(option, value):
    structure = infer_from_names({name: v.shape for name, v in STATE.items()})
    layers = described_layers()
    assert infer_built(structure, layers).strides == (1, 1, 1, 1)
    layers["layer2_0_conv2"]["config"][option] = [value, value]
    with pytest.raises(ValueError, match="must be a positive integer"):
        infer_built(structure, layers)


def test_a_stem_of_a_keras_file_that_no_resnext_has():
    structure = infer_from_names({name: v.shape for name, v in STATE.items()})
    layers = described_layers()
    layers["maxpool_pad"] = {"class_name": "ZeroPadding2D", "config": {"padding": [[1, 1], [1, 1]]}}
    assert infer_built(structure, layers).stem_pool == "max"
    layers["maxpool_pad"]["config"]["padding"] = [[5, 5], [5, 5]]
    with pytest.raises(ValueError, match="as no stem of a ResNeXt"):
        infer_built(structure, layers)


@pytest.mark.parametrize("size", [10**400, MAX_SIZE + 1, (224, 10**400)])
def test_sizes_beyond_any_image(size):
    with pytest.raises(ValueError, match=f"must be an integer from 1 to {MAX_SIZE}"):
        count_costs(Structure.of(50), size)
