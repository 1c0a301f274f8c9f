"""One classifier in every format: the same scores, sizes and labels, of every kind of output."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resnext import ResNeXt, evaluate, save_pytorch_weights, set_preprocessing
from keras_resnext.classifier import open_classifier, predict_images
from keras_resnext.preprocessing import Preprocessing
from tests.cli.test_cli import run
from tests.support import randomise, relative_error

SIZE, NAMES = 16, ["cat", "cow", "dog"]
tensorflow_only = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports need TensorFlow")
IMAGES = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), "uint8")


def small(activation: str | None = "softmax", classes: int = 3) -> keras.Model:
    return randomise(
        ResNeXt(
            blocks=(1, 1), num_stages=2, strides=(1, 2), dilations=(1, 1), stem="cifar", groups=2, base_channels=4,
            classes=classes, classifier_activation=activation, input_shape=(SIZE, SIZE, 3),
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model in every format, and in the folder of a training run."""
    from keras_resnext.export import export_onnx, export_saved_model, export_tflite

    folder, model = tmp_path_factory.mktemp("formats"), small()
    (folder / "run").mkdir()
    for path in (folder / "m.keras", folder / "run" / "best.keras"):
        model.save(path)
    save_pytorch_weights(model, folder / "m.pth")
    for place in (folder, folder / "run"):
        (place / "labels.txt").write_text("\n".join(NAMES))
    export_saved_model(model, folder / "base", labels=NAMES, warmup=False)
    export_tflite(model, folder / "m.tflite")
    export_onnx(model, folder / "m.onnx")
    for i, image in enumerate(IMAGES):
        (folder / "images").mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / "images" / f"{i}.png")
    return folder


@tensorflow_only
@pytest.mark.parametrize("name", ["m.keras", "run", "base", "base/1", "m.tflite", "m.onnx"])
def test_predict_takes_whatever_evaluate_takes(name: str, folder: Path, capsys: Any) -> None:
    code, out, err = run("predict", folder / name, folder / "images", "--json", capsys=capsys)
    assert (code, err) == (0, "")
    expected = open_classifier(folder / "m.keras").scores(IMAGES)
    for i, answer in enumerate(json.loads(out)):
        assert answer["image"] == str(folder / "images" / f"{i}.png")
        scores = {row["class"]: row["score"] for row in answer["predictions"]}
        assert relative_error([scores[name] for name in NAMES], expected[i]) < 1e-5


@tensorflow_only
def test_a_pytorch_file_has_the_labels_beside_it(folder: Path) -> None:
    opened = open_classifier(folder / "m.pth", image_size=SIZE)
    assert opened.labels == tuple(NAMES)
    assert opened.scores(IMAGES).shape == (4, 3)


@tensorflow_only
def test_a_broken_image_does_not_keep_the_others_from_being_classified(
    folder: Path, tmp_path: Path, capsys: Any
) -> None:
    broken, good = tmp_path / "broken.png", folder / "images" / "1.png"
    broken.write_text("no image")
    code, out, err = run("predict", folder / "m.keras", good, broken, good, "--csv", capsys=capsys)
    assert code == 1
    assert err == f"keras-resnext: image={str(broken)!r} is not an image that Pillow reads\n"
    header, *rows = out.splitlines()
    assert header == "image,rank,class,score"
    assert [row.split(",")[:2] for row in rows] == [[str(good), str(rank)] for rank in (1, 2, 3)] * 2
    code, out, err = run("predict", folder / "m.keras", broken, broken, capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 2)
    code, out, err = run("predict", folder / "m.keras", good, "--csv", "--json", capsys=capsys)
    assert (code, out, err) == (2, "", "keras-resnext: give either --json or --csv\n")
    with pytest.raises(ValueError, match=r"broken\.png' is not an image"):
        list(predict_images(folder / "m.keras", [good, broken]))


@tensorflow_only
def test_an_export_cannot_be_explained(folder: Path, tmp_path: Path, capsys: Any) -> None:
    arguments = ["explain", folder / "m.onnx", folder / "images" / "1.png", "--output", tmp_path]
    code, out, err = run(*arguments, capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "is an export, whose layers cannot be looked into" in err
    code, out, _ = run("explain", folder / "run", *arguments[2:], capsys=capsys)
    assert (code, out.split("  ")[1].split()[0] in NAMES) == (0, True)


def test_an_open_classifier_is_opened_with_other_labels_and_sizes() -> None:
    opened = open_classifier(small(None), labels=NAMES)
    assert (opened.kind, opened.best(np.array([0.1, 0.3, 0.2]), 2)) == ("single", [("cow", 0.3), ("dog", 0.2)])
    again = open_classifier(opened, resize=20, labels=["a", "b", "c"], kind="raw")
    assert (again.resize, again.names, opened.names) == (20, ["a", "b", "c"], NAMES)
    logits = again.scores(IMAGES)
    assert relative_error(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), opened.scores(IMAGES)) < 1e-5
    with pytest.raises(ValueError, match=r"images must have shape \(n, 16, 16, 3\); got \(16, 16, 3\)"):
        opened.scores(IMAGES[0])
    with pytest.raises(ValueError, match="kind='both' must be one of single, multi, raw"):
        open_classifier(opened, kind="both")


@pytest.mark.parametrize(
    ("activation", "classes", "kind"),
    [("softmax", 3, "single"), (None, 3, "single"), ("sigmoid", 3, "multi"), ("sigmoid", 1, "multi"), (None, 1, "raw")],
)
def test_what_the_scores_mean(activation: str | None, classes: int, kind: str, tmp_path: Path) -> None:
    model = small(activation, classes)
    opened = open_classifier(model)
    given = np.asarray(model(opened.prepare(IMAGES)))
    expected = np.asarray(keras.ops.softmax(given)) if (activation, kind) == (None, "single") else given
    assert opened.kind == kind
    for _ in range(2):  # the first call runs uncompiled
        assert relative_error(opened.scores(IMAGES), expected) < 1e-5
    if keras.backend.backend() == "tensorflow" and activation != "softmax":
        from keras_resnext.export import export_onnx, export_saved_model

        export_onnx(model, tmp_path / "m.onnx")
        for path in (tmp_path / "m.onnx", export_saved_model(model, tmp_path / "base", warmup=False)):
            export = open_classifier(path)
            assert export.kind == kind
            assert relative_error(export.scores(IMAGES), expected) < 1e-4


def class_folders(folder: Path, count: int) -> Path:
    for i, image in enumerate(np.random.default_rng(1).integers(0, 256, (12, SIZE, SIZE, 3), "uint8")):
        (folder / NAMES[i % count]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / NAMES[i % count] / f"{i}.png")
    return folder


@pytest.mark.parametrize("classes", [1, 3])
def test_probabilities_of_each_label_are_measured_as_keras_does(classes: int, tmp_path: Path) -> None:
    model = small("sigmoid", classes)
    result = evaluate(model, class_folders(tmp_path, max(classes, 2)))
    images = np.stack([result.classifier.read(file) for file in result.images.files])
    labels = result.images.labels
    truths = (labels[:, None] if classes == 1 else np.eye(3)[labels]).astype("float32")
    scores = np.unique(result.classifier.scores(images))
    between = ((scores[1:] + scores[:-1]) / 2).tolist()  # Keras counts scores between two thresholds as equal
    auc = keras.metrics.AUC(thresholds=between, multi_label=classes > 1, num_labels=3 if classes > 1 else None)
    model.compile("sgd", "binary_crossentropy", metrics=[auc, "binary_accuracy"], jit_compile=False)
    loss, area, accuracy = model.evaluate(result.classifier.prepare(images), truths, verbose=0)
    found = result.label_scores
    assert found is not None
    assert result.loss == pytest.approx(loss, abs=1e-5)
    assert found.mean_auc == pytest.approx(area, abs=1e-5)
    assert classes > 1 or result.top1 == pytest.approx(accuracy)
    json.dumps(result.facts(), allow_nan=False)


def test_numbers_are_not_compared_with_class_names(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"12 images of 2 classes .* gives numbers that are not probabilities, to compare"
    ):
        evaluate(small(None, 1), class_folders(tmp_path, 2))


@tensorflow_only
def test_exports_remember_how_images_are_prepared(tmp_path: Path) -> None:
    from keras_resnext.export import export_onnx, export_saved_model, export_tflite

    model = small()
    set_preprocessing(model, Preprocessing(size=SIZE, resize=20, interpolation="bicubic"))
    resize = 16  # below 64 pixels nothing is cropped, whatever the share
    export_onnx(model, tmp_path / "m.onnx")
    export_tflite(model, tmp_path / "m.tflite")
    version = export_saved_model(model, tmp_path / "base", resize_size=24, warmup=False)
    found = {f: open_classifier(tmp_path / f) for f in ("m.onnx", "m.tflite")} | {"sm": open_classifier(version)}
    prepared = {name: (one.size, one.resize, one.interpolation) for name, one in found.items()}
    assert prepared == {
        "m.onnx": ((SIZE, SIZE), resize, "bicubic"),
        "m.tflite": ((SIZE, SIZE), resize, "bicubic"),
        "sm": ((SIZE, SIZE), 24, "bicubic"),
    }
    told = open_classifier(tmp_path / "m.tflite", resize=20, interpolation="bilinear", preprocessing="none")
    assert (told.resize, told.interpolation) == (20, "bilinear")
    with pytest.raises(ValueError, match=r"preprocessing='tf' is for Keras models; model=.* is an export, which takes"):
        open_classifier(tmp_path / "m.tflite", preprocessing="tf")
    (version / "manifest.json").write_text('{"preprocessing": {"resize": 3}}')
    with pytest.raises(ValueError, match="has invalid preprocessing metadata: resize=3"):
        open_classifier(version)
