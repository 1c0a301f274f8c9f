"""Costs by arithmetic against the built networks' own layers and the published figures."""

import math
import subprocess
import sys

import pytest

from keras_resnext import ResNeXt, cli, create
from keras_resnext.network.architectures import ARCHITECTURES
from keras_resnext.network.costs import count_costs
from keras_resnext.network.structure import Structure
from keras_resnext.weights.info import describe_file
from tests.support import without_weights

# Of torchvision and timm at 224x224.
GMACS = {
    "resnext50_32x4d": 4.23,
    "resnext50d_32x4d": 4.47,
    "resnext101_32x4d": 7.97,
    "resnext101_32x8d": 16.41,
    "resnext101_64x4d": 15.46,
    "resnext101_32x16d": 36.16,
    "resnext101_32x32d": 87.11,
    "resnext101_32x48d": 153,
    "resnext152_32x4d": 11.71,
}
TINY = dict(blocks=(2, 1, 1, 1), groups=4, width_per_group=4, base_channels=8, stem_channels=16, classes=7)


def total(costs, what):
    return sum(getattr(cost, what) for cost in costs)


def part(layer):
    """The part of the network that a layer belongs to, by its name."""
    name = layer.name.split("_")[0]
    return name if name.startswith("layer") else "head" if name == "fc" else "stem"


def counted(model):
    """{part: [parameters, multiply-accumulates]} of a built model, layer by layer."""
    costs = {}
    for layer in model.layers:
        entry = costs.setdefault(part(layer), [0, 0])
        entry[0] += sum(math.prod(weight.shape) for weight in layer.trainable_weights)
        if hasattr(layer, "kernel"):
            places = math.prod(layer.output.shape[1:-1])  # of a convolution; 1 of a dense layer
            entry[1] += math.prod(layer.kernel.shape) * places
    return costs


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_parameters_and_published_macs(name):
    row = ARCHITECTURES[name]
    costs = count_costs(row.structure, row.image_size)
    assert total(costs, "parameters") == row.parameters
    assert [cost.name for cost in costs][-2:] == [f"layer{len(row.structure.blocks)}", "head"]
    if name in GMACS:
        assert total(costs, "macs") / 1e9 == pytest.approx(GMACS[name], rel=0.003)


@pytest.mark.parametrize("name", ["resnext50_32x4d", "resnext50d_32x4d", "seresnext50_32x4d", "resnext29_8x64d"])
def test_against_the_built_architecture(name):
    with without_weights():
        model = create(name)
    costs = count_costs(ARCHITECTURES[name].structure, model.input_shape[1])
    assert {cost.name: [cost.parameters, cost.macs] for cost in costs} == counted(model)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"style": "caffe"},
        {"deep_stem": True, "avg_down": True},
        {"avg_down": True, "strides": (2, 1, 3, 1)},
        {"se_ratio": 4},
        {"attention": "eca", "deep_stem": True, "tiered_stem": True},
        {"attention": "gca", "group_size": 2, "attention_last": False, "activation": "silu"},
        {"attention": "sk"},
        {"se_ratio": 4, "stem_pool": "max_ceil"},
        {"dilations": (1, 1, 2, 4), "strides": (1, 2, 1, 1)},
        {"groups": 1},
        {"include_top": False},
        {"blocks": (1, 2), "num_stages": 2, "strides": (2, 2), "dilations": (1, 1)},
        {"stem": "cifar", "blocks": (1, 1, 1), "strides": (1, 2, 3)},
        {"stem_channels": 32, "strides": (1, 1, 1, 1)},
        {"stem_channels": 32, "strides": (2, 1, 1, 1)},
    ],
)
def test_against_built_networks(options):
    """At an odd size, where halves are rounded."""
    options = {**TINY, **options}
    model = ResNeXt(**options, input_shape=(75, 50, 3))
    costs = count_costs(Structure.of(**options), (75, 50))
    assert {cost.name: [cost.parameters, cost.macs] for cost in costs} == counted(model)
    maps = {cost.name: cost.output for cost in costs}
    for stage, count in enumerate(options["blocks"], start=1):
        assert maps[f"layer{stage}"] == model.get_layer(f"layer{stage}_{count - 1}_relu").output.shape[1:]


def test_grey_images():
    costs = count_costs(Structure.of(**TINY, in_channels=1), 32)
    assert costs[0].parameters == 7 * 7 * 16 + 2 * 16


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (0, r"image_size\[0\]=0 must be a positive integer"),
        ((32, -1), r"image_size\[1\]=-1 must be a positive integer"),
    ],
)
def test_errors(size, message):
    with pytest.raises(ValueError, match=message):
        count_costs(Structure.of(), size)


@pytest.mark.parametrize("style", ["pytorch", "caffe"])
def test_info_of_a_keras_file_follows_its_strides_and_size(style, tmp_path):
    options = dict(blocks=(1, 1, 1), stem="cifar", groups=4, width_per_group=4, base_channels=8, classes=7)
    model = ResNeXt(**options, strides=(2, 2, 2), style=style, input_shape=(48, 40, 3))
    model.save(tmp_path / "m.keras")
    found = describe_file(tmp_path / "m.keras")
    assert found.image_size == (48, 40)
    assert {cost.name: [cost.parameters, cost.macs] for cost in found.costs} == counted(model)
    assert describe_file(tmp_path / "m.keras", 32).image_size == (32, 32)
    model.save_weights(tmp_path / "m.weights.h5")
    assert describe_file(tmp_path / "m.weights.h5").costs == count_costs(Structure.of(**options), 32)


def test_info_of_an_architecture_loads_no_framework():
    code = """
import sys
sys.argv = ["keras-resnext", "info", "seresnext50_32x4d", "--image-size", "160"]
import keras_resnext.cli as cli
try:
    cli.main()
except SystemExit as stop:
    assert not stop.code
assert not {"keras", "tensorflow", "jax"} & set(sys.modules)
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    rows = [line.split() for line in shown.stdout.splitlines() if line]
    assert ["architecture", "seresnext50_32x4d"] in rows
    assert ["layer4", "5x5x2048", "16,124,288", "0.443"] in rows
    assert rows[-1] == ["in", "all", "of", "160x160", "pixels", "27,559,896", "2.162"]


def test_info_of_a_name_that_is_none(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["info", "resnext51"])
    captured = capsys.readouterr()
    assert (stop.value.code, captured.out, captured.err.count("\n")) == (2, "", 1)
    said = "FILE='resnext51' is no file, architecture or published checkpoint; choose one of resnext26_32x4d"
    assert said in captured.err


def test_info_of_published_weights(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["info", "timm/resnext50_32x4d.a1h_in1k"])
    assert not stop.value.code
    shown = " ".join(capsys.readouterr().out.split())
    assert "architecture resnext50_32x4d" in shown
    assert "top-1 81.14 %, 82.016 % at test size licence Apache-2.0 address https://" in shown
