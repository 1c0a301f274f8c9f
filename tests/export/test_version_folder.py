"""A version appears whole or not at all, and what cannot be exported is refused."""

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resnext import ResNeXt
from keras_resnext.classifier import open_classifier
from keras_resnext.export import export_saved_model
from tests.export.saved_model_material import LABELS, OPTIONS, SIZE, keras_probabilities, make_images, small
from tests.support import normalised_by_imagenet


@keras.saving.register_keras_serializable(package="tests")
class OwnConv2D(keras.layers.Conv2D):
    """A subclass may compute anything, so it is left as it is."""


def test_xla_functions_are_refused(tmp_path: Path) -> None:
    image = keras.Input((SIZE, SIZE, 3))
    x = OwnConv2D(8, 3, groups=4, name="own")(keras.layers.Conv2D(8, 1)(image))
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = normalised_by_imagenet(keras.Model(image, keras.layers.Dense(3, activation="softmax")(x)))
    with pytest.raises(ValueError, match=r"own \(OwnConv2D, groups=4\)") as error:
        export_saved_model(model, tmp_path / "a" / "b")
    assert "GroupedConv2D" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_computes_something_else_is_not_put_in_place(
    model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keras_resnext.export import prepared_model

    real = prepared_model.expected_outputs
    monkeypatch.setattr(prepared_model, "expected_outputs", lambda *a: real(*a) * 1.01)
    with pytest.raises(ValueError, match="does not compute what the model does"):
        export_saved_model(model, tmp_path / "base")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_killed_midway_other_versions_stay_and_none_is_half(model: keras.Model, tmp_path: Path) -> None:
    import signal
    import time

    base = tmp_path / "base"
    first = export_saved_model(model, base)
    before = json.loads((first / "manifest.json").read_text())["sha256"]
    model.save(tmp_path / "m.keras")
    code = f"""
import keras, keras_resnext
model = keras.saving.load_model({str(tmp_path / "m.keras")!r})
print("ready", flush=True)
while True:
    keras_resnext.export.export_saved_model(model, {str(base)!r}, warmup=False)
"""
    rng = np.random.default_rng(0)
    for _ in range(3):
        running = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert running.stdout is not None
        running.stdout.readline()
        time.sleep(rng.uniform(0, 4))
        running.send_signal(signal.SIGKILL)
        running.wait()
    for version in (folder for folder in base.iterdir() if folder.name.isdecimal()):
        facts = json.loads((version / "manifest.json").read_text())
        assert all((version / name).is_file() for name in facts["sha256"])
        tf.saved_model.load(str(version))
    assert json.loads((first / "manifest.json").read_text())["sha256"] == before


def test_versions(model: keras.Model, tmp_path: Path) -> None:
    config, tmp_path = tmp_path / "models.config", tmp_path / "net"
    config.write_text("model_config_list {")
    (tmp_path / "7").mkdir(parents=True)
    (tmp_path / "notes").write_text("not a version")
    with pytest.warns(UserWarning, match=r"models.config is as it was, and may lack net: .* is no ModelServerConfig"):
        assert export_saved_model(model, tmp_path) == tmp_path / "8"
    assert config.read_text() == "model_config_list {"
    with pytest.raises(FileExistsError, match="version=8 exists already"):
        export_saved_model(model, tmp_path, version=8)
    for version in (0, -1, True, 1.5, "2", 2**63):
        with pytest.raises(ValueError, match=r"version=.* must be a positive integer"):
            export_saved_model(model, tmp_path, version=version)  # type: ignore[arg-type]
    assert sorted(f.name for f in tmp_path.iterdir()) == ["7", "8", "notes"]


def test_a_failure_leaves_nothing(model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        (next((tmp_path / "new" / "base").glob(".*.export")) / "half").write_text("a file")
        raise OSError("No space left on device")

    real = tf.saved_model.save
    monkeypatch.setattr(tf.saved_model, "save", lambda *a, **k: (real(*a, **k), fail()))
    with pytest.raises(OSError, match="No space left"):
        export_saved_model(model, tmp_path / "new" / "base")
    assert list(tmp_path.iterdir()) == []


def test_the_version_appears_whole(model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    seen = []
    real = os.rename
    monkeypatch.setattr(os, "rename", lambda a, b: (seen.append((Path(a), Path(b), Path(b).exists())), real(a, b)))
    export_saved_model(model, tmp_path, version=3)
    ((source, target, existed),) = [move for move in seen if move[1] == tmp_path / "3"]
    assert source.parent == tmp_path
    assert not source.name.isdecimal()
    assert (target, existed) == (tmp_path / "3", False)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:-1], "labels has 6 names; it must have 7"),
        ("abcdefg", "must be a list of names"),
        ([*LABELS[:-1], 6], "must be a list of names"),
        ([*LABELS[:-1], "two\nlines"], "each one line"),
        ([*LABELS[:-1], ""], "each one line"),
    ],
)
def test_wrong_labels(model: keras.Model, tmp_path: Path, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export_saved_model(model, tmp_path / "base", labels=labels)
    assert list(tmp_path.iterdir()) == []


def two_inputs() -> keras.Model:
    a, b = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    return keras.Model([a, b], keras.layers.Dense(2)(keras.layers.Flatten()(a + b)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: "resnext50", "must be a keras.Model; got str"),
        (lambda: ResNeXt(**{**OPTIONS, "include_top": False, "out_indices": (0, 2)}), "must give one output"),
        (lambda: ResNeXt(**{**OPTIONS, "input_shape": (16, 16, 1)}), r"must take one input \(None, height, width, 3\)"),
        (two_inputs, "must take one input"),
        (lambda: keras.Sequential([keras.layers.Dense(3)]), "has no known inputs"),
    ],
)
def test_what_is_no_classifier_is_refused(tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export_saved_model(make(), tmp_path / "base")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 32}, r"image_size=32 must be \(16, 16\)"),
        ({"image_size": 0}, "image_size=0 must be a positive integer"),
        ({"image_size": (16, 16, 3)}, "image_size=.* must be"),
        ({"resize_size": 8}, "resize_size=8 must be an integer of at least 16"),
    ],
)
def test_wrong_sizes(model: keras.Model, tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export_saved_model(model, tmp_path / "base", **options)
    assert list(tmp_path.iterdir()) == []


def test_another_backend_is_refused(model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match="KERAS_BACKEND=tensorflow"):
        export_saved_model(model, tmp_path)


def test_models_with_lora_are_exported_and_quantized_ones_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    model = small()
    head = model.get_layer("fc")
    head.enable_lora(2)
    head.lora_kernel_b.assign(rng.normal(size=head.lora_kernel_b.shape))
    images = make_images(3)
    export_saved_model(model, tmp_path / "lora")
    scores = open_classifier(tmp_path / "lora").scores(images)
    np.testing.assert_allclose(scores, keras_probabilities(model, images), atol=1e-5)
    model = small()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras says of most layers that they cannot be quantized
        model.quantize("int8")
    with pytest.raises(ValueError, match=r"was quantized by Keras \(fc\); export the model as it was before quantize"):
        export_saved_model(model, tmp_path / "quantized")
    assert not (tmp_path / "quantized").exists()
