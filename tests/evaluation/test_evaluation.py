"""An export is judged as the model is, by numbers that a few plain loops find too, and everything broken is said."""

import csv
import json
import math
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resnext import ResNeXt, evaluate, preprocess_input, save_pytorch_weights
from keras_resnext.classifier import open_classifier
from keras_resnext.data import read_listing
from keras_resnext.digits import encode_png, load_digits
from keras_resnext.preprocessing import load_image
from tests.cli.test_cli import run
from tests.support import randomise

SIZE, CLASSES, EACH = 16, 10, 6
NAMES = ["nought", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
tensorflow_only = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports need TensorFlow")


def small(**options: Any) -> keras.Model:
    defaults: dict[str, Any] = {
        "blocks": (1, 1, 1), "stem": "cifar", "groups": 4, "width_per_group": 4, "stem_channels": 16,
        "base_channels": 16, "classes": CLASSES, "input_shape": (SIZE, SIZE, 3),
    }  # fmt: skip
    model = randomise(ResNeXt(**{**defaults, **options}))
    head = model.get_layer("fc")
    digits = np.stack([load_image(encode_png(digit), SIZE) for digit in load_digits()[0][:50]])
    features = keras.ops.convert_to_numpy(keras.Function(model.inputs[0], head.input)(preprocess_input(digits)))
    # Scores that follow the image, and no class near certainty: every image and every score counts.
    kernel = head.kernel / features.std(axis=0).mean() / 2
    head.kernel.assign(kernel)
    head.bias.assign(-(features.mean(axis=0) @ keras.ops.convert_to_numpy(kernel)))
    return model


def write_digits(folder: Path, names: list[str], each: int = EACH) -> Path:
    digits, labels = load_digits()
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in np.flatnonzero(labels == label)[:each]:
            (folder / name / f"{i}.png").write_bytes(encode_png(digits[i]))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits") / "data", [str(i) for i in range(CLASSES)])


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return small()


@pytest.fixture(scope="module")
def files(model: keras.Model, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same model in every format."""
    from keras_resnext.export import export_onnx, export_saved_model, export_tflite

    folder = tmp_path_factory.mktemp("files")
    paths = {kind: folder / f"m.{kind}" for kind in ("keras", "pth", "tflite", "onnx")}
    model.save(paths["keras"])
    save_pytorch_weights(model, paths["pth"])
    export_tflite(model, paths["tflite"])
    export_onnx(model, paths["onnx"])
    paths["version"] = export_saved_model(model, folder / "base", version=10, warmup=False)
    (folder / "base" / "9").mkdir()
    (folder / "base" / "9" / "saved_model.pb").write_text("an older version, and last by its letters")
    paths["base"] = folder / "base"
    paths["one by one"] = folder / "one.tflite"
    export_tflite(model, paths["one by one"], batch_size=1)
    for io_type in ("float32", "int8", "uint8"):
        paths[f"int8 {io_type}"] = folder / f"{io_type}.tflite"
        export_tflite(model, paths[f"int8 {io_type}"], quantization="int8", calibration=data, io_type=io_type)
    return paths


@pytest.fixture(scope="module")
def expected(model: keras.Model, data: Path) -> dict[str, Any]:
    """The measures by plain loops."""
    listing = read_listing(data)
    images = np.stack([load_image(file, SIZE) for file in listing.files])
    scores = np.asarray(model.predict_on_batch(preprocess_input(images)), "float64")
    ranks = [
        sorted(range(CLASSES), key=lambda c: -row[c]).index(t) for row, t in zip(scores, listing.labels, strict=True)
    ]
    confusion = [[0] * CLASSES for _ in range(CLASSES)]
    for row, label in zip(scores, listing.labels, strict=True):
        confusion[label][list(row).index(max(row))] += 1
    error = 0.0
    for m in range(15):
        members = [i for i, row in enumerate(scores) if m / 15 < max(row) <= (m + 1) / 15]
        if members:
            confidence = sum(max(scores[i]) for i in members) / len(members)
            accuracy = sum(ranks[i] == 0 for i in members) / len(members)
            error += len(members) / len(scores) * abs(accuracy - confidence)
    return {
        "top1": sum(rank == 0 for rank in ranks) / len(ranks),
        "top5": sum(rank < 5 for rank in ranks) / len(ranks),
        "loss": sum(-math.log(row[t]) for row, t in zip(scores, listing.labels, strict=True)) / len(ranks),
        "confusion": confusion,
        "per_class": [confusion[c][c] / EACH for c in range(CLASSES)],
        "calibration_error": error,
    }


def check(result: Any, expected: dict[str, Any]) -> None:
    assert result.n == CLASSES * EACH
    assert (result.top1, result.top5) == (expected["top1"], expected["top5"])
    assert result.confusion.tolist() == expected["confusion"]
    assert result.confusion.dtype == np.int64
    assert result.per_class.tolist() == pytest.approx(expected["per_class"])
    assert result.loss == pytest.approx(expected["loss"], abs=1e-4)
    assert result.calibration_error == pytest.approx(expected["calibration_error"], abs=1e-4)


@pytest.mark.parametrize("batch_size", [7, 1000])
def test_measures_of_a_keras_model(batch_size: int, model: keras.Model, data: Path, expected: dict[str, Any]) -> None:
    assert 0 < expected["top1"] < expected["top5"] < 1
    check(evaluate(model, data, batch_size=batch_size), expected)


@tensorflow_only
@pytest.mark.parametrize("kind", ["keras", "pth", "version", "base", "tflite", "one by one", "onnx"])
def test_every_format_gives_the_same(kind: str, files: dict[str, Path], data: Path, expected: dict[str, Any]) -> None:
    result = evaluate(files[kind], data, batch_size=13, image_size=SIZE)
    check(result, expected)
    assert result.classifier.name == str(files[kind])


@tensorflow_only
@pytest.mark.parametrize("kind", ["int8 float32", "int8 int8", "int8 uint8"])
def test_integers_give_nearly_the_same(kind: str, files: dict[str, Path], data: Path, expected: dict[str, Any]) -> None:
    result = evaluate(files[kind], data)
    assert result.loss == pytest.approx(expected["loss"], abs=0.02)
    assert np.sum(result.predictions == evaluate(files["tflite"], data).predictions) > 0.85 * result.n


def test_logits_get_a_softmax(data: Path, expected: dict[str, Any]) -> None:
    check(evaluate(small(classifier_activation=None), data), expected)


@tensorflow_only
def test_a_saved_model_without_labels_has_classes_in_the_order_of_folders(
    files: dict[str, Path], tmp_path: Path
) -> None:
    result = evaluate(files["version"], write_digits(tmp_path / "data", NAMES, each=1))
    assert result.classes == tuple(sorted(NAMES))


@tensorflow_only
def test_labels_of_a_saved_model_name_the_classes(model: keras.Model, tmp_path: Path, expected: dict[str, Any]) -> None:
    from keras_resnext.export import export_saved_model

    folder = write_digits(tmp_path / "data", NAMES)
    export_saved_model(model, tmp_path / "base", labels=NAMES, warmup=False)
    result = evaluate(tmp_path / "base", folder)
    check(result, expected)
    assert result.classes == tuple(NAMES)
    assert read_listing(folder).classes != result.classes  # sorted by name, these classes stand elsewhere


def test_labels_beside_a_file_name_the_classes(model: keras.Model, tmp_path: Path, expected: dict[str, Any]) -> None:
    folder = write_digits(tmp_path / "data", NAMES)
    model.save(tmp_path / "best.keras")
    (tmp_path / "labels.txt").write_text("\n".join(NAMES) + "\n")
    (tmp_path / "both").mkdir()
    for part in ("train", "val"):
        (tmp_path / "both" / part).symlink_to(folder)
    check(evaluate(tmp_path / "best.keras", tmp_path / "both"), expected)  # on the part to validate on
    (tmp_path / "labels.txt").write_text("of another model\n")
    assert open_classifier(tmp_path / "best.keras").labels is None


def test_some_of_the_classes(model: keras.Model, tmp_path: Path, expected: dict[str, Any]) -> None:
    folder = write_digits(tmp_path / "data", NAMES[:3])
    result = evaluate(model, folder, labels=NAMES)
    assert result.confusion[:3].tolist() == expected["confusion"][:3]
    assert np.isnan(result.per_class[3:]).all()
    assert result.facts()["per_class"][3:] == [None] * 7
    json.dumps(result.facts(), allow_nan=False)
    with pytest.raises(ValueError, match=r"the data has 3 classes .* and the model 10, of unknown names: give labels"):
        evaluate(model, folder)


def test_what_is_saved(model: keras.Model, data: Path, tmp_path: Path) -> None:
    result = evaluate(model, data)
    folder = result.save(tmp_path / "a" / "b")
    names = {"evaluation.json", "confusion.csv", "confusion.png", "confused_pairs.png", "calibration.png"}
    assert {path.name for path in folder.iterdir()} == names | {"per_class.csv", "predictions.csv"}
    facts = json.loads((folder / "evaluation.json").read_text())
    assert (facts["n"], facts["top1"], facts["loss"]) == (result.n, result.top1, result.loss)
    assert facts["confused"][0][2] == max(count for _, _, count in result.confused)
    header, *rows = csv.reader((folder / "confusion.csv").read_text().splitlines())
    assert header[1:] == [row[0] for row in rows] == list(result.classes)
    assert np.array([row[1:] for row in rows], int).tolist() == result.confusion.tolist()
    rows = list(csv.DictReader((folder / "per_class.csv").read_text().splitlines()))
    assert [float(row["accuracy"]) for row in rows] == pytest.approx(result.per_class, abs=1e-6)
    assert [int(row["images"]) for row in rows] == [EACH] * CLASSES
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            image.load()
            assert min(image.size) > 300
    result.save(folder)  # again, over the old ones
    assert len(list(folder.iterdir())) == 7


def spoil(folder: Path, count: int) -> list[Path]:
    spoiled = sorted(folder.rglob("*.png"))[:count]
    for i, path in enumerate(spoiled):
        path.write_bytes(path.read_bytes()[:50] if i % 2 else b"no image")
    return spoiled


def test_broken_images_are_passed_over_up_to_a_limit(
    model: keras.Model, data: Path, tmp_path: Path, expected: dict[str, Any]
) -> None:
    folder = write_digits(tmp_path / "data", NAMES)
    spoiled = spoil(folder, 10)
    result = evaluate(model, folder, labels=NAMES, skip_limit=10)
    assert [name for name, _ in result.skipped] == [str(path) for path in spoiled]
    assert result.skipped[0][1] == "is not an image that Pillow reads"
    assert result.n == len(result.predictions) == CLASSES * EACH - 10
    assert {*result.images.files}.isdisjoint(map(str, spoiled))
    with pytest.raises(ValueError, match=rf"image '.*{spoiled[0].name}' is not an image"):
        evaluate(model, folder, labels=NAMES, strict=True)
    spoil(folder, 11)
    with pytest.raises(ValueError, match=r"11 of the first 11 images cannot be read, more than the 10"):
        evaluate(model, folder, labels=NAMES, skip_limit=10)
    with pytest.raises(ValueError, match=r"2 of the first 2 images cannot be read, more than the 1 "):
        evaluate(model, folder, labels=NAMES)


def test_no_image_that_can_be_read(model: keras.Model, tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "data", NAMES, each=1)
    spoil(folder, 10)
    with pytest.raises(ValueError, match=r"none of 10 images can be read; the first: .*eight.*is not an image"):
        evaluate(model, folder, labels=NAMES, skip_limit=10)


def test_scores_that_are_no_probabilities(data: Path) -> None:
    broken = small()
    broken.get_layer("fc").bias.assign(np.full(CLASSES, np.nan))
    with pytest.raises(ValueError, match=r"gives nan for class 0 of image '.*0.*\.png'"):
        evaluate(broken, data)
    unbounded = small(classifier_activation="relu")
    unbounded.get_layer("fc").bias.assign(np.full(CLASSES, 9.0))
    with pytest.raises(ValueError, match=r"must give probabilities, 0 to 1"):
        evaluate(unbounded, data)


def test_a_limit_takes_images_of_all_classes(model: keras.Model, data: Path) -> None:
    result = evaluate(model, data, limit=20)
    assert result.confusion.sum(1).tolist() == [2] * CLASSES


def test_few_images_wait_in_memory(model: keras.Model, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading keeps a few batches ahead of a slow model, not all images."""
    from keras_resnext import classifier

    opened = open_classifier(model)
    read: list[int] = []
    ahead: list[int] = []
    original = classifier.Classifier.read

    def counted(self: Any, image: bytes) -> np.ndarray:
        read.append(1)
        return original(self, image)

    def slow(images: np.ndarray) -> np.ndarray:
        ahead.append(len(read) - len(ahead) * 4)
        return opened.run(images)

    monkeypatch.setattr(classifier.Classifier, "read", counted)
    monkeypatch.setattr(classifier, "_open_keras", lambda *_: classifier.replace(opened, run=slow))
    evaluate(model, data, batch_size=4)
    assert len(ahead) == 15
    assert max(ahead) <= 3 * 4 + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 must be a positive integer"),
        ({"limit": True}, "limit=True must be a positive integer"),
        ({"image_size": -1}, "image_size=-1 must be a positive integer"),
        ({"image_size": 32}, r"image_size=32 must be \(16, 16\), which model="),
        ({"resize": 8}, "resize=8 must be an integer of at least 16"),
        ({"interpolation": "nearest"}, "interpolation='nearest' must be one of bilinear, bicubic"),
        ({"labels": ["a"]}, "labels has 1 names; it must have 10"),
    ],
)
def test_arguments_out_of_range(options: dict[str, Any], message: str, model: keras.Model, data: Path) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(model, data, **options)


@tensorflow_only
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.tflite", b"no such", "is no TFLite file"),
        ("m.onnx", b"no such", "is no readable ONNX file"),
        ("m.keras", b"no such", "no readable Keras file"),
        ("folder/x", b"", "is a folder without a model: neither best.keras of a training run nor a SavedModel"),
        ("folder/1/saved_model.pb", b"no such", "is no readable SavedModel"),
    ],
)
def test_files_that_are_no_models(name: str, content: bytes, message: str, data: Path, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        evaluate(tmp_path / name.split("/")[0], data)


@tensorflow_only
def test_an_export_of_features_is_no_classifier(data: Path, tmp_path: Path) -> None:
    from keras_resnext.export import export_tflite

    options: dict[str, Any] = {"blocks": (1, 1, 1), "stem": "cifar", "groups": 4, "base_channels": 8}
    features = ResNeXt(**options, include_top=False, pooling="avg", input_shape=(SIZE, SIZE, 3))
    export_tflite(features, tmp_path / "m.tflite")
    with pytest.raises(ValueError, match=r"must take `images` .* and give `probabilities`"):
        evaluate(tmp_path / "m.tflite", data)


@tensorflow_only
def test_a_missing_runtime_names_the_extra(files: dict[str, Path], data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"running ONNX files needs onnxruntime: pip install 'keras_resnext\[onnx\]'"):
        evaluate(files["onnx"], data)
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ImportError, match=r"needs LiteRT or TensorFlow: pip install 'keras_resnext\[tflite\]'"):
        evaluate(files["tflite"], data)


def test_on_the_command_line(model: keras.Model, tmp_path: Path, capsys: Any, expected: dict[str, Any]) -> None:
    folder = write_digits(tmp_path / "data", NAMES)
    spoiled = spoil(folder, 1)
    model.save(tmp_path / "m.keras")
    (tmp_path / "labels.txt").write_text("\n".join(NAMES))
    arguments = ["evaluate", tmp_path / "m.keras", folder, "--labels", tmp_path / "labels.txt"]
    code, out, err = run(*arguments, "--output", tmp_path / "out", capsys=capsys)
    assert code == 0
    rows = dict(line.split("  ", 1) for line in out.splitlines())
    facts = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert rows["top-1"].strip() == f"{facts['top1']:.2%}"
    assert rows["images"].strip().startswith("59, 16x16")
    assert rows["written"].strip() == str(tmp_path / "out")
    assert err == f"keras-resnext: skipped {str(spoiled[0])!r}: it is not an image that Pillow reads\n"
    for added, message in (
        (["--strict"], "is not an image"),
        (["--interpolation", "nearest"], "--interpolation 'nearest'"),
    ):
        code, out, err = run(*arguments, *added, capsys=capsys)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([], "there is no such file or folder"),
        (["data"], "holds no class folders"),
        (["data/a", "data/b"], "holds no images"),
    ],
)
def test_data_that_is_none(made: list[str], message: str, tmp_path: Path, capsys: Any) -> None:
    for name in made:
        (tmp_path / name).mkdir(parents=True)
    code, out, err = run("evaluate", "resnext50_32x4d", tmp_path / "data", capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_mistyped_path_waits_for_no_framework(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(
        "keras_resnext.cli.evaluation_commands.load_framework", lambda: pytest.fail("a framework is loaded")
    )
    code, _, err = run("evaluate", "resnext50_32x4d", tmp_path / "data", capsys=capsys)
    assert (code, err) == (2, f"keras-resnext: data={str(tmp_path / 'data')!r}: there is no such file or folder\n")


def test_one_class_and_labels_out_of_range(model: keras.Model, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has one class alone, 'nought'"):
        evaluate(model, write_digits(tmp_path / "data", NAMES[:1]))
    image = next((tmp_path / "data").rglob("*.png"))
    (tmp_path / "list.csv").write_text(f"path,label\n{image},0\n{image},12\n")
    with pytest.raises(ValueError, match=r"the data has 13 classes .* and the model 10"):
        evaluate(model, tmp_path / "list.csv")
