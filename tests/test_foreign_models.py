"""Models of other hands give here what Keras gives: for files, in measurements, and in every export."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resnext import evaluate
from keras_resnext.classifier import open_classifier
from tests.support import relative_error

if keras.backend.backend() != "tensorflow":
    pytest.skip("exports need TensorFlow", allow_module_level=True)

SIZE, CLASSES, EACH = 64, 3, 3
apps = keras.applications


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of images in exactly the models' size, which Keras reads as they are."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(CLASSES * EACH):
        colours = rng.integers(0, 256, (4, 4, 3), "uint8")
        place = folder / "abc"[i % CLASSES] / f"{i}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(colours).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(place)
    return folder


def cnn(activation: str | None = "softmax", outputs: int = CLASSES, scale: Any = None) -> keras.Model:
    image = keras.Input((SIZE, SIZE, 3))
    x = image if scale is None else scale(image)
    x = keras.layers.Conv2D(8, 5, strides=4, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3, activation="relu")(x))
    return keras.Model(image, keras.layers.Dense(outputs, activation)(x))


def adapted() -> Any:
    layer = keras.layers.Normalization()
    layer.adapt(np.random.default_rng(1).integers(0, 256, (8, SIZE, SIZE, 3)).astype("float32"))
    return layer


def application(make: Any, last: str, **options: Any) -> keras.Model:
    """The first blocks of one of keras.applications; whole ones take 100 MB or 20 s."""
    backbone = make(weights=None, include_top=False, input_shape=(SIZE, SIZE, 3), **options)
    x = keras.layers.GlobalAveragePooling2D()(backbone.get_layer(last).output)
    return keras.Model(backbone.inputs[0], keras.layers.Dense(CLASSES, "softmax")(x))


@dataclass(frozen=True)
class Foreign:
    """A model, what has to be said of it, and Keras's own way to its scores."""

    build: Callable[[], keras.Model]
    said: dict[str, str] = field(default_factory=dict)
    prepare: Callable[[np.ndarray], np.ndarray] = lambda images: images
    finish: Callable[[np.ndarray], Any] = lambda scores: scores
    kind: str = "single"


def rescaling() -> Any:
    return keras.layers.Rescaling(1 / 255)


MODELS = {
    "rescaling, logits": Foreign(lambda: cnn(None, scale=rescaling()), finish=keras.ops.softmax),
    "adapted normalization": Foreign(lambda: cnn(scale=adapted())),
    "own, raw": Foreign(lambda: cnn(None), {"preprocessing": "none", "kind": "raw"}, kind="raw"),
    "labels": Foreign(lambda: cnn("sigmoid", scale=rescaling()), kind="multi"),
    "binary, logit": Foreign(
        lambda: cnn(None, 1, rescaling()), {"kind": "multi"}, finish=keras.ops.sigmoid, kind="multi"
    ),
    "regression": Foreign(lambda: cnn(None, 1, rescaling()), kind="raw"),
    "MobileNetV3Small": Foreign(lambda: application(apps.MobileNetV3Small, "expanded_conv_2_add")),  # it scales inside
    "MobileNetV2": Foreign(
        lambda: application(apps.MobileNetV2, "block_3_project_BN", alpha=0.35),
        {"preprocessing": "tf"},
        apps.mobilenet_v2.preprocess_input,
    ),
    "VGG16": Foreign(
        lambda: application(apps.VGG16, "block3_pool"), {"preprocessing": "caffe"}, apps.vgg16.preprocess_input
    ),
}


def spread(model: keras.Model, images: np.ndarray) -> keras.Model:
    """Changes the head, so that the scores differ by image and none is certain: fresh weights tell nothing apart."""
    head = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense | keras.layers.Conv2D)][-1]
    scores = keras.Model(model.inputs[0], head.input).predict(images, verbose=0) @ np.asarray(head.kernel)
    scores = scores.reshape(-1, scores.shape[-1])
    head.kernel.assign(head.kernel / scores.std(0))
    head.bias.assign(-scores.mean(0) / scores.std(0))
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_scores_measurements_and_exports_are_those_of_keras(name: str, folder: Path, tmp_path: Path) -> None:
    from keras_resnext.export import export_onnx, export_saved_model, export_tflite

    foreign = MODELS[name]
    data = keras.utils.image_dataset_from_directory(
        folder, label_mode="categorical", image_size=(SIZE, SIZE), shuffle=False, batch_size=4, verbose=False
    )
    images = np.concatenate([images for images, _ in data])
    keras.utils.set_random_seed(0)
    model = spread(foreign.build(), foreign.prepare(images.copy()))
    expected = np.asarray(foreign.finish(model.predict(foreign.prepare(images.copy()), verbose=0)))
    assert np.ptp(expected, axis=0).max() > 0.05  # the images differ

    opened = open_classifier(model, **foreign.said)
    assert opened.kind == foreign.kind
    files = sorted(folder.glob("*/*.png"))
    pixels = np.stack([opened.read(file) for file in files])
    np.testing.assert_array_equal(pixels, images)
    assert relative_error(opened.scores(pixels), expected) < 1e-5

    if foreign.kind == "single":
        model.compile(loss="categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
        scaled = data.map(lambda images, truths: (foreign.prepare(images), truths))
        loss, accuracy = model.evaluate(scaled, verbose=0)
        result = evaluate(model, folder, **foreign.said)
        assert result.top1 == pytest.approx(accuracy)
        assert foreign.finish is keras.ops.softmax or result.loss == pytest.approx(loss, rel=1e-4)

    export_tflite(model, tmp_path / "m.tflite", **foreign.said)
    export_onnx(model, tmp_path / "m.onnx", **foreign.said)
    version = export_saved_model(model, tmp_path / "base", warmup=False, **foreign.said)
    for path in (tmp_path / "m.tflite", tmp_path / "m.onnx", version):
        export = open_classifier(path)
        assert (export.kind, export.resize) == (foreign.kind, SIZE), path
        assert relative_error(export.scores(pixels), expected) < 1e-4, path
