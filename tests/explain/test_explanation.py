"""What explain draws: the class that was asked for, the layer's strongest channels, heat over a dimmed image."""

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resnext import preprocess_input
from keras_resnext.explain import explain_feature_maps, explain_image, feature_maps, grad_cam
from keras_resnext.explain.drawing import overlay
from keras_resnext.preprocessing import load_image
from tests.cli.test_cli import run


def test_explain_image(small, image, tmp_path):
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


@pytest.mark.parametrize(("outputs", "activation", "shown"), [(3, "sigmoid", "%"), (1, "sigmoid", "%"), (1, None, "")])
def test_labels_and_numbers(outputs, activation, shown, image, tmp_path, capsys):
    """The highest score by default; what is explained is what stands before the sigmoid."""
    layers = keras.layers
    keras.utils.set_random_seed(3)
    inputs = keras.Input((32, 32, 3))
    features = layers.GlobalAveragePooling2D()(
        layers.Conv2D(4, 5, activation="relu")(layers.Rescaling(1 / 255)(inputs))
    )
    last = layers.Dense(outputs, activation, bias_initializer="ones")
    model = keras.Model(inputs, last(features))
    model.save(tmp_path / "m.keras")
    before = layers.Dense(outputs)
    logits = keras.Model(inputs, before(features))
    before.set_weights(last.get_weights())
    code, out, _ = run("explain", tmp_path / "m.keras", image, "--output", tmp_path / "out", capsys=capsys)
    assert code == 0
    found = explain_image(model, image, tmp_path / "e.png")
    images = load_image(image, 32)[None].astype("float32")
    scores = np.asarray(keras.ops.convert_to_numpy(model(images)))[0]
    assert (found.class_index, found.score) == (scores.argmax(), pytest.approx(scores.max(), rel=1e-5))
    np.testing.assert_allclose(found.heat, grad_cam(logits, images, class_index=found.class_index)[0], atol=1e-5)
    assert found.heat.max() == 1
    assert out.split()[2].endswith(shown)
    assert float(out.split()[2].rstrip("%")) == pytest.approx(found.score * (100 if shown else 1), rel=1e-3)


def test_a_name_goes_before_a_number(small, image, tmp_path):
    labels = list("1230456")
    by_name = explain_image(small, image, tmp_path / "e.png", labels=labels, class_index="3")
    by_number = explain_image(small, image, tmp_path / "e.png", labels=labels, class_index=3)
    assert (by_name.class_index, by_number.class_index) == (2, 3)


def test_explain_feature_maps(small, image, tmp_path):
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
