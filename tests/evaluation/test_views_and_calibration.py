"""Averaged views, temperature, the largest losses and the report of each class: all as written out by hand."""

import csv
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resnext import Preprocessing, evaluate, set_preprocessing
from keras_resnext.classifier import open_classifier, predict_images
from keras_resnext.data import read_listing
from keras_resnext.evaluation.temperature import LIMITS, find_temperature, scaled_scores
from keras_resnext.preprocessing import load_image
from tests.cli.test_cli import run

SIZE, RESIZE, CLASSES, EACH = 16, 20, 3, 5
RNG = np.random.default_rng(0)


def network(activation: str | None = "softmax", outputs: int = CLASSES, size: int = SIZE) -> keras.Model:
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((size, size, 3)),
            layers.Rescaling(1 / 64, -2),
            layers.Conv2D(4, 5, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(outputs, activation),
        ],
        name="cnn",
    )
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(0, 0.35, w.shape) for w in model.get_weights()])
    set_preprocessing(model, Preprocessing(size, resize=RESIZE, mean=(0, 0, 0), std=(1, 1, 1)))
    return model


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return network()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for label in range(CLASSES):
        (folder / str(label)).mkdir()
        for i in range(EACH):
            pixels = RNG.integers(0, 256, (24, 30, 3), "uint8")
            Image.fromarray(pixels).save(folder / str(label) / f"{i}.png")
    return folder


def read(data: Path, size: int) -> np.ndarray:
    return np.stack([load_image(file, size, resize=RESIZE) for file in read_listing(data).files]).astype("float32")


def test_flip_is_the_mean_of_two(model: keras.Model, data: Path) -> None:
    images = read(data, SIZE)
    by_hand = (model.predict_on_batch(images) + model.predict_on_batch(images[:, :, ::-1])) / 2
    found = open_classifier(model, resize=RESIZE, tta="flip").scores(images)
    np.testing.assert_allclose(found, by_hand, atol=1e-6)
    assert np.abs(found - model.predict_on_batch(images)).max() > 0.01
    listing = read_listing(data)
    result = evaluate(model, data, tta="flip", resize=RESIZE, batch_size=4)
    assert result.top1 == np.mean(by_hand.argmax(1) == listing.labels)
    assert result.loss == pytest.approx(np.mean(-np.log(by_hand[range(len(listing)), listing.labels])), rel=1e-5)
    assert result.facts()["tta"] == "flip"
    assert evaluate(model, data).facts()["tta"] is None
    names = dict(next(iter(predict_images(open_classifier(model, resize=RESIZE), listing.files, tta="flip")))[1])
    assert [names[str(i)] for i in range(CLASSES)] == pytest.approx(by_hand[0].tolist(), abs=1e-6)


def test_five_crops_are_corners_and_the_centre_that_one_crop_is(model: keras.Model, data: Path) -> None:
    large, more = read(data, RESIZE), RESIZE - SIZE
    places = [(0, 0), (0, more), (more, 0), (more, more), (more // 2, more // 2)]
    crops = [large[:, y : y + SIZE, x : x + SIZE] for y, x in places]
    assert (crops[-1] == read(data, SIZE)).all()
    by_hand = np.mean([model.predict_on_batch(crop) for crop in crops], axis=0)
    classifier = open_classifier(model, resize=RESIZE, tta="5crop")
    assert classifier.read_size == (RESIZE, RESIZE)
    np.testing.assert_allclose(classifier.scores(large), by_hand, atol=1e-6)
    assert evaluate(model, data, resize=RESIZE, tta="5crop").top1 == np.mean(
        by_hand.argmax(1) == read_listing(data).labels
    )
    with pytest.raises(ValueError, match=r"images must have shape \(n, 20, 20, 3\)"):
        classifier.scores(large[:, 1:])


def test_views_that_cannot_be(model: keras.Model) -> None:
    with pytest.raises(ValueError, match=r"tta='10crop' must be one of flip, 5crop"):
        open_classifier(model, tta="10crop")
    with pytest.raises(ValueError, match=r"tta='5crop' needs resize above 16, the image size; it is 16"):
        open_classifier(model, tta="5crop", resize=SIZE)


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_the_temperature_that_was_put_in_is_found(kind: str) -> None:
    """Labels drawn from softmax(logits) and scores of softmax(3 logits): the temperature is 3."""
    logits = RNG.normal(0, 1.5, (20000, 4))
    if kind == "single":
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        labels = (p.cumsum(1) > RNG.random((len(p), 1))).argmax(1)
        sharp = np.exp(3 * logits) / np.exp(3 * logits).sum(1, keepdims=True)
    else:
        labels = (RNG.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype("uint8")
        sharp = 1 / (1 + np.exp(-3 * logits))
    found = find_temperature(sharp.astype("float32"), labels, kind)
    assert found.temperature == pytest.approx(3, rel=0.03)
    assert found.loss_after < found.loss_before
    assert found.error_after < 0.02 < found.error_before
    assert not found.at_limit


def test_data_without_mistakes_ends_at_the_limit() -> None:
    found = find_temperature(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1]), "single")
    assert (found.temperature, found.at_limit) == (LIMITS[0], True)
    found = find_temperature(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([1, 0]), "single")
    assert (found.temperature, found.at_limit) == (LIMITS[1], True)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", None])
def test_the_saved_model_has_the_temperature_inside(activation: str | None, data: Path, tmp_path: Path) -> None:
    model = network(activation)
    before = model.get_weights()
    result = evaluate(model, data, calibrate=True)
    assert result.calibration is not None
    folder = result.save(tmp_path / "out")
    for old, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
    again = evaluate(folder / "calibrated.keras", data)
    assert again.loss == pytest.approx(result.calibration.loss_after, rel=1e-4)
    assert (again.predictions == result.predictions).all()
    facts = json.loads((folder / "evaluation.json").read_text())
    assert facts["calibration"]["temperature"] == result.calibration.temperature
    with pytest.raises(ValueError, match=r"holds the model that is evaluated, calibrated.keras; name another folder"):
        again.save(folder)


def test_an_activation_of_its_own_layer_is_passed_and_another_end_refused() -> None:
    inputs = keras.Input((8, 8, 3))
    dense = keras.layers.Dense(2)
    logits = dense(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, keras.layers.Softmax()(logits))
    kernel = dense.get_weights()[0]
    with scaled_scores(model, 2.0):
        np.testing.assert_allclose(dense.get_weights()[0], kernel / 2, rtol=1e-6)
    np.testing.assert_array_equal(dense.get_weights()[0], kernel)
    pooled = keras.Model(inputs, keras.layers.Softmax()(keras.layers.GlobalAveragePooling2D()(inputs)), name="pooled")
    with (
        pytest.raises(ValueError, match=r"model='pooled' gets its scores from GlobalAveragePooling2D"),
        scaled_scores(pooled, 2.0),
    ):
        pass


def test_numbers_have_no_temperature(data: Path) -> None:
    with pytest.raises(ValueError, match=r"calibrate=True is for probabilities; model='cnn' gives numbers"):
        evaluate(network(None, 1), data, calibrate=True)


def test_largest_losses_and_classes(model: keras.Model, data: Path, tmp_path: Path) -> None:
    result = evaluate(model, data)
    result.save(tmp_path, top_losses=4)
    rows = list(csv.DictReader((tmp_path / "top_losses.csv").open()))
    losses = sorted(result.losses.tolist(), reverse=True)
    assert [float(row["loss"]) for row in rows] == pytest.approx(losses[:4], rel=1e-4)
    assert result.loss == pytest.approx(np.mean(losses))
    assert all(row["true"] == Path(row["image"]).parent.name for row in rows)
    assert Image.open(tmp_path / "top_losses.png").width > 300
    table = {row["name"]: row for row in csv.DictReader((tmp_path / "per_class.csv").open())}
    truths, said = read_listing(data).labels, result.predictions
    for i in range(CLASSES):
        hits, both = np.sum((truths == i) & (said == i)), np.sum(truths == i) + np.sum(said == i)
        assert float(table[str(i)]["f1"]) == pytest.approx(2 * hits / both, abs=1e-6)
    assert result.class_scores is not None
    assert result.class_scores.macro_f1 == pytest.approx(
        np.mean([float(row["f1"]) for row in table.values()]), abs=1e-5
    )


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_losses_of_labels_and_numbers(activation: str | None, data: Path, tmp_path: Path) -> None:
    outputs = CLASSES if activation else 1
    result = evaluate(network(activation, outputs), data)
    assert np.mean(result.losses) == pytest.approx(result.loss)
    result.save(tmp_path, top_losses=2)
    assert len((tmp_path / "top_losses.csv").read_text().splitlines()) == 3


def test_on_the_command_line(model: keras.Model, data: Path, tmp_path: Path, capsys: Any) -> None:
    model.save(tmp_path / "m.keras")
    arguments = [
        "evaluate",
        tmp_path / "m.keras",
        data,
        "--tta",
        "flip",
        "--calibrate",
        "--top-losses",
        3,
        "--per-class",
    ]
    code, out, _ = run(*arguments, "--output", tmp_path / "out", capsys=capsys)
    assert code == 0
    assert "averaged over       an image and its mirror image" in out
    assert out.count("\nclass  ") == CLASSES
    assert "\ntemperature " in out
    assert {"calibrated.keras", "top_losses.png", "top_losses.csv"} <= {p.name for p in (tmp_path / "out").iterdir()}
    code, _, err = run(*arguments, capsys=capsys)
    assert (code, "--top-losses 3 needs output" in err) == (2, True)
    code, _, err = run("evaluate", tmp_path / "m.keras", data, "--tta", "fliip", capsys=capsys)
    assert (code, "--tta 'fliip' must be one of flip, 5crop; did you mean flip?" in err) == (2, True)
    code, _, err = run(
        "evaluate",
        tmp_path / "out" / "calibrated.keras",
        data,
        "--calibrate",
        "--output",
        tmp_path / "out",
        capsys=capsys,
    )
    assert (code, err.count("\n"), "name another folder" in err) == (2, 1, True)
    code, out, err = run("predict", tmp_path / "m.keras", data / "0" / "0.png", "--tta", "flip", capsys=capsys)
    assert (code, "scores are the mean over an image and its mirror image" in err) == (0, True)
