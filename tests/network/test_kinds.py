"""What timm's ResNeXts have beyond mmcls's: options, their borders, and that files and checkpoints keep them."""

import keras
import numpy as np
import pytest
import torch

from keras_resnext import ResNeXt, from_pytorch
from keras_resnext.network.blocks import stem
from keras_resnext.network.layers import StochasticDepth
from keras_resnext.network.structure import Structure
from keras_resnext.weights.assign import load_pytorch_weights, save_pytorch_weights, state_dict, structure_of
from keras_resnext.weights.info import describe_file
from keras_resnext.weights.lookalikes import options_by_file_name, options_by_looks
from tests.support import randomise, relative_error

TINY = dict(blocks=(1, 2), num_stages=2, strides=(1, 2), dilations=(1, 1), groups=4, base_channels=8, classes=3)
INNER = dict(group_size=4, deep_stem=True, tiered_stem=True, activation="silu", attention_last=False)
KINDS = {
    "eca": dict(attention="eca"),
    "sk": dict(attention="sk", activation="silu"),
    "legacy": dict(se_ratio=4, stem_pool="max_ceil"),
    "aa": dict(se_ratio=4, deep_stem=True, avg_down=True, antialias=True, stem_pool="avg"),
    "inner se": dict(**INNER, se_ratio=16),
    "inner eca": dict(**INNER, attention="eca"),
    "inner gca": dict(**INNER, attention="gca"),
}


def tiny(**options):
    return ResNeXt(**{**TINY, "input_shape": (32, 32, 3), "classifier_activation": None, **options})


@pytest.mark.parametrize("kind", KINDS)
def test_files_keep_the_kind(kind, tmp_path):
    model = randomise(tiny(**KINDS[kind]))
    structure = structure_of(model)
    wanted = Structure.of(**{**TINY, **KINDS[kind]})
    assert structure.options().items() >= {name: wanted.options()[name] for name in KINDS[kind]}.items()
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert structure_of(again) == structure
    found = describe_file(tmp_path / "m.keras")
    assert (found.structure, found.problem) == (structure, "")
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype("float32")
    assert relative_error(again(x, training=False), model(x, training=False)) == 0


def test_all_that_is_new_learns():
    for attention in ("eca", "gca", "sk"):
        model = tiny(attention=attention, activation="silu", zero_init_residual=False, drop_path_rule="linear")
        before = [np.asarray(variable) for variable in model.trainable_variables]
        model.compile(keras.optimizers.SGD(1.0), keras.losses.CategoricalCrossentropy(from_logits=True))
        x = np.random.default_rng(0).standard_normal((4, 32, 32, 3))
        for _ in range(2):  # gca's last kernel starts at 0
            model.train_on_batch(x, np.eye(3)[[0, 1, 2, 0]])
        still = [v.path for v, old in zip(model.trainable_variables, before, strict=True) if np.array_equal(v, old)]
        # A softmax stays the same when all its scores move: the bias before it moves by rounding alone, or not at all.
        assert [path for path in still if not path.endswith("gc_attn/bias")] == []


def test_drop_path_rises_from_block_to_block():
    rates = [block.drop_path_rate for stage in Structure.of(drop_path_rate=0.3).stages for block in stage]
    assert set(rates) == {0.3}
    risen = Structure.of(blocks=(1, 2, 1, 1), drop_path_rate=0.2, drop_path_rule="linear").stages
    assert [block.drop_path_rate for stage in risen for block in stage] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    model = tiny(drop_path_rate=0.4, drop_path_rule="linear")
    dropping = {layer.name: layer.rate for layer in model.layers if isinstance(layer, StochasticDepth)}
    assert dropping == {"layer2_0_drop_path": 0.2, "layer2_1_drop_path": 0.4}


@pytest.mark.parametrize("size", [30, 31, 33, 40])
@pytest.mark.parametrize(("pool", "options"), [("max", dict(padding=1)), ("max_ceil", dict(ceil_mode=True))])
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_pooling_at_the_border(size, pool, options, activation):
    """Behind SiLU every value may be negative, and a zero of the padding would be the largest."""
    structure = Structure.of(stem_channels=8, stem_pool=pool, activation=activation)
    image = keras.Input((size, size, 3))
    network = randomise(keras.Model(image, stem(image, structure)))
    network.get_layer("bn1").beta.assign(np.full(8, -3.0))
    before = keras.Model(image, network.get_layer("relu").output)
    x = np.random.default_rng(0).standard_normal((1, size, size, 3)).astype("float32")
    map_ = torch.tensor(np.asarray(before(x))).permute(0, 3, 1, 2)
    expected = torch.nn.functional.max_pool2d(map_, 3, 2, **options).permute(0, 2, 3, 1).numpy()
    assert relative_error(network(x), expected) == 0
    assert (expected.min() < 0) == (activation == "silu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(attention="cbam"), r"attention='cbam' is unknown; choose one of None, 'eca', 'gca', 'sk'"),
        (dict(attention="eca", se_ratio=16), r"attention='eca' and se_ratio=16 exclude each other"),
        (dict(activation="gelu"), r"activation='gelu' is unknown; choose one of 'relu', 'silu'"),
        (dict(stem_pool="min"), r"stem_pool='min' is unknown; choose one of 'max', 'max_ceil', 'avg'"),
        (dict(drop_path_rule="cosine"), r"drop_path_rule='cosine' is unknown; choose one of 'constant', 'linear'"),
        (dict(tiered_stem=True), r"tiered_stem=True needs deep_stem=True \(False given\)"),
        (dict(tiered_stem=True, deep_stem=True, stem_channels=12), r"stem_channels that 8 divides \(12\)"),
        (dict(antialias=True, style="caffe"), r"antialias=True needs style='pytorch' \('caffe' given\)"),
        (dict(group_size=0), r"group_size=0 must be a positive integer"),
        (dict(group_size=3), r"group_size=3 must divide the channels of every 3x3, here 8"),
        (dict(antialias=True, input_shape=(40, 44, 3)), r"input_shape must have sides that 32 divides.* map of 10x11"),
    ],
)
def test_errors_name_argument_value_and_rule(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)


@pytest.mark.parametrize(
    ("options", "layout", "message"),
    [
        (KINDS["eca"], "mmcls", "layout='mmcls' has no attention='eca'; choose timm"),
        (KINDS["legacy"], "torchvision", "no squeeze-and-excitation and stem_pool='max_ceil'; choose timm"),
        (dict(group_size=4), "timm", "layout='timm' has no plain stem; no library has this network"),
    ],
)
def test_layouts_without_such_a_network(options, layout, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_pytorch_weights(tiny(**options), tmp_path / "m.pth", layout=layout)


def test_names_of_another_library_need_its_network(tmp_path):
    save_pytorch_weights(randomise(tiny(**KINDS["inner se"])), tmp_path / "m.pth", layout="timm")
    other = tiny(**{**KINDS["inner se"], "activation": "relu"})
    with pytest.raises(ValueError, match="activation='relu' in the model; set activation='silu'"):
        load_pytorch_weights(other, tmp_path / "m.pth")


def test_weights_that_look_like_anothers():
    plain = Structure.of(101, width_per_group=8, se_ratio=16, deep_stem=True, avg_down=True)
    with pytest.warns(UserWarning, match=r"seresnextaa101d_32x8d look the same.*stem_pool='avg', antialias=True"):
        assert options_by_looks(plain, ()) == {}
    assert options_by_looks(plain, ("antialias",)) == {}
    wide = Structure.of(
        blocks=(3, 24, 36, 4), width_per_group=8, se_ratio=16, deep_stem=True, avg_down=True, stem_channels=128
    )
    taken = {"stem_pool": "avg", "antialias": True}
    with pytest.warns(UserWarning, match="taken for those of seresnextaa201d_32x8d"):
        assert options_by_looks(wide, ()) == taken
    assert options_by_file_name("seresnextaa101d_32x8d_ah-83c8ae12.pth", plain) == taken
    assert options_by_file_name("mine.pth", plain) == {}


def test_resnets_of_timms_byobnet_are_refused():
    model = randomise(tiny(**{**KINDS["inner gca"], "group_size": None, "groups": 1}))
    state = state_dict(model)
    renamed = {name.replace("layer1.0.conv1", "stages.0.0.conv1_1x1.conv"): array for name, array in state.items()}
    with pytest.raises(ValueError, match="timm's ResNets with SiLU"):
        from_pytorch(renamed)
