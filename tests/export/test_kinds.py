"""Every kind of ResNeXt in every format, fused: one network on top of one of each, exported once."""

import keras
import pytest
import tensorflow as tf
from keras import layers

from keras_resnext import ResNeXt, preprocess_input
from keras_resnext.export import export_onnx, export_saved_model, export_tflite, fuse
from tests.export import onnx_material
from tests.support import randomise, relative_error

SIZE = 32
SMALL = dict(
    num_stages=1, blocks=(1,), strides=(2,), dilations=(1,), groups=4, base_channels=8, stem_channels=16,
    include_top=False, pooling="avg", input_shape=(SIZE, SIZE, 3),
)  # fmt: skip
TIERED = dict(deep_stem=True, tiered_stem=True)
KINDS = {
    "antialiased": dict(deep_stem=True, avg_down=True, antialias=True, stem_pool="avg", se_ratio=2),
    "tiered_eca": dict(**TIERED, avg_down=True, attention="eca"),
    "selective_legacy": dict(attention="sk", stem_pool="max_ceil"),
    "silu_context": dict(**TIERED, group_size=4, activation="silu", attention_last=False, attention="gca"),
}


def join(**changed):
    image = keras.Input((SIZE, SIZE, 3), name="images")
    features = [ResNeXt(**{**SMALL, **changed}, **options, name=name)(image) for name, options in KINDS.items()]
    scores = layers.Dense(5, activation="softmax", name="fc")(layers.Concatenate()(features))
    return onnx_material.spread(randomise(keras.Model(image, scores, name="kinds")))


@pytest.fixture(scope="module")
def model():
    return join()


def test_onnx(model, tmp_path):
    assert export_onnx(model, tmp_path / "m.onnx").largest_difference < 1e-6


def test_tflite(model, tmp_path):
    assert export_tflite(model, tmp_path / "m.tflite").largest_difference < 1e-6


def test_int8(tmp_path):
    """Wider: LiteRT 2.3 aborts the process where a context of one channel is computed in integers."""
    images = onnx_material.make_images(32, SIZE)
    report = export_tflite(join(base_channels=64), tmp_path / "m.tflite", quantization="int8", calibration=images)
    assert report.largest_difference < 0.1
    assert report.top1_agreement > 0.7


def test_saved_model(model, tmp_path):
    images = onnx_material.make_images(2, SIZE)
    expected = model(preprocess_input(images), training=False)
    version = export_saved_model(model, tmp_path / "kinds")
    serve = tf.saved_model.load(str(version)).signatures["serving_default"]
    assert relative_error(serve(images=tf.constant(images))["probabilities"], expected) < 1e-5


def test_fused(model):
    """Convolutions take their SiLU along, and no BatchNorm is left."""
    fused = fuse(model)
    left = [layer for layer in fused._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    assert not left
    silu = fused.get_layer("silu_context")
    assert not [layer.name for layer in silu.layers if layer.name.endswith(("_relu1", "_relu2"))]
