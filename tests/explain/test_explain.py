"""Grad-CAM and feature maps equal what PyTorch's autograd gives on the same weights, whatever the model's form."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import torch
from PIL import Image

import keras_resnext
from keras_resnext import ResNeXt, preprocess_input
from keras_resnext.explain import extract_features, feature_maps, grad_cam
from tests import references
from tests.explain.conftest import SMALL, images_of
from tests.support import randomise, relative_error

OPTIONS = dict(blocks=(1, 1, 1, 1), groups=4, width_per_group=4, classes=1000, input_shape=(64, 64, 3))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A torchvision network and the same in Keras."""
    import torchvision

    block = torchvision.models.resnet.Bottleneck
    module = references.randomise(torchvision.models.ResNet(block, [1, 1, 1, 1], groups=4, width_per_group=4))
    for part in module.modules():
        if isinstance(part, torch.nn.ReLU):
            part.inplace = False  # else it overwrites the maps before it
    path = tmp_path_factory.mktemp("weights") / "m.pth"
    torch.save(module.state_dict(), path)
    return module, keras_resnext.from_pytorch(path, input_shape=(64, 64, 3))


def pytorch_cam(module, place, images, classes=None, plus_plus=False):
    """Both papers' formulas written out channel by channel over PyTorch's gradients; the map of `place` in float64."""
    module = module.double()
    kept = {}
    hook = module.get_submodule(place).register_forward_hook(lambda _, __, output: kept.update(maps=output))
    logits = module(torch.tensor(images, dtype=torch.float64).permute(0, 3, 1, 2))
    hook.remove()
    heats = []
    for n, row in enumerate(logits):
        c = int(row.argmax()) if classes is None else classes[n]
        gradient = torch.autograd.grad(row[c], kept["maps"], retain_graph=True)[0][n].numpy()
        maps, heat = kept["maps"][n].detach().numpy(), 0
        for channel, slope in zip(maps, gradient, strict=True):
            if plus_plus:
                above, below = slope**2, 2 * slope**2 + channel.sum() * slope**3
                alpha = np.where(below != 0, above / np.where(below != 0, below, 1), 0)
                weight = (alpha * slope.clip(0)).sum()
            else:
                weight = slope.mean()
            heat = heat + weight * channel
        heat = heat.clip(0)
        heats.append(heat / heat.max() if heat.max() else heat)
    module.float()
    return np.stack(heats)


@pytest.mark.parametrize(
    ("method", "layer", "place"),
    [
        ("grad_cam", None, "layer4"),
        ("grad_cam", "layer2_0_conv2", "layer2.0.conv2"),  # a shortcut goes around it
        ("grad_cam", "bn1", "bn1"),
        # Behind a ReLU alone: where maps are negative, the formula divides by numbers near 0, and float32 shows it.
        ("grad_cam++", None, "layer4"),
        ("grad_cam++", "layer1_0_relu", "layer1"),
    ],
)
def test_against_pytorch(pair, method, layer, place):
    module, model = pair
    images = images_of()
    for classes in (None, [3, 977]):
        expected = pytorch_cam(module, place, images, classes, plus_plus=method == "grad_cam++")
        heat = grad_cam(model, images, layer=layer, class_index=classes, method=method)
        assert heat.dtype == np.float32
        assert heat.max() == 1
        assert relative_error(heat, expected) < 1e-4


def test_feature_maps_against_pytorch(pair):
    module, model = pair
    images, kept = images_of(), {}
    hook = module.layer3[0].conv2.register_forward_hook(lambda _, __, output: kept.update(maps=output))
    references.logits(module, images)
    hook.remove()
    expected = kept["maps"].permute(0, 2, 3, 1)
    assert relative_error(feature_maps(model, images, "layer3_0_conv2"), expected) < 1e-5


def test_one_class_for_all_is_that_class_for_each(small):
    images = images_of(3, 32)
    assert np.array_equal(grad_cam(small, images, class_index=2), grad_cam(small, images, class_index=[2, 2, 2]))
    predicted = small.predict(images, verbose=0).argmax(1)
    assert np.array_equal(grad_cam(small, images), grad_cam(small, images, class_index=predicted))


def test_images_do_not_mix(small):
    images = images_of(3, 32)
    together = grad_cam(small, images, class_index=1)
    assert (
        relative_error(together, np.concatenate([grad_cam(small, one[None], class_index=1) for one in images])) < 1e-5
    )


def heads(small):
    """The same classifier with its softmax in other places."""
    logits = keras.Model(small.inputs, randomised_head(small, None))
    x = logits.outputs[0]
    return {
        "dense": keras.Model(small.inputs, randomised_head(small, "softmax")),
        "none": logits,
        "layer": keras.Model(small.inputs, keras.layers.Softmax()(x)),
        "activation": keras.Model(small.inputs, keras.layers.Activation("softmax")(x)),
        "operation": keras.Model(small.inputs, keras.ops.softmax(x)),
        "cast": keras.Model(small.inputs, keras.layers.Activation("linear")(keras.layers.Softmax()(x))),
    }


def randomised_head(small, activation):
    head = keras.layers.Dense(7, activation=activation)
    y = head(small.get_layer("avgpool").output)
    head.set_weights([weight * 20 for weight in small.get_layer("fc").get_weights()])
    return y


@pytest.mark.parametrize("kind", ["dense", "layer", "activation", "operation", "cast"])
def test_the_score_is_that_before_the_softmax(small, kind):
    """Where the model is sure, the probability has next to no gradient; the logit's does not depend on it."""
    models, images = heads(small), images_of(2, 32)
    expected = grad_cam(models["none"], images, class_index=4)
    assert expected.max() == 1
    assert relative_error(grad_cam(models[kind], images, class_index=4), expected) < 1e-5


def test_a_head_whose_scores_cannot_be_told(small):
    class Squared(keras.layers.Layer):
        activation = staticmethod(keras.activations.sigmoid)

        def call(self, x):
            return self.activation(x) ** 2

    model = keras.Model(small.inputs, Squared(name="squared")(small.outputs[0]))
    with pytest.raises(ValueError, match="the model ends in squared, a Squared with an activation"):
        grad_cam(model, images_of(1, 32))


def nested(small):
    """The network as a part of others: once with its own head, twice as a backbone."""
    backbone = keras.Model(small.inputs, small.get_layer("layer3_0_relu").output, name="backbone")
    head = keras.Sequential([keras.layers.GlobalAveragePooling2D(), small.get_layer("fc")])
    inputs = keras.Input((32, 32, 3))
    return {
        "whole": keras.Sequential([keras.Input((32, 32, 3)), small]),
        "sequential": keras.Sequential([keras.Input((32, 32, 3)), backbone, *head.layers]),
        "functional": keras.Model(inputs, head(backbone(inputs))),
        "deep": keras.Sequential([keras.Input((32, 32, 3)), keras.Sequential([keras.Input((32, 32, 3)), small])]),
    }


@pytest.mark.parametrize("kind", ["whole", "sequential", "functional", "deep"])
@pytest.mark.parametrize("layer", [None, "layer2_0_conv2"])
def test_models_inside_models(small, kind, layer, image):
    model, images = nested(small)[kind], images_of(2, 32)
    assert relative_error(grad_cam(model, images, layer=layer), grad_cam(small, images, layer=layer)) < 1e-5
    assert relative_error(feature_maps(model, images, layer), feature_maps(small, images, layer)) < 1e-5
    assert relative_error(extract_features(model, [image]), extract_features(small, [image])) < 1e-5


def test_the_model_stays_as_it_was(small):
    nodes = [len(layer._inbound_nodes) for layer in small.layers]
    before = small.predict(images_of(2, 32), verbose=0)
    grad_cam(small, images_of(2, 32), layer="layer1_0_relu")
    assert [len(layer._inbound_nodes) for layer in small.layers] == nodes
    assert np.array_equal(small.predict(images_of(2, 32), verbose=0), before)


def test_dropout_and_stochastic_depth_do_nothing(small):
    noisy = ResNeXt(**SMALL, input_shape=(32, 32, 3), drop_path_rate=0.5)
    for layer in small.layers:
        noisy.get_layer(layer.name).set_weights(layer.get_weights())
    images = images_of(2, 32)
    assert np.array_equal(grad_cam(noisy, images), grad_cam(noisy, images))
    assert relative_error(grad_cam(noisy, images), grad_cam(small, images)) < 1e-5


@pytest.mark.parametrize(("policy", "tolerance"), [("mixed_float16", 0.02), ("mixed_bfloat16", 0.1)])
def test_mixed_precision(small, policy, tolerance):
    keras.config.set_dtype_policy(policy)
    try:
        model = ResNeXt(**SMALL, input_shape=(32, 32, 3))
    finally:
        keras.config.set_dtype_policy("float32")
    model.set_weights(small.get_weights())
    images = images_of(2, 32)
    heat = grad_cam(model, images, class_index=3)
    assert heat.dtype == np.float32
    assert relative_error(heat, grad_cam(small, images, class_index=3)) < tolerance
    assert feature_maps(model, images).dtype == np.float32


def test_frozen_models(small):
    expected = grad_cam(small, images_of(1, 32))
    frozen = keras.models.clone_model(small)
    frozen.set_weights(small.get_weights())
    frozen.trainable = False
    assert np.array_equal(grad_cam(frozen, images_of(1, 32)), expected)


def test_nothing_that_speaks_for_the_class_is_zero(small):
    x = keras.layers.Dense(7, kernel_initializer="zeros")(small.get_layer("avgpool").output)
    model = keras.Model(small.inputs, x)
    for method in ("grad_cam", "grad_cam++"):
        heat = grad_cam(model, images_of(1, 32), method=method)
        assert np.isfinite(heat).all()
        assert not heat.any()


def test_a_layer_that_is_used_twice():
    inputs = keras.Input((16, 16, 3))
    shared = keras.layers.Conv2D(3, 3, padding="same", name="shared")
    x = keras.layers.GlobalAveragePooling2D()(shared(shared(inputs)))
    model = keras.Model(inputs, keras.layers.Dense(4)(x))
    with pytest.raises(ValueError, match="layer='shared' is used 2 times in the model"):
        grad_cam(model, images_of(1, 16), layer="shared")


def test_two_layers_of_one_name():
    parts = []
    for _ in range(2):
        inside = keras.Input((16, 16, 3))
        parts.append(keras.Model(inside, keras.layers.Conv2D(3, 3, padding="same", name="same")(inside)))
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.GlobalAveragePooling2D()(parts[1](parts[0](inputs)))
    model = keras.Model(inputs, keras.layers.Dense(4)(x), name="two")
    with pytest.raises(ValueError, match="layer='same' is the name of 2 layers of model='two'"):
        grad_cam(model, images_of(1, 16), layer="same")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "cam"}, "method='cam' must be one of grad_cam, grad_cam[+][+]"),
        ({"layer": "layer2"}, "layer='layer2' is no layer of model='.*such as layer2_0_relu, layer2_0_add"),
        ({"layer": "layer2_0_rely"}, "such as layer2_0_relu"),
        ({"layer": "?"}, "choose among its 42 maps, such as layer3_0_relu"),
        ({"layer": "fc"}, r"layer='fc' gives \(None, 7\), no map"),
        ({"class_index": 7}, r"class_index=7 must be an integer in 0..6, or one for each of 2 images"),
        ({"class_index": -1}, "class_index=-1"),
        ({"class_index": [1]}, r"class_index=\[1\]"),
        ({"class_index": 1.5}, "class_index=1.5"),
        ({"class_index": "cat"}, "class_index='cat'"),
    ],
)
def test_errors(small, options, message):
    with pytest.raises(ValueError, match=message):
        grad_cam(small, images_of(2, 32), **options)


@pytest.mark.parametrize("shape", [(0, 32, 32, 3), (32, 32, 3), (1, 31, 32, 3), (1, 32, 32, 1)])
def test_images_of_another_shape(small, shape):
    for function in (grad_cam, feature_maps):
        with pytest.raises(ValueError, match=r"images must have shape \(None, 32, 32, 3\).*got \("):
            function(small, np.zeros(shape, "float32"))


def test_models_that_cannot_be_explained(small, image):
    backbone = ResNeXt(**SMALL, include_top=False)
    with pytest.raises(ValueError, match="must give one output"):
        grad_cam(backbone, images_of(1, 32))
    with pytest.raises(ValueError, match=r"must be a keras\.Model; got int"):
        feature_maps(3, images_of(1, 32))
    inputs = keras.Input((4, 4, 3))
    flat = keras.Model(inputs, keras.layers.Softmax()(keras.layers.Flatten()(inputs)), name="flat")
    with pytest.raises(ValueError, match="model='flat' has no layer whose output is a map"):
        grad_cam(flat, images_of(1, 4))
    with pytest.raises(ValueError, match="model='flat' has no dense layer that takes pooled features"):
        extract_features(flat, [image])


def test_features(small, image, tmp_path):
    other = tmp_path / "other.png"
    Image.fromarray(np.full((32, 32, 3), 200, "uint8")).save(other)
    files = [image, other, image]
    features = extract_features(small, files, batch_size=2)
    assert (features.shape, features.dtype) == ((3, 128), np.float32)
    assert np.allclose(features[0], features[2], rtol=1e-5, atol=1e-6)
    logits = features @ np.asarray(small.get_layer("fc").kernel) + np.asarray(small.get_layer("fc").bias)
    from keras_resnext.preprocessing import load_image

    expected = small.predict(preprocess_input(np.stack([load_image(file, 32) for file in files])), verbose=0)
    assert relative_error(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), expected) < 1e-5
    assert extract_features(small, files, layer="layer1_0_relu").shape == (3, 32)
    for pooling in (None, "avg"):
        backbone = ResNeXt(**SMALL, include_top=False, pooling=pooling, input_shape=(32, 32, 3))
        backbone.set_weights(small.get_weights()[:-2])
        assert relative_error(extract_features(backbone, files), features) < 1e-5
    with pytest.raises(ValueError, match="files is empty"):
        extract_features(small, [])
    with pytest.raises(ValueError, match="batch_size=0 must be a positive integer"):
        extract_features(small, files, batch_size=0)


@pytest.mark.slow
def test_on_the_other_backend(tmp_path):
    """The same numbers from TensorFlow and JAX."""
    other = {"tensorflow": "jax", "jax": "tensorflow"}[keras.backend.backend()]
    part = randomise(ResNeXt(**{**SMALL, "blocks": (1,)}, num_stages=1, strides=(2,), dilations=(1,)))
    model = keras.Sequential([keras.Input((32, 32, 3)), part])
    model.save(tmp_path / "m.keras")
    images = images_of(2, 32)
    np.save(tmp_path / "images.npy", images)
    code = """
import sys, keras, keras_resnext, numpy as np
model = keras.saving.load_model(sys.argv[1] + "/m.keras")
images = np.load(sys.argv[1] + "/images.npy")
for method in ("grad_cam", "grad_cam++"):
    heat = keras_resnext.explain.grad_cam(model, images, layer="layer1_0_relu2", class_index=[1, 5], method=method)
    np.save(f"{sys.argv[1]}/{method}.npy", heat)
print(keras.backend.backend())
"""
    environment = {**os.environ, "KERAS_BACKEND": other}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == other
    for method in ("grad_cam", "grad_cam++"):
        expected = grad_cam(model, images, layer="layer1_0_relu2", class_index=[1, 5], method=method)
        assert relative_error(np.load(tmp_path / f"{method}.npy"), expected) < 1e-4
