"""Grad-CAM and feature maps against PyTorch's autograd on the same weights; the images and commands around them."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import torch
from PIL import Image

import keras_resnext
from keras_resnext import ResNeXt, cli, preprocess_input
from keras_resnext.cli.image_files import find_images
from keras_resnext.explain import explain_feature_maps, explain_image, extract_features, feature_maps, grad_cam
from keras_resnext.explain.drawing import overlay
from tests import references
from tests.support import randomise, relative_error

OPTIONS = dict(blocks=(1, 1, 1, 1), groups=4, width_per_group=4, classes=1000, input_shape=(64, 64, 3))
SMALL = dict(blocks=(1, 1, 1), stem="cifar", groups=4, width_per_group=4, base_channels=8, classes=7)


def images_of(count=2, size=64):
    return np.random.default_rng(0).normal(size=(count, size, size, 3)).astype("float32")


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


@pytest.fixture(scope="module")
def small():
    return randomise(ResNeXt(**SMALL, input_shape=(32, 32, 3)))


@pytest.fixture(scope="module")
def saved(small, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "small.keras"
    small.save(path)
    return path


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 100, 3), "uint8")).save(path)
    return path


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


def test_explain_image(small, image, tmp_path):
    from keras_resnext.preprocessing import load_image

    found = explain_image(
        small, image, tmp_path / "e.png", labels=list("abcdefg"), class_index="c", method="grad_cam++"
    )
    assert (found.class_index, found.class_name, found.layer) == (2, "c", "layer3_0_relu")
    images = preprocess_input(load_image(image, 32)[None])
    assert found.score == pytest.approx(float(small.predict(images, verbose=0)[0, 2]), rel=1e-5)
    assert np.array_equal(found.heat, grad_cam(small, images, class_index=2, method="grad_cam++")[0])
    with Image.open(found.path) as drawn:
        assert drawn.format == "PNG"
        assert min(drawn.size) > 400
        colours = np.asarray(drawn.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(colours, axis=0)) > 500
    assert explain_image(small, image, tmp_path / "e.png").class_index == small.predict(images, verbose=0).argmax()
    with pytest.raises(ValueError, match=r"class='h' is neither a class nor a number in 0..6; names are such as a, b"):
        explain_image(small, image, tmp_path / "n.png", labels=list("abcdefg"), class_index="h")
    with pytest.raises(ValueError, match="class='a' is the name of the classes 0, 2; give the number"):
        explain_image(small, image, tmp_path / "n.png", labels=list("abacdef"), class_index="a")
    with pytest.raises(FileNotFoundError, match="in a folder that does not exist"):
        explain_image(small, image, tmp_path / "none" / "n.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.png", "image.png"]


def test_a_name_goes_before_a_number(small, image, tmp_path):
    labels = list("1230456")
    by_name = explain_image(small, image, tmp_path / "e.png", labels=labels, class_index="3")
    by_number = explain_image(small, image, tmp_path / "e.png", labels=labels, class_index=3)
    assert (by_name.class_index, by_number.class_index) == (2, 3)


def test_explain_feature_maps(small, image, tmp_path):
    from keras_resnext.preprocessing import load_image

    channels = explain_feature_maps(small, image, tmp_path / "f.png", layer="layer1_0_bn3", count=5)
    maps = feature_maps(small, preprocess_input(load_image(image, 32)[None]), "layer1_0_bn3")[0]
    strength = np.abs(maps).mean((0, 1))
    assert channels == sorted(range(32), key=lambda c: -strength[c])[:5]
    with Image.open(tmp_path / "f.png") as drawn:
        assert drawn.format == "PNG"
        assert min(drawn.size) > 300
    assert len(explain_feature_maps(small, image, tmp_path / "f.png", layer="layer1_0_bn3", count=99)) == 32
    with pytest.raises(ValueError, match="count=0 must be a positive integer"):
        explain_feature_maps(small, image, tmp_path / "f.png", count=0)


def test_the_overlay_has_the_heat_in_its_colours_and_the_image_in_its_light():
    image = np.zeros((8, 8, 3), "uint8")
    image[::2] = 255
    drawn = overlay(image, np.array([[0.0, 1.0]]), lambda heat: np.stack([heat, 1 - heat, heat, heat], axis=-1))
    assert drawn.shape == (8, 8, 3)
    assert drawn[0, 7].tolist() == pytest.approx([1, 0, 1])
    assert drawn[0, 0].tolist() == pytest.approx([0, 1, 0])
    assert 0.2 < drawn[1, 7, 0] < 0.6


def run(*arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


def test_the_command_explain(saved, image, tmp_path, capsys):
    labels, out = tmp_path / "labels.txt", tmp_path / "out"
    labels.write_text("\n".join("abcdefg"))
    options = ["--labels", labels, "--class", "b", "--layer", "layer2_0_relu", "--feature-maps"]
    code, printed, err = run("explain", saved, image, image, "--output", out, *options, capsys=capsys)
    assert (code, err) == (0, "")
    kinds = ("feature_maps", "grad_cam")
    assert sorted(path.name for path in out.iterdir()) == sorted(f"image-{i}.{k}.png" for i in (1, 2) for k in kinds)
    assert " b " in printed
    assert "at layer2_0_relu" in printed
    beside = tmp_path / "model.keras"
    beside.write_bytes(saved.read_bytes())
    assert run("explain", beside, image, *options[2:6], "--output", out, capsys=capsys)[1].count(" b ") == 1


def test_the_images_of_a_folder_are_sorted(tmp_path, monkeypatch):
    monkeypatch.setattr(
        type(tmp_path), "rglob", lambda folder, _: [folder / "c.png", folder / "a.png", folder / "b.png"]
    )
    for name in "abc":
        (tmp_path / f"{name}.png").touch()
    assert [path.stem for path in find_images([tmp_path])] == ["a", "b", "c"]


def test_the_command_features(saved, image, small, tmp_path, capsys):
    folder = tmp_path / "folder"
    (folder / "deeper").mkdir(parents=True)
    for name in ("b.png", "a.JPG", "deeper/c.png"):
        Image.new("RGB", (40, 40), "red").save(folder / name)
    (folder / "notes.txt").write_text("no image")
    output = tmp_path / "f.npy"
    code, printed, err = run("features", saved, folder, image, "--output", output, "--batch-size", 3, capsys=capsys)
    assert (code, err) == (0, "")
    files = (tmp_path / "f.txt").read_text().splitlines()
    assert files == [str(p) for p in (folder / "a.JPG", folder / "b.png", folder / "deeper/c.png", image)]
    features = np.load(output)
    assert (features.shape, features.dtype) == ((4, 128), np.float32)
    assert relative_error(features, extract_features(small, files)) < 1e-5
    assert "4 images, 128 features each" in printed
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "{saved}", "none.png"], "image='none.png': there is no such file"),
        (["explain", "{saved}", "{folder}"], "is a folder, not an image"),
        (["explain", "{saved}", "{text}"], "is no image"),
        (["explain", "{saved}", "{image}", "--layer", "layer9"], "--layer 'layer9' is no layer"),
        (["explain", "{saved}", "{image}", "--method", "cam"], "--method 'cam' must be one of grad_cam, grad_cam++"),
        (["explain", "{saved}", "{image}", "--class", "cat"], "class='cat' is neither a class nor a number in 0..6"),
        (["explain", "{saved}", "{image}", "--labels", "{text}"], "labels has 1 names; it must have 7"),
        (["explain", "{saved}", "{image}", "--output", "{text}"], "exists"),
        (["features", "{saved}", "{folder}", "--output", "f.npz"], "--output 'f.npz' must end in .npy"),
        (["features", "{saved}", "{image}", "--output", "{folder}/none/f.npy"], "in a folder that does not exist"),
        (["features", "{saved}", "{folder}/empty"], "is a folder without images"),
        (["features", "{saved}", "none.png"], "image='none.png': there is no such file"),
        (["features", "{saved}", "{text}", "--output", "{folder}/f.npy"], "is no image"),
        (["features", "{saved}", "{image}", "--output", "{folder}/f.npy", "--layer", "fc"], "--layer 'fc' gives"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, saved, image, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("no image")
    places = dict(saved=saved, image=image, folder=tmp_path, text=tmp_path / "text.txt")
    code, out, err = run(*[a.format(**places) for a in arguments], capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("keras-resnext: ")
    assert message in err
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".npy" or path.name.endswith("cam.png")]


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
