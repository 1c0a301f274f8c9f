"""The inference copy: the same numbers, fewer layers, the original untouched, and it runs on every kind of CPU."""

import importlib
from collections import Counter

import keras
import numpy as np
import pytest

from keras_resnext import ResNeXt
from keras_resnext.export import export_saved_model, fuse
from keras_resnext.export.inference_convolution import InferenceConv2D, fastest_lowering
from keras_resnext.export.serving_session import SessionError, run_session
from tests.support import randomise, relative_error

SMALL = dict(blocks=(1, 2, 1, 1), groups=16, width_per_group=4, base_channels=32, classes=5, input_shape=(64, 64, 3))
IMAGES = np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype("float32")


def regnet(size=64):
    """A small foreign network in plain Keras: grouped convolutions, squeeze-and-excitation, other activations."""
    image = x = keras.Input((size, size, 3))
    for filters, groups in ((16, 1), (32, 8), (64, 8)):
        shortcut = keras.layers.Conv2D(filters, 1, strides=2)(x)
        for size, group, stride, activation in ((1, 1, 1, "relu"), (3, groups, 2, "silu")):
            x = keras.layers.Conv2D(filters, size, strides=stride, padding="same", groups=group, use_bias=False)(x)
            x = keras.layers.BatchNormalization(scale=size == 1)(x)
            x = keras.layers.ReLU()(x) if activation == "relu" else keras.layers.Activation(activation)(x)
        gate = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
        gate = keras.layers.Conv2D(8, 1, activation="relu")(gate)
        x = keras.layers.Multiply()([x, keras.layers.Conv2D(filters, 1, activation="sigmoid")(gate)])
        x = keras.layers.BatchNormalization(center=False)(keras.layers.Conv2D(filters, 1)(x))
        x = keras.layers.Activation("relu")(keras.layers.Add()([x, shortcut]))
    x = keras.layers.Dropout(0.5)(keras.layers.GlobalAveragePooling2D()(x))
    return randomise(keras.Model(image, keras.layers.Dense(7, activation="softmax")(x), name="regnet"))


def agree(model, copy, images=IMAGES):
    pairs = zip(keras.tree.flatten(copy(images)), keras.tree.flatten(model(images, training=False)), strict=True)
    return all(relative_error(actual, expected) < 1e-5 for actual, expected in pairs)


@pytest.mark.parametrize("target", ["cpu", "gpu", "portable"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(deep_stem=True, avg_down=True),
        dict(se_ratio=16),
        dict(conv_cfg={"type": "ConvWS"}, classifier_activation=None),
        dict(norm_cfg={"type": "GN", "num_groups": 4}),
        dict(norm_cfg={"type": "LN"}),
        dict(with_cp=True, drop_path_rate=0.2),
        dict(dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1)),
        dict(style="caffe"),
        dict(stem="cifar", blocks=(1, 1, 1), input_shape=(32, 32, 3)),
        dict(include_top=False, out_indices=(0, 2)),
        dict(groups=1),
    ],
    ids=str,
)
def test_the_same_numbers_from_fewer_layers(options, target):
    model = randomise(ResNeXt(**{**SMALL, **options}))
    before = model.get_weights()
    copy = fuse(model, target)
    assert agree(model, copy, IMAGES[:, :32, :32] if "stem" in options else IMAGES)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert model.layers[-1].output is not None  # its layers were called once, as before
    left = [layer for layer in copy.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert not left
    if target != "cpu":
        assert all(len(layer.parts) == 1 for layer in copy.layers if isinstance(layer, InferenceConv2D))
    if not options:
        assert len(copy.layers) < 0.6 * len(model.layers)


@pytest.mark.parametrize("target", ["cpu", "portable"])
def test_foreign_networks(target):
    model = regnet()
    around = keras.Sequential([keras.Input((64, 64, 3)), keras.layers.Rescaling(0.5), model, keras.layers.Dense(3)])
    for network in (model, around):
        assert agree(network, fuse(network, target))
    shared = keras.layers.Conv2D(4, 3, padding="same", groups=2)
    image = keras.Input((64, 64, 4))
    norm = keras.layers.BatchNormalization()
    twice = randomise(keras.Model(image, [norm(shared(shared(image))), shared(image)]))
    assert agree(twice, fuse(twice, target), np.repeat(IMAGES[..., :1], 4, -1))


@keras.saving.register_keras_serializable(package="tests")
class TripleNorm(keras.layers.BatchNormalization):
    def call(self, inputs, training=None, mask=None):
        return 3 * super().call(inputs, training=training, mask=mask)


@keras.saving.register_keras_serializable(package="tests")
class WithoutDtype(keras.layers.Layer):
    def __init__(self, factor, name=None):
        super().__init__(name=name)
        self.factor = factor

    def call(self, inputs):
        return inputs * self.factor

    def get_config(self):
        return {"factor": self.factor, "name": self.name}


def with_operations(x):
    return keras.ops.mean(keras.ops.relu(keras.layers.Conv2D(8, 3)(x) * 2.0 + 1.0), axis=(1, 2))


def with_adapted(x):
    normalise = keras.layers.Normalization()
    normalise.adapt(10 + 3 * IMAGES)
    return keras.layers.Conv2D(8, 3, groups=1)(normalise(x))


PIECES = {
    "operations": with_operations,
    "adapted preprocessing": with_adapted,
    "a subclass of BatchNorm": lambda x: TripleNorm()(keras.layers.Conv2D(8, 3)(x)),
    "a layer without dtype": lambda x: WithoutDtype(0.5)(keras.layers.Conv2D(8, 3)(x)),
    "a softmax over channels": lambda x: keras.layers.Conv2D(64, 3, groups=32, activation="softmax")(
        keras.layers.Conv2D(64, 1)(x)
    ),
}


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize("piece", PIECES)
def test_pieces_that_people_build_with(piece, policy, monkeypatch):
    module = importlib.import_module("keras_resnext.export.fusion")
    monkeypatch.setattr(module, "fastest_lowering", lambda: "merged")
    keras.config.set_dtype_policy(policy)
    try:
        image = keras.Input((64, 64, 3))
        x = PIECES[piece](image)
        x = keras.layers.GlobalAveragePooling2D()(x) if len(x.shape) == 4 else x
        model = randomise(keras.Model(image, {"p": keras.layers.Dense(5, dtype="float32")(x)}))
    finally:
        keras.config.set_dtype_policy("float32")
    copy = module.fuse(model, "cpu")
    error = relative_error(copy(IMAGES)["p"], model(IMAGES, training=False)["p"])
    assert error < (1e-5 if policy == "float32" else 2e-2)


def test_both_lowerings_are_the_same_sum(monkeypatch):
    module = importlib.import_module("keras_resnext.export.fusion")
    model = randomise(ResNeXt(**SMALL))
    for lowering, most in (("grouped", 1), ("merged", 16)):
        monkeypatch.setattr(module, "fastest_lowering", lambda lowering=lowering: lowering)
        copy = module.fuse(model, "cpu")
        assert agree(model, copy)
        assert max(len(layer.parts) for layer in copy.layers if isinstance(layer, InferenceConv2D)) == most
    assert fastest_lowering() in ("grouped", "merged")


@pytest.mark.parametrize("onednn", ["0", "1"])
@pytest.mark.parametrize("target", ["cpu", "portable"])
def test_every_target_runs_on_every_cpu(target, onednn, tmp_path, monkeypatch):
    """Without oneDNN TensorFlow joins convolution and BiasAdd into an operation that refuses groups."""
    model = randomise(ResNeXt(**SMALL))
    path = export_saved_model(model, tmp_path, target=target, warmup=False)
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", onednn)
    (answer,) = run_session(path, [("serving_default", {"images": IMAGES})])
    assert not isinstance(answer, SessionError), answer


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: "resnext50", {}, "model must be a keras.Model; got str"),
        (lambda: keras.Sequential([keras.layers.Dense(2)]), {}, "has no known inputs"),
        (lambda: ResNeXt(**SMALL), dict(target="tpu"), "target='tpu' must be one of cpu, gpu, portable"),
    ],
)
def test_errors(make, options, message):
    with pytest.raises(ValueError, match=message):
        fuse(make(), **options)


@pytest.mark.parametrize(("target", "waiting"), [("cpu", 4), ("portable", 0)])
def test_shortcuts_wait_for_their_branch(target, waiting):
    import tensorflow as tf

    copy = fuse(ResNeXt(**SMALL), target)
    graph = tf.function(copy).get_concrete_function(tf.TensorSpec((1, 64, 64, 3))).graph
    copies = [operation for operation in graph.get_operations() if operation.type == "Identity"]
    assert sum(bool(copy.control_inputs and copy.outputs[0].consumers()) for copy in copies) == waiting


def test_nothing_is_left_beside_the_convolutions(tmp_path):
    """In the graph as TensorFlow runs it; an untrained network too, whose biases are zeros."""
    import tensorflow.compat.v1 as tf

    folder = export_saved_model(ResNeXt(**{**SMALL, "groups": 1}), tmp_path, warmup=False)
    with tf.Session(graph=tf.Graph()) as session:
        signature = tf.saved_model.load(session, ["serve"], str(folder)).signature_def["serving_default"]
        told, options = tf.RunMetadata(), tf.RunOptions(output_partition_graphs=True)
        given = {signature.inputs["images"].name: IMAGES}
        session.run(signature.outputs["probabilities"].name, given, options, told)
    ran = Counter(node.op.removeprefix("_MklNative") for graph in told.partition_graphs for node in graph.node)
    assert not {"Conv2D", "BiasAdd"} & set(ran)
    assert ran["Relu"] in (0, 5)  # those behind the sums of the blocks are joined by oneDNN alone
    assert ran["FusedConv2D"] + ran["PadWithFusedConv2D"] + ran["_FusedConv2D"] >= 1 + 4 * 4 + 3
