"""Layers against PyTorch, on whichever backend KERAS_BACKEND names (test_backends.py runs this file on JAX too)."""

import keras
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from keras_resnext.network import layers, lowerings
from keras_resnext.network.normalization import BatchNorm, GroupNorm, LayerNorm
from tests.support import relative_error, value_and_gradients

TENSORFLOW = keras.backend.backend() == "tensorflow"


@st.composite
def convolutions(draw):
    """A grouped convolution: everything that changes which numbers are summed."""
    groups = draw(st.sampled_from([1, 2, 3, 4, 6, 8, 32]))
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (1, 3), (5, 2)]))
    return {
        "groups": groups,
        "channels": groups * draw(st.integers(1, 5)),
        "filters": groups * draw(st.integers(1, 5)),
        "kernel": kernel,
        "strides": draw(st.sampled_from([(1, 1), (2, 2), (3, 3), (2, 1)] if kernel != (5, 2) else [(1, 1), (2, 2)])),
        "dilation": draw(st.sampled_from([(1, 1), (2, 2), (1, 3)])),
        "padding": draw(st.sampled_from(["valid", "same"])),
        "size": (draw(st.integers(9, 14)), draw(st.integers(9, 14))),
        "batch": draw(st.integers(1, 3)),
        "seed": draw(st.integers(0, 99)),
    }


def truth(c, x, kernel, upstream=None):
    """PyTorch's convolution in float64, padded as Keras's padding says: (value, upstream, gradients)."""
    x, kernel = (torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (x, kernel))
    pads = []
    for n, k, s, d in reversed(list(zip(c["size"], c["kernel"], c["strides"], c["dilation"], strict=True))):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0) if c["padding"] == "same" else 0
        pads += [total // 2, total - total // 2]
    y = torch.nn.functional.conv2d(
        torch.nn.functional.pad(x.permute(0, 3, 1, 2), pads),
        kernel.permute(3, 2, 0, 1),
        stride=c["strides"],
        dilation=c["dilation"],
        groups=c["groups"],
    ).permute(0, 2, 3, 1)
    if upstream is None:
        upstream = np.random.default_rng(7).standard_normal(tuple(y.shape))
    y.backward(torch.tensor(upstream))
    return y.detach().numpy(), upstream, [x.grad.numpy(), kernel.grad.numpy()]


def layer_and_data(c, lowering, dtype="float32"):
    rng = np.random.default_rng(c["seed"])
    x = rng.standard_normal((c["batch"], *c["size"], c["channels"])).astype(dtype)
    kernel = rng.standard_normal((*c["kernel"], c["channels"] // c["groups"], c["filters"])).astype(dtype)
    layer = layers.GroupedConv2D(
        c["filters"],
        c["kernel"],
        strides=c["strides"],
        padding=c["padding"],
        dilation_rate=c["dilation"],
        groups=c["groups"],
        use_bias=False,
        lowering=lowering,
        dtype=dtype,
    )
    layer.build(x.shape)
    return layer, x, kernel


@given(convolutions())
def test_lowerings_agree_with_pytorch(c):
    for lowering in ("grouped", "merged"):
        layer, x, kernel = layer_and_data(c, lowering)
        expected, upstream, gradients = truth(c, x, kernel)
        value, (dx, dk) = value_and_gradients(layer.convolution_op, [x, kernel], upstream.astype("float32"))
        assert tuple(layer.compute_output_shape(x.shape)) == value.shape
        assert relative_error(value, expected) < 1e-5
        assert relative_error(dx, gradients[0]) < 1e-5
        assert relative_error(dk, gradients[1]) < 1e-5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("lowering", ["grouped", "merged"])
def test_lowerings_in_other_dtypes(dtype, lowering):
    c = dict(groups=4, channels=16, filters=16, kernel=(3, 3), strides=(2, 2), dilation=(1, 1), padding="same")
    c |= dict(size=(9, 8), batch=2, seed=1)
    layer, x, kernel = layer_and_data(c, lowering)
    expected, upstream, gradients = truth(c, x, kernel)
    if dtype == "float64" and not TENSORFLOW:
        pytest.skip("JAX computes in float32 unless told otherwise at start")
    tolerance = {"float16": 4e-3, "bfloat16": 3e-2, "float64": 1e-12}[dtype]

    cast = "float64" if dtype == "float64" else "float32"

    def function(x, kernel):
        return ops.cast(layer.convolution_op(ops.cast(x, dtype), ops.cast(kernel, dtype)), cast)

    value, (dx, dk) = value_and_gradients(function, [x.astype(cast), kernel.astype(cast)], upstream.astype(cast))
    for actual, wanted in ((value, expected), (dx, gradients[0]), (dk, gradients[1])):
        assert relative_error(actual, wanted) < tolerance


def test_channels_first_agrees():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 9, 11, 8)).astype("float32")
    last = layers.GroupedConv2D(16, 3, strides=2, groups=4)
    expected = ops.convert_to_numpy(last(x))
    for lowering in ("grouped", "merged"):
        first = layers.GroupedConv2D(16, 3, strides=2, groups=4, data_format="channels_first", lowering=lowering)
        first.build((None, 8, 9, 11))
        first.set_weights(last.get_weights())
        actual = ops.convert_to_numpy(first(x.transpose(0, 3, 1, 2))).transpose(0, 2, 3, 1)
        assert relative_error(actual, expected) < 1e-5


def test_same_weights_as_conv2d_and_unknown_sizes():
    """A drop-in for Conv2D(groups=…), images of unknown size included."""
    inputs = keras.Input((None, None, 8))
    model = keras.Model(inputs, layers.GroupedConv2D(16, 3, groups=4, padding="same", lowering="merged")(inputs))
    plain = keras.layers.Conv2D(16, 3, groups=4, padding="same")
    x = np.random.default_rng(0).standard_normal((2, 7, 9, 8)).astype("float32")
    plain.build(x.shape)
    plain.set_weights(model.get_weights())
    assert relative_error(ops.convert_to_numpy(model(x)), ops.convert_to_numpy(plain(x))) < 1e-5


@pytest.mark.parametrize(
    ("groups", "channels", "filters", "joined"),
    [
        (32, 128, 128, 4),
        (32, 512, 512, 2),
        (32, 1024, 1024, 1),
        (64, 256, 256, 4),
        (32, 32, 32, 16),
        (6, 24, 24, 3),
        (5, 80, 80, 1),
    ],
)
def test_merged_groups(groups, channels, filters, joined):
    assert lowerings.merged_groups(groups, channels, filters) == joined


def test_unknown_lowering_and_groups_that_do_not_divide():
    with pytest.raises(ValueError, match=r"lowering='fast' is unknown; choose one of auto, grouped, merged"):
        layers.GroupedConv2D(8, 3, lowering="fast")
    with pytest.raises(ValueError, match="groups"):
        layers.GroupedConv2D(8, 3, groups=3)
    with pytest.raises(ValueError, match="groups"):
        layers.GroupedConv2D(8, 3, groups=4).build((None, 9, 9, 6))
    with pytest.raises(ValueError, match=r"strides=0 must be a positive integer"):
        layers.GroupedConv2D(8, 3, strides=0)


@pytest.mark.skipif(not TENSORFLOW, reason="XLA wrappers are TensorFlow's")
def test_no_xla_wrapper_and_no_xla_on_cpu():
    import tensorflow as tf

    layer = layers.GroupedConv2D(16, 3, strides=2, dilation_rate=2, groups=4)
    plain = keras.layers.Conv2D(16, 3, groups=4)
    x = tf.zeros((1, 9, 9, 8))

    def wrapped(layer):
        concrete = tf.function(layer).get_concrete_function(x)
        library = concrete.graph.as_graph_def().library.function
        return sum("_XlaMustCompile" in f.attr and f.attr["_XlaMustCompile"].b for f in library)

    layer(x), plain(x)
    assert wrapped(plain) > 0  # what this project is for
    for lowering in lowerings.LOWERINGS:
        layer.lowering = lowering
        assert wrapped(layer) == 0
    assert layer.supports_jit is False
    model = keras.Sequential([keras.Input((9, 9, 8)), layer])
    model.compile("sgd", "mse")
    assert model.jit_compile is False


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-5), ("float64", 1e-12)])
def test_weight_standardisation_is_mmcv_s(dtype, error):
    if dtype == "float64" and keras.backend.backend() == "jax":
        pytest.skip("JAX computes in float32 unless told otherwise at start")
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, 8, 8, 6)), rng.standard_normal((3, 3, 3, 4))
    layer = layers.WSConv2D(4, 3, groups=2, use_bias=False, dtype=dtype)
    layer.build(x.shape)
    layer.set_weights([kernel])
    weight = torch.tensor(kernel.transpose(3, 2, 0, 1))
    flat = weight.reshape(4, -1)
    mean, std = flat.mean(1)[:, None, None, None], flat.std(1)[:, None, None, None]
    expected = torch.nn.functional.conv2d(torch.tensor(x).permute(0, 3, 1, 2), (weight - mean) / (std + 1e-5), groups=2)
    assert relative_error(ops.convert_to_numpy(layer(x.astype(dtype))), expected.permute(0, 2, 3, 1)) < error


@given(st.integers(1, 4), st.integers(5, 13), st.integers(5, 13))
def test_ceil_average_pooling(size, height, width):
    x = np.random.default_rng(0).standard_normal((2, height, width, 3)).astype("float32")
    layer = layers.CeilAveragePooling2D(size)
    pool = torch.nn.AvgPool2d(size, size, ceil_mode=True, count_include_pad=False)
    expected = pool(torch.tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    actual = ops.convert_to_numpy(layer(x))
    assert relative_error(actual, expected) < 1e-5
    assert tuple(layer.compute_output_shape(x.shape)) == actual.shape


def test_stochastic_depth_drops_whole_samples():
    layer = layers.StochasticDepth(0.25, seed=1)
    x = np.ones((400, 2, 3, 4), "float32")
    y = ops.convert_to_numpy(layer(x, training=True)).reshape(400, -1)
    assert np.all(y == y[:, :1])
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert 0.15 < (y[:, 0] == 0).mean() < 0.35
    assert np.array_equal(ops.convert_to_numpy(layer(x)), x)


@pytest.mark.parametrize("options", [{}, {"renorm": False, "scale": True}, {"center": False}])
@pytest.mark.parametrize("batch", [1, 5])
def test_batch_norm_trains_as_pytorch(options, batch):
    """Output, gradients and both moving statistics; center=False takes the path that no fused kernel serves."""
    rng = np.random.default_rng(0)
    x, upstream = rng.standard_normal((2, batch, 3, 4, 6)).astype("float32")
    x = x * 3 + 2
    layer = BatchNorm(**options)
    layer.build(x.shape)
    reference = torch.nn.BatchNorm2d(6)
    gamma = rng.uniform(0.5, 1.5, 6).astype("float32")
    layer.gamma.assign(gamma)
    reference.weight.data = torch.tensor(gamma)
    tensor = torch.tensor(x, requires_grad=True)
    expected = reference(tensor.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    expected.backward(torch.tensor(upstream))
    if TENSORFLOW:
        value, (dx,) = value_and_gradients(lambda x: layer(x, training=True), [x], upstream)
        assert relative_error(dx, tensor.grad) < 1e-5
    else:
        value = ops.convert_to_numpy(layer(x, training=True))
    assert relative_error(value, expected.detach()) < 1e-5
    assert relative_error(layer.moving_mean, reference.running_mean) < 1e-5
    assert relative_error(layer.moving_variance, reference.running_var) < 1e-5
    before = [ops.convert_to_numpy(v) for v in layer.non_trainable_variables]
    inference = ops.convert_to_numpy(layer(x, training=False))
    assert (
        relative_error(inference, reference.eval()(torch.tensor(x).permute(0, 3, 1, 2)).detach().permute(0, 2, 3, 1))
        < 1e-5
    )
    assert all(
        np.array_equal(a, ops.convert_to_numpy(b)) for a, b in zip(before, layer.non_trainable_variables, strict=True)
    )


@pytest.mark.parametrize("make", [BatchNorm, lambda **k: GroupNorm(2, **k), LayerNorm])
def test_frozen_affine_leaves_statistics_alive(make):
    layer = make(affine_trainable=False)
    x = np.random.default_rng(0).standard_normal((4, 3, 3, 4)).astype("float32")
    layer(x, training=True)
    assert layer.trainable
    assert layer.trainable_variables == []
    clone = type(layer).from_config(layer.get_config())
    assert clone.affine_trainable is False
    if isinstance(layer, BatchNorm):
        assert np.abs(ops.convert_to_numpy(layer.moving_mean)).max() > 0


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_and_layer_norm_are_pytorch_s(groups):
    x = np.random.default_rng(0).standard_normal((2, 5, 4, 8)).astype("float32")
    nchw = torch.tensor(x).permute(0, 3, 1, 2)
    layer = GroupNorm(groups)
    assert relative_error(layer(x), torch.nn.GroupNorm(groups, 8)(nchw).permute(0, 2, 3, 1).detach()) < 1e-5
    assert relative_error(LayerNorm()(x), torch.nn.LayerNorm(8)(torch.tensor(x)).detach()) < 1e-5


@pytest.mark.parametrize(
    "layer",
    [
        layers.GroupedConv2D(8, 3, strides=2, dilation_rate=2, groups=4, lowering="merged", use_bias=False),
        layers.WSConv2D(8, (1, 3), groups=2),
        layers.StochasticDepth(0.2, seed=3),
        layers.CeilAveragePooling2D(3),
        BatchNorm(synchronized=True, momentum=0.8),
        GroupNorm(4),
        LayerNorm(epsilon=1e-6),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_round_trip_through_their_configuration(layer, tmp_path):
    inputs = keras.Input((9, 9, 8))
    model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert loaded.layers[-1].get_config() == layer.get_config()
    x = np.random.default_rng(0).standard_normal((2, 9, 9, 8)).astype("float32")
    assert np.array_equal(ops.convert_to_numpy(model(x)), ops.convert_to_numpy(loaded(x)))
