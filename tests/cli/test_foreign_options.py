"""A model that does not say how its images are prepared: every command asks, in one line, and takes the answer."""

import json

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resnext.classifier import open_classifier
from tests.cli.test_cli import run

SIZE = 16
ASKED = "--preprocessing imagenet|none|tf|caffe|FILE"
COMMANDS = {
    "predict": ["predict", "m.keras", "images"],
    "evaluate": ["evaluate", "m.keras", "images"],
    "explain": ["explain", "m.keras", "images/a/0.png", "--feature-maps"],
    "features": ["features", "m.keras", "images"],
    "export": ["export", "m.keras", "m.tflite", "--format", "tflite"],
    "serve": ["serve", "m.keras"],
}


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A model of logits in m.keras, and images of two classes beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    keras.utils.set_random_seed(0)
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, activation="relu")(image))
    model = keras.Model(image, keras.layers.Dense(2)(x), name="mine")
    model.save("m.keras")
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), "uint8")):
        place = tmp_path / "images" / "ab"[i % 2] / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place)
    return model


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_asks_in_one_line(command, foreign, capsys):
    if command in ("export", "serve") and keras.backend.backend() != "tensorflow":
        pytest.skip("exports need TensorFlow")
    code, out, err = run(*COMMANDS[command], capsys=capsys)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("keras-resnext: model='mine' does not say how its images are prepared")
    assert ASKED in line
    if command != "serve":  # which would stay
        code, out, err = run(*COMMANDS[command], "--preprocessing", "tf", capsys=capsys)
        assert (code, bool(out), err if command != "features" else "") == (0, True, "")


def test_answers_count(foreign, tmp_path, capsys):
    files = sorted((tmp_path / "images").rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(file)) for file in files]).astype("float32")
    logits = foreign.predict(pixels / 127.5 - 1, verbose=0)
    code, out, _ = run(
        "predict", "m.keras", "images", "--preprocessing", "tf", "--kind", "raw", "--json", capsys=capsys
    )
    found = [{row["class"]: row["score"] for row in image["predictions"]} for image in json.loads(out)]
    np.testing.assert_allclose([[row["0"], row["1"]] for row in found], logits, rtol=1e-4, atol=1e-5)
    code, out, err = run("predict", "m.keras", "images", "--preprocessing", "tff", capsys=capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert "--preprocessing 'tff' must be one of imagenet, none, tf, caffe, or a JSON file; did you mean tf?" in err
    code, out, err = run("export", "m.keras", "x", "--kind", "multiple", capsys=capsys)
    assert (code, err) == (
        2, "keras-resnext: --kind 'multiple' must be one of single, multi, raw; did you mean multi?\n",
    )  # fmt: skip


def test_an_answer_that_replaces_what_the_model_shows_is_said(foreign, capsys):
    image = keras.Input((SIZE, SIZE, 3))
    keras.Model(image, foreign(keras.layers.Rescaling(1 / 255)(image)), name="inside").save("m.keras")
    code, _, err = run(*COMMANDS["predict"], "--preprocessing", "tf", capsys=capsys)
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith(
        "keras-resnext: warning: the preprocessing that is given replaces that of model='inside': mean"
    )
    assert run(*COMMANDS["predict"], "--preprocessing", "none", capsys=capsys)[2] == ""


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports need TensorFlow")
def test_what_is_served_is_explained_as_it_was_exported(foreign, tmp_path):
    from keras_resnext.serving.server.explainer import _open
    from keras_resnext.serving.server.exported import export_to_cache
    from keras_resnext.serving.server.models import Version

    folder = export_to_cache("m.keras", preprocessing="tf", kind="multi", tell=lambda line: None)
    images = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3)).astype("float32")
    kept, graph = _open(Version("mine", 1, folder / "1", ())), open_classifier(folder)
    assert kept.kind == graph.kind == "multi"
    np.testing.assert_allclose(kept.scores(images), graph.scores(images), atol=1e-5)
    assert export_to_cache("m.keras", preprocessing="caffe", tell=lambda line: None) != folder


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports need TensorFlow")
def test_what_is_served_has_the_labels_beside_it(foreign, tmp_path):
    from keras_resnext.serving.server.exported import export_to_cache

    def served(**options):
        folder = export_to_cache("m.keras", preprocessing="tf", tell=lambda line: None, **options)
        return (folder / "1" / "assets" / "labels.txt").read_text(encoding="utf-8").splitlines()

    names = [f"name {i}" for i in range(foreign.output_shape[-1])]
    (tmp_path / "labels.txt").write_text("\n".join(names), encoding="utf-8-sig", newline="\r\n")
    assert served() == names
    (tmp_path / "labels.txt").write_text("\n".join(names[::-1]), encoding="utf-16")
    assert served() == names[::-1]
    with pytest.raises(ValueError, match="labels"):
        served(labels=[*names, "one more"])
