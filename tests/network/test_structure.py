"""The structure is one value: `ResNeXt`'s options make it, its numbers are the network's, and the table knows it."""

import inspect
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest

from keras_resnext import ResNeXt
from keras_resnext.network.architectures import ARCHITECTURES, identify
from keras_resnext.network.layer_cfg import BATCH_NORM, read_norm_cfg
from keras_resnext.network.structure import Structure

# Options of `ResNeXt` that say nothing of the structure.
OTHERS = {"weights", "input_tensor", "input_shape", "classifier_activation", "name"}
TRANSLATED = {"depth", "blocks", "num_stages", "conv_cfg", "norm_cfg", "in_channels", "conv", "norm"}


def test_options_and_defaults_are_those_of_the_builder():
    options = {p.name: p.default for p in inspect.signature(ResNeXt).parameters.values() if p.name not in OTHERS}
    names = {field.name for field in fields(Structure)}
    assert options.keys() - TRANSLATED == names - TRANSLATED
    for name in names - TRANSLATED:
        assert getattr(Structure, name) == options[name], name
    given = {name: options[name] for name in options.keys() - {"depth"}}
    assert Structure.of(options["depth"], **given) == Structure.of()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_identified(name):
    structure = ARCHITECTURES[name].structure
    assert identify(structure) is ARCHITECTURES[name]
    first_stages = Structure.of(**{**ARCHITECTURES[name].all_options, "include_top": False, "classes": 3})
    assert identify(first_stages) is ARCHITECTURES[name]


def test_usual_names():
    usual = {name: ARCHITECTURES[name].structure.variant for name in ARCHITECTURES}
    assert usual["resnext101_32x8d"] == "resnext101_32x8d"
    assert usual["seresnextaa101d_32x8d"] == usual["seresnext101_32x8d"] == "seresnext101_32x8d"
    assert usual["ecaresnext50t_32x4d"] == "ecaresnext50_32x4d"
    assert usual["skresnext50_32x4d"] == "skresnext50_32x4d"
    assert usual["gcresnext26ts"] == "gcresnext26_g32"


def test_other_structures_are_not_identified():
    assert identify(Structure.of(50, num_stages=2, strides=(1, 2), dilations=(1, 1))).name == "resnext50_32x4d"
    for options in (
        dict(avg_down=True),
        dict(blocks=(3, 4, 6, 4)),
        dict(blocks=(3, 4, 6), num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1)),
        dict(groups=16),
        dict(groups=16, width_per_group=8),
        dict(se_ratio=8),
        dict(stem_channels=32),
        dict(activation="silu"),
        dict(antialias=True),
        dict(attention="gca"),
        dict(group_size=32),
    ):
        assert identify(Structure.of(**options)) is None, options


def test_numbers_of_a_network():
    structure = Structure.of(101, groups=64, se_ratio=16, deep_stem=True, style="caffe", strides=(1, 2, 2, 1))
    assert (structure.blocks, structure.variant) == ((3, 4, 23, 3), "seresnext101_64x4d")
    assert structure.widths == (256, 512, 1024, 2048)
    assert structure.outputs == (256, 512, 1024, 2048)
    assert structure.stem_convolutions == ((32, 3, 2), (32, 3, 1), (64, 3, 1))
    first, second = structure.stages[1][:2]
    assert (first.name, first.channels, first.width, first.filters) == ("layer2_0", 256, 512, 512)
    assert (first.strides, first.stride, first.projects, first.squeezed) == ((2, 1), 2, True, 32)
    assert (second.strides, second.channels, second.projects) == ((1, 1), 512, False)
    assert [stage[0].projects for stage in structure.stages] == [True] * 4
    assert Structure.of(groups=1).widths == (64, 128, 256, 512)
    assert Structure.of(29, stem="cifar").blocks == (3, 3, 3)


def test_options_make_the_same_structure():
    for options in (
        dict(),
        dict(stem="cifar", blocks=(1, 1, 1)),
        dict(
            norm_cfg={"type": "GN", "num_groups": 2},
            conv_cfg={"type": "ConvWS"},
            out_indices=[2, 0, 2],
            include_top=False,
        ),
        dict(num_stages=2, blocks=(1, 2), strides=(1, 1), dilations=(1, 2), drop_path_rate=0.1),
    ):
        structure = Structure.of(**options)
        again = Structure.of(**structure.options())
        assert replace(again, depth=structure.depth) == structure
    assert Structure.of(include_top=False, out_indices=[2, 0, 2]).out_indices == (0, 2)


def test_a_structure_is_checked_and_stays_as_it_is():
    structure = Structure.of(groups=np.int64(8))
    assert type(structure.groups) is int
    with pytest.raises(FrozenInstanceError):
        structure.groups = 4
    with pytest.raises(ValueError, match=r"groups=0 must be a positive integer"):
        replace(structure, groups=0)
    with pytest.raises(ValueError, match=r"in_channels=0 must be a positive integer"):
        Structure.of(in_channels=0)


def test_norm_cfg_and_back():
    for cfg in (None, {"type": "SyncBN"}, {"type": "GN", "num_groups": 4, "eps": 1e-3}, {"type": "LN"}):
        assert read_norm_cfg(cfg).cfg == cfg
    assert read_norm_cfg({"type": "BN", "momentum": 0.1}) == BATCH_NORM


def test_no_framework_is_loaded():
    modules = ["network." + name for name in ("structure", "architectures", "costs", "layer_cfg", "checks")]
    modules += ["weights." + name for name in ("infer", "layouts", "published", "info")]
    code = f"""
import importlib, sys
for name in {modules!r}:
    importlib.import_module("keras_resnext." + name)
print(*({{"keras", "tensorflow", "jax", "torch"}} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
