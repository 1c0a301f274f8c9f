"""The network: counts, shapes, names, options, errors, saving. Runs on the JAX backend too (test_backends.py)."""

import inspect

import keras
import numpy as np
import pytest
from keras import ops

import keras_resnext
from keras_resnext import GroupedConv2D, Preprocessing, ResNeXt, create, get_preprocessing
from keras_resnext.network.architectures import ARCHITECTURES
from keras_resnext.network.normalization import BatchNorm
from tests.support import randomise, relative_error, without_weights

SMALL = dict(
    blocks=(1, 1, 1, 1),
    groups=4,
    width_per_group=4,
    base_channels=8,
    stem_channels=8,
    classes=5,
    input_shape=(32, 32, 3),
)


def small(**options):
    return ResNeXt(**{**SMALL, **options})


def count(variables):
    return sum(int(np.prod(v.shape)) for v in variables)


# One of each kind; `network/test_costs.py` counts all by arithmetic.
KINDS = (
    *("resnext26_32x4d", "resnext50d_32x4d", "resnext50_32x4d_gn_ws", "resnext101_32x48d", "seresnext26t_32x4d"),
    *("seresnextaa101d_32x8d", "legacy_seresnext26_32x4d", "ecaresnext26t_32x4d", "skresnext50_32x4d"),
    *("seresnext26ts", "gcresnext26ts", "resnext29_8x64d"),
)


@pytest.mark.parametrize("name", KINDS)
def test_parameter_counts(name):
    """Rows of the table, built; the widest ones without allocating their weights."""
    row = ARCHITECTURES[name]
    with without_weights():  # shapes without values
        model = create(name)
        assert count(model.trainable_variables) == row.parameters
    assert model.name == name
    assert model.input_shape == (None, row.image_size, row.image_size, 3)
    assert model.output_shape == (None, row.classes)


@pytest.mark.parametrize(
    ("name", "total"),
    [("resnext50_32x4d", 25_097_128), ("resnext50d_32x4d", 25_116_488), ("resnext101_64x4d", 83_658_152)],
)
def test_total_counts_with_statistics(name, total):
    with without_weights():
        assert count(create(name).variables) == total


def test_entry_points_are_32x4d():
    with without_weights():
        for builder, name in (
            (keras_resnext.ResNeXt50, "resnext50_32x4d"),
            (keras_resnext.ResNeXt101, "resnext101_32x4d"),
            (keras_resnext.ResNeXt152, "resnext152_32x4d"),
        ):
            model = builder()
            assert (model.name, count(model.trainable_variables)) == (name, ARCHITECTURES[name].parameters)


@pytest.mark.parametrize("builder", [keras_resnext.ResNeXt50, keras_resnext.ResNeXt101, keras_resnext.ResNeXt152])
def test_entry_points_show_the_options_and_refuse_others(builder):
    shown, real = inspect.signature(builder).parameters, inspect.signature(ResNeXt).parameters
    assert [*shown] == [name for name in real if name != "depth"]
    assert all(shown[name].default == real[name].default for name in shown)
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in shown.values())
    with pytest.raises(TypeError, match=rf"clases: no option of {builder.__name__}; did you mean classes\?"):
        builder(clases=10)
    with pytest.raises(TypeError, match=rf"depth, xyzzy: no option of {builder.__name__}; "):
        builder(depth=50, xyzzy=1)
    with pytest.raises(TypeError, match=r"pool_ing: no option of ResNeXt; did you mean pooling\?"):
        create("resnext50_32x4d", pool_ing="avg")


def test_channels_last_whatever_the_setting():
    options = dict(deep_stem=True, avg_down=True, se_ratio=4, strides=(1, 3, 2, 2), blocks=(1, 1, 1, 1))
    pooled = dict(include_top=False, pooling="max")
    expected = [small(**options), small(**pooled), small(norm_cfg={"type": "GN", "num_groups": 2})]
    keras.config.set_image_data_format("channels_first")
    try:
        built = [small(**options), small(**pooled), small(norm_cfg={"type": "GN", "num_groups": 2})]
    finally:
        keras.config.set_image_data_format("channels_last")
    for one, other in zip(built, expected, strict=True):
        assert [layer.get_config() for layer in one.layers] == [layer.get_config() for layer in other.layers]
        assert one.output_shape == other.output_shape


def test_float64_reaches_the_head():
    keras.config.set_dtype_policy("float64")
    try:
        model = small()
    finally:
        keras.config.set_dtype_policy("float32")
    assert {layer.compute_dtype for layer in model.layers if layer.weights or layer.name == "avgpool"} == {"float64"}
    assert model.output.dtype == "float64"


def test_preprocessing_says_the_network_s_own_size():
    for shape, size in (((64, 64, 3), 64), ((96, 64, 3), 64), ((None, None, 3), 224), ((None, 64, 3), 224)):
        assert get_preprocessing(small(input_shape=shape)) == Preprocessing(size)
    cifar = dict(stem="cifar", blocks=(1, 1, 1), strides=(1, 2, 2), dilations=(1, 1, 1), num_stages=3)
    assert get_preprocessing(small(**cifar, input_shape=(None, None, 3))).size == 32


def test_layer_names_mirror_the_checkpoint():
    names = [layer.name for layer in small(deep_stem=True, avg_down=True, se_ratio=4).layers]
    for name in (
        *("stem_0_conv", "stem_2_bn", "layer1_0_conv2", "layer1_0_bn3", "layer4_0_se_layer_conv1_conv"),
        # stage 1 does not stride, so its shortcut has no pooling in front
        *("layer1_0_downsample_0", "layer1_0_downsample_1", "layer2_0_downsample_1", "layer2_0_downsample_2", "fc"),
    ):
        assert name in names
    normed = [layer.name for layer in small(norm_cfg={"type": "GN", "num_groups": 2}).layers]
    assert {"conv1", "gn1", "layer1_0_gn2"} <= set(normed)


def test_projection_shortcuts_only_where_shapes_change():
    model = small(blocks=(2, 2, 2, 2))
    shortcuts = [layer.name for layer in model.layers if layer.name.endswith("downsample_0")]
    assert shortcuts == [f"layer{i}_0_downsample_0" for i in (1, 2, 3, 4)]
    same = small(stem_channels=32, blocks=(1, 1, 1, 1))
    assert "layer1_0_downsample_0" not in [layer.name for layer in same.layers]


def test_feature_maps_and_pooling():
    model = small(include_top=False, out_indices=(3, 0, 1, 2))
    assert [tuple(o.shape) for o in model.outputs] == [
        (None, 8, 8, 32),
        (None, 4, 4, 64),
        (None, 2, 2, 128),
        (None, 1, 1, 256),
    ]
    assert small(include_top=False).output_shape == (None, 1, 1, 256)
    assert small(include_top=False, pooling="avg").output_shape == (None, 256)
    assert small(include_top=False, pooling="max", out_indices=(0, 2)).output_shape == [(None, 32), (None, 128)]
    partial = small(include_top=False, out_indices=(1,))
    assert partial.output_shape == (None, 4, 4, 64)
    assert not any(layer.name.startswith("layer3") for layer in partial.layers)
    assert small(include_top=False, input_shape=None).input_shape == (None, None, None, 3)


def test_input_tensor_and_channels():
    inputs = keras.Input((40, 40, 1))
    model = small(input_tensor=keras.layers.Rescaling(2.0)(inputs), input_shape=None)
    assert model.inputs[0] is inputs
    assert model.get_layer("conv1").kernel.shape == (7, 7, 1, 8)
    assert small(input_shape=(32, 32, 6)).get_layer("conv1").kernel.shape[2] == 6


def test_cifar_network():
    model = create("resnext29_8x64d", width_per_group=4)
    assert "maxpool" not in [layer.name for layer in model.layers]
    assert model.get_layer("conv1").kernel.shape == (3, 3, 3, 64)
    assert [model.get_layer(f"layer{i}_2_relu").output.shape[1:] for i in (1, 2, 3)] == [
        (32, 32, 256),
        (16, 16, 512),
        (8, 8, 1024),
    ]


def test_initialisation_is_mmcls_s():
    keras.utils.set_random_seed(0)
    model = ResNeXt(blocks=(1, 1, 1, 1), classes=100)
    kernel = ops.convert_to_numpy(model.get_layer("layer3_0_conv2").kernel)
    # He over the fan out: filters * 3 * 3, not divided by groups
    assert kernel.std() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.03)
    assert np.abs(kernel).max() > 3 * kernel.std()  # not truncated at two deviations
    assert ops.convert_to_numpy(model.get_layer("fc").kernel).std() == pytest.approx(0.01, rel=0.03)
    assert np.all(ops.convert_to_numpy(model.get_layer("layer1_0_bn3").gamma) == 0)
    assert np.all(ops.convert_to_numpy(model.get_layer("layer1_0_bn2").gamma) == 1)
    assert np.all(ops.convert_to_numpy(small(zero_init_residual=False).get_layer("layer1_0_bn3").gamma) == 1)
    norm = model.get_layer("bn1")
    assert (norm.epsilon, norm.momentum) == (1e-5, 0.9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(depth=18, blocks=None), r"depth=18 is unknown; choose one of 50, 101, 152, or give blocks"),
        (dict(depth=50, blocks=None, stem="cifar"), r"depth=50 must be 9n \+ 2"),
        (dict(depth=50.0, blocks=None), r"depth=50.0 is unknown"),
        (dict(depth=[50], blocks=None), r"depth=\[50\] is unknown"),
        (dict(norm_cfg={"type": "BN", 1: 2, "a": 3}), r"1 is no option of BN"),
        (dict(norm_cfg={"type": "BN", "requires_grad": "no"}), r"requires_grad must be True or False"),
        (dict(style="tensorflow"), r"style='tensorflow' is unknown; choose one of 'pytorch', 'caffe'"),
        (dict(stem="tiny"), r"stem='tiny' is unknown"),
        (dict(pooling="mean"), r"pooling='mean' is unknown"),
        (dict(num_stages=0), r"num_stages=0 must be an integer from 1 to 4"),
        (dict(num_stages=5), r"num_stages=5 must be an integer from 1 to 4"),
        (dict(num_stages=3, blocks=(1, 1, 1)), r"strides=\(1, 2, 2, 2\) must have one entry per stage: num_stages=3"),
        (dict(strides=(1, 2)), r"strides=\(1, 2\) must have one entry per stage: num_stages=4"),
        (dict(dilations=(1,) * 5), r"dilations=.* must have one entry per stage"),
        (dict(strides=(1, 2, 0, 2)), r"strides\[2\]=0 must be a positive integer"),
        (dict(blocks=(1, 1)), r"blocks=\(1, 1\) must have one entry per stage"),
        (dict(groups=0), r"groups=0 must be a positive integer"),
        (dict(width_per_group=-4), r"width_per_group=-4 must be a positive integer"),
        (dict(classes=0), r"classes=0 must be a positive integer"),
        (dict(se_ratio=0), r"se_ratio=0 must be a positive integer"),
        (dict(out_indices=(3,)), r"out_indices=\(3,\) returns feature maps, which needs include_top=False"),
        (dict(out_indices=(4,), include_top=False), r"out_indices entry=4 must be an integer from 0 to 3"),
        (dict(out_indices=(-1,), include_top=False), r"out_indices entry=-1"),
        (dict(out_indices=(), include_top=False), r"out_indices=\(\) must name at least one stage"),
        (dict(frozen_stages=5), r"frozen_stages=5 must be an integer from -1 to 4"),
        (dict(drop_path_rate=1.0), r"drop_path_rate=1.0 must be a number of at least 0 and below 1"),
        (dict(deep_stem=True, stem_channels=7), r"deep_stem=True needs stem='imagenet' .* even stem_channels \(7\)"),
        (dict(conv_cfg={"type": "DCN"}), r"conv_cfg=.* one of Conv2d, ConvWS"),
        (dict(norm_cfg={"type": "IN"}), r"type 'IN' is unknown; choose one of BN, SyncBN, GN, LN"),
        (
            dict(norm_cfg={"type": "BN", "epsilon": 1}),
            r"'epsilon' is no option of BN; it takes eps, requires_grad, momentum",
        ),
        (dict(norm_cfg={"type": "GN"}), r"GN needs num_groups"),
        (dict(norm_cfg={"type": "GN", "num_groups": 3}), r"num_groups must divide the channels of every norm"),
        (
            dict(norm_cfg={"type": "BN", "momentum": 2}),
            r"norm_cfg\['momentum'\]=2 must be a number of at least 0 and at most 1",
        ),
        (dict(norm_cfg={"type": "BN", "eps": 0}), r"eps must be a number above 0"),
        (dict(input_shape=(32, 32)), r"input_shape=\(32, 32\) must be \(height, width, channels\)"),
        (dict(input_shape=(0, 32, 3)), r"input_shape\[0\]=0 must be a positive integer"),
        (
            dict(input_shape=(3, 224, 224)),
            r"input_shape=\(3, 224, 224\) looks like \(channels, height, width\).*: \(224, 224, 3\)",
        ),
        (dict(input_shape=(3, None, None)), r"input_shape=\(3, None, None\) looks like \(channels, height, width\)"),
        (dict(input_shape=224), r"input_shape=224 must be \(height, width, channels\)"),
        (dict(strides=2), r"strides=2 must be a tuple or a list of integers"),
        (dict(blocks=3), r"blocks=3 must be a tuple or a list"),
        (dict(out_indices=2, include_top=False), r"out_indices=2 must be a tuple or a list"),
        (dict(drop_path_rate="a"), r"drop_path_rate='a' must be a number"),
        (dict(norm_cfg="BN"), r"norm_cfg='BN' must be None or a dict"),
        (dict(norm_cfg={}), r"type None is unknown"),
        (dict(norm_cfg={"type": ["BN"]}), r"type \['BN'\] is unknown"),
        (dict(norm_cfg={"type": "BN", "eps": "x"}), r"eps must be a number above 0"),
        (dict(conv_cfg="ConvWS"), r"conv_cfg='ConvWS' must be None or"),
        (dict(weights=3), r"weights=3 must be None, the name of published weights or the path of a file"),
        (
            dict(weights="imagnet"),
            r"weights='imagnet' must be None or a file ending in one of .*there are none of model=",
        ),
        (dict(weights=b"imagenet"), r"weights=b'imagenet' must be None, the name of published weights or"),
    ],
)
def test_errors_name_argument_value_and_rule(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_missing_weights_file_and_unknown_name():
    with pytest.raises(FileNotFoundError, match=r"weights='nothing\.pth'"):
        small(weights="nothing.pth")
    with pytest.raises(ValueError, match=r"name='resnext51' is no known architecture; choose one of resnext26_32x4d"):
        create("resnext51")


VARIANTS = [
    dict(),
    dict(deep_stem=True, avg_down=True, se_ratio=4, drop_path_rate=0.2),
    dict(conv_cfg={"type": "ConvWS"}, norm_cfg={"type": "GN", "num_groups": 2}, style="caffe"),
    dict(norm_cfg={"type": "LN", "requires_grad": False}, dilations=(1, 1, 2, 4)),
    dict(norm_cfg={"type": "SyncBN", "momentum": 0.2}, norm_eval=True, frozen_stages=1),
    dict(with_cp=True, groups=1, include_top=False, out_indices=(0, 3)),
]


@pytest.mark.parametrize("options", VARIANTS, ids=lambda o: "-".join(o) or "default")
def test_saves_loads_and_clones(options, tmp_path):
    model = randomise(small(**options))
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype("float32")
    expected = keras.tree.flatten(model(x, training=False))

    def agrees(other):
        pairs = zip(keras.tree.flatten(other(x, training=False)), expected, strict=True)
        assert all(np.array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b)) for a, b in pairs)
        assert [v.path for v in other.trainable_variables] == [v.path for v in model.trainable_variables]

    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    agrees(loaded)
    assert type(loaded) is type(model)
    model.save_weights(tmp_path / "m.weights.h5")
    agrees(small(**options, weights=tmp_path / "m.weights.h5"))
    agrees(small(**options, weights=tmp_path / "m.keras"))
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    agrees(clone)


def test_weights_do_not_depend_on_checkpointing(tmp_path):
    plain = randomise(small())
    plain.save_weights(tmp_path / "m.weights.h5")
    checkpointed = small(with_cp=True, weights=tmp_path / "m.weights.h5")
    assert [v.path for v in plain.variables] == [v.path for v in checkpointed.variables]


def test_broken_keras_weights_are_a_value_error(tmp_path):
    (tmp_path / "broken.weights.h5").write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match=r"broken\.weights\.h5"):
        small(weights=tmp_path / "broken.weights.h5")
    small(stem_channels=16).save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ValueError, match=r"of another shape: .*conv1\.weight: \(16, 3, 7, 7\) in the checkpoint"):
        small(weights=tmp_path / "other.weights.h5")
    small(classes=7).save_weights(tmp_path / "head.weights.h5")
    with pytest.warns(UserWarning, match="a head of 7 classes and the model one of 5"):
        small(weights=tmp_path / "head.weights.h5")
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "foreign.keras")
    with pytest.raises(ValueError, match="unexpected: dense"):
        small(weights=tmp_path / "foreign.keras")


def test_keras_files_that_pool_in_their_shortcuts(tmp_path):
    small(avg_down=True).save(tmp_path / "pooled.keras")
    with pytest.raises(ValueError, match="average pooling in the checkpoint; set avg_down=True"):
        small(weights=tmp_path / "pooled.keras")


def test_grouped_layers_are_grouped():
    model = small()
    grouped = [layer for layer in model.layers if isinstance(layer, GroupedConv2D) and layer.groups > 1]
    assert [layer.name for layer in grouped] == [f"layer{i}_0_conv2" for i in (1, 2, 3, 4)]
    assert all(isinstance(layer, BatchNorm) for layer in model.layers if "_bn" in layer.name)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_keeps_the_head_in_float32(policy):
    keras.mixed_precision.set_dtype_policy(policy)
    try:
        model = small(with_cp=policy == "mixed_float16")
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    assert model.get_layer("layer1_0_conv2").compute_dtype == policy.removeprefix("mixed_")
    assert {str(v.dtype) for v in model.trainable_variables} == {"float32"}
    x = np.random.default_rng(0).standard_normal((4, 32, 32, 3)).astype("float32")
    scores = model.predict(x, verbose=0)
    assert scores.dtype == np.float32
    plain = small()
    plain.set_weights(randomise(model).get_weights())
    assert relative_error(model.predict(x, verbose=0), plain.predict(x, verbose=0)) < 0.05
    model.compile("sgd", "sparse_categorical_crossentropy")
    assert np.isfinite(model.train_on_batch(x, np.zeros(4)))
