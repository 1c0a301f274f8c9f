"""Models of labels, of two classes and of numbers are measured as Keras measures them on the same files."""

import csv
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from keras_resnext import evaluate
from keras_resnext.data import read_listing
from keras_resnext.evaluation.label_scores import score_labels
from keras_resnext.evaluation.number_scores import score_numbers
from tests.cli.test_cli import run

SIZE, N = 16, 24
NAMES = ("red", "green", "blue")
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (N, SIZE, SIZE, 3), "uint8") // 2 + RNG.integers(0, 128, (N, 1, 1, 3), "uint8")
HOT = (PIXELS.mean((1, 2)) + RNG.normal(0, 15, (N, 3)) > 128).astype("uint8")
HOT[:2] = [[0, 0, 0], [1, 0, 1]]
NUMBERS = PIXELS.mean((1, 2, 3)) / 25 + RNG.normal(0, 0.5, N)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images")
    for i, image in enumerate(PIXELS):
        Image.fromarray(image).save(path / f"{i}.png")
    write(path / "multi.csv", ["file", *NAMES], HOT.tolist())
    write(path / "binary.csv", ["file", "label"], [["yes" if row[0] else "no"] for row in HOT])
    write(path / "column.csv", ["file", "red"], HOT[:, :1].tolist())
    write(path / "numbers.csv", ["file", "value"], NUMBERS[:, None].tolist())
    return path


def write(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *([f"{i}.png", *row] for i, row in enumerate(rows))])


def network(outputs: int, activation: str | None) -> keras.Model:
    """Output i follows colour i of an image."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            layers.Rescaling(1 / 128, -1),
            layers.Conv2D(3, 1, use_bias=False),
            layers.GlobalAveragePooling2D(),
            layers.Dense(outputs, activation),
        ],
        name="cnn",
    )
    model.layers[1].set_weights([np.eye(3)[None, None]])
    model.layers[-1].set_weights([8 * np.eye(3)[:, :outputs], np.linspace(0.2, 0.5, outputs)])
    return model


def by_keras(model: keras.Model, truths: np.ndarray, loss: str, metrics: list[Any]) -> dict[str, Any]:
    model.compile("sgd", loss, metrics=metrics, jit_compile=False)
    return dict(model.evaluate(PIXELS.astype("float32"), truths.astype("float32"), verbose=0, return_dict=True))


@pytest.fixture(scope="module")
def multi() -> keras.Model:
    return network(3, "sigmoid")


def test_labels(multi: keras.Model, folder: Path) -> None:
    result = evaluate(multi, folder / "multi.csv", threshold=0.4)
    scores = np.unique(np.asarray(multi(PIXELS.astype("float32"))))
    between = ((scores[1:] + scores[:-1]) / 2).tolist()  # Keras counts scores between two thresholds as equal
    wanted = by_keras(
        multi,
        HOT,
        "binary_crossentropy",
        [
            keras.metrics.AUC(thresholds=between, multi_label=True, num_labels=3, name="auc"),
            keras.metrics.BinaryAccuracy(threshold=0.4, name="accuracy"),
            keras.metrics.F1Score(threshold=0.4, name="f1"),
            keras.metrics.F1Score("micro", threshold=0.4, name="micro"),
            *(keras.metrics.Precision(0.4, class_id=i, name=f"precision{i}") for i in range(3)),
            *(keras.metrics.Recall(0.4, class_id=i, name=f"recall{i}") for i in range(3)),
        ],
    )
    found = result.label_scores
    assert found is not None
    assert 0.3 < found.micro_f1 < 0.98, "not all is right, nor wrong"
    ours = [
        result.loss,
        found.mean_auc,
        found.mean_accuracy,
        *found.f1,
        found.micro_f1,
        *found.precision,
        *found.recall,
    ]
    f1 = np.asarray(wanted["f1"]).tolist()
    theirs = [wanted["loss"], wanted["auc"], wanted["accuracy"], *f1, wanted["micro"]]
    theirs += [wanted[f"{name}{i}"] for name in ("precision", "recall") for i in range(3)]
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert (found.images == HOT.sum(0)).all()
    assert result.classes == NAMES
    with pytest.raises(ValueError, match=r"several of 3 labels.*there is no right class of each; see label_scores"):
        _ = result.top1


@pytest.mark.parametrize("name", ["binary.csv", "column.csv"])
def test_two_classes(name: str, folder: Path) -> None:
    model = network(1, "sigmoid")
    result = evaluate(model, folder / name, threshold=0.6)
    metrics = [keras.metrics.BinaryAccuracy(threshold=0.6, name="accuracy"), keras.metrics.Precision(0.6, name="p")]
    wanted = by_keras(model, HOT[:, :1], "binary_crossentropy", [*metrics, keras.metrics.Recall(0.6, name="r")])
    found = result.label_scores
    assert found is not None
    ours = [result.loss, result.top1, found.mean_accuracy, found.precision[0], found.recall[0]]
    assert ours == pytest.approx([wanted[key] for key in ("loss", "accuracy", "accuracy", "p", "r")], abs=1e-5)
    assert result.confusion.sum(1).tolist() == [N - HOT[:, 0].sum(), HOT[:, 0].sum()]
    assert result.classes == (("no", "yes") if name == "binary.csv" else ("not red", "red"))


def test_the_output_of_one_probability_is_the_class_of_its_name(folder: Path) -> None:
    """Sorted by name the other class would be the second."""
    from keras_resnext.classifier import open_classifier

    model = network(1, "sigmoid")
    named = evaluate(open_classifier(model, labels=["no"]), folder / "binary.csv")
    assert named.classes == ("yes", "no")
    assert named.top1 == pytest.approx(1 - evaluate(model, folder / "binary.csv").top1)


def test_numbers(folder: Path, capsys: Any, tmp_path: Path) -> None:
    model = network(1, None)
    model.layers[-1].set_weights([np.full((3, 1), 1.5), np.array([5])])
    result = evaluate(model, folder / "numbers.csv")
    metrics = [keras.metrics.MeanAbsoluteError("mae"), keras.metrics.RootMeanSquaredError("rmse")]
    wanted = by_keras(model, NUMBERS[:, None], "mse", [*metrics, keras.metrics.R2Score(name="r2")])
    found = result.number_scores
    assert found is not None
    ours = (result.loss, found.mae, found.rmse, found.r2)
    assert ours == pytest.approx([wanted[key] for key in ("loss", "mae", "rmse", "r2")], rel=1e-4)
    model.save(tmp_path / "m.keras")
    code, out, _ = run("evaluate", tmp_path / "m.keras", folder / "numbers.csv", "--output", tmp_path, capsys=capsys)
    rows = dict(line.split("  ", 1) for line in out.splitlines())
    assert (code, rows["MAE"].strip(), rows["gives"].strip()) == (0, f"{found.mae:.6g}", "numbers")
    facts = json.loads((tmp_path / "evaluation.json").read_text())
    assert (facts["kind"], facts["numbers"]["mae"]) == ("raw", pytest.approx(found.mae, rel=1e-5))
    first = next(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert float(first["true value"]) == pytest.approx(NUMBERS[0])
    assert Image.open(tmp_path / "numbers.png").width > 300


def test_labels_on_the_command_line(multi: keras.Model, folder: Path, capsys: Any, tmp_path: Path) -> None:
    multi.save(tmp_path / "m.keras")
    arguments = ["evaluate", tmp_path / "m.keras", folder / "multi.csv"]
    code, out, _ = run(*arguments, "--threshold", 0.4, "--ignore-exif", "--output", tmp_path, capsys=capsys)
    rows = dict(line.split("  ", 1) for line in out.splitlines())
    facts = json.loads((tmp_path / "evaluation.json").read_text())
    assert (code, rows["mAP"].strip()) == (0, f"{facts['labels']['mean_average_precision']:.2%}")
    assert (
        rows["data"].strip()
        == facts["data"]
        == f"24 images with several of 3 labels, {HOT.sum(1).mean():.1f} an "
        + (f"image, {(HOT.sum(1) == 0).sum()} with none")
    )
    assert out.count("\nlabel ") == 3
    assert (facts["ignore_exif"], facts["labels"]["threshold"], facts["kind"]) == (True, 0.4, "multi")
    assert "top1" not in facts
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert [row["labels"] for row in rows[:2]] == ["", "red|blue"]
    assert float(rows[1]["blue"]) == pytest.approx(float(multi(PIXELS[1:2].astype("float32"))[0, 2]), rel=1e-4)
    rows = list(csv.DictReader((tmp_path / "per_label.csv").open()))
    assert [row["name"] for row in rows] == list(NAMES)
    assert Image.open(tmp_path / "labels.png").width > 300
    code, _, err = run(*arguments, "--threshold", 2, capsys=capsys)
    assert (code, "must lie between 0 and 1" in err, err.count("\n")) == (2, True, 1)


@pytest.mark.parametrize(
    ("outputs", "activation", "name", "message"),
    [
        (
            3,
            "softmax",
            "multi.csv",
            r"several of 3 labels.*, but model='cnn' gives probabilities of classes of which one",
        ),
        (3, "softmax", "numbers.csv", "24 images with a number each"),
        (3, "sigmoid", "numbers.csv", "but model='cnn' gives a probability for each label"),
        (1, "sigmoid", "multi.csv", "but model='cnn' tells two classes apart"),
        (1, None, "binary.csv", r"2 classes \('no', 'yes'\), but model='cnn' gives numbers that are not"),
        (2, "sigmoid", "multi.csv", "3 classes .* and the model 2"),
    ],
)
def test_data_of_another_kind(outputs: int, activation: str | None, name: str, message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(network(outputs, activation), folder / name)


def test_a_threshold_is_for_probabilities_of_labels(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"threshold=0.3 is for sigmoid outputs; model='cnn' has none"):
        evaluate(network(2, "softmax"), folder / "binary.csv", threshold=0.3)


def test_training_takes_what_it_is_told_and_no_numbers(folder: Path, tmp_path: Path, capsys: Any) -> None:
    arguments = ("--labels", "single", "--output", tmp_path / "run")
    code, _, err = run("train", folder / "multi.csv", *arguments, capsys=capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert "several of 3 labels" in err
    assert err.endswith("but training takes one class an image (probabilities by softmax)\n")
    code, _, err = run("train", folder / "numbers.csv", "--output", tmp_path / "run", capsys=capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert err.endswith("24 images with a number each (value); training takes one class an image or several labels\n")


def test_columns_with_one_label_each_are_classes(folder: Path) -> None:
    write(folder / "one.csv", ["file", *NAMES], np.eye(3, dtype=int)[np.arange(N) % 3].tolist())
    write(folder / "names.csv", ["file", "label"], [[NAMES[i % 3]] for i in range(N)])
    model = network(3, "softmax")
    one, names = evaluate(model, folder / "one.csv"), evaluate(model, folder / "names.csv", labels=NAMES)
    assert (one.top1, one.loss, one.classes) == (names.top1, names.loss, NAMES)


@given(data=st.data(), n=st.integers(1, 12))
@settings(max_examples=50, deadline=None)
def test_any_scores_and_labels(data: Any, n: int) -> None:
    values = data.draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=n, max_size=n))
    said = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    found = score_labels(np.array(values)[:, None], np.array(said)[:, None], 0.5)
    hits = sum(v > 0.5 and s for v, s in zip(values, said, strict=True))
    yes, there = sum(v > 0.5 for v in values), sum(said)
    assert found.precision[0] == pytest.approx(hits / yes if yes else np.nan, nan_ok=True)
    assert found.recall[0] == pytest.approx(hits / there if there else np.nan, nan_ok=True)
    assert found.accuracy[0] == pytest.approx(np.mean([(v > 0.5) == s for v, s in zip(values, said, strict=True)]))
    pairs = [(a > b) + (a == b) / 2 for a, s in zip(values, said, strict=True) if s
             for b, t in zip(values, said, strict=True) if not t]  # fmt: skip
    assert found.auc[0] == pytest.approx(np.mean(pairs) if pairs else np.nan, nan_ok=True)
    json.dumps(found.facts(), allow_nan=False)


def test_numbers_by_hand() -> None:
    found = score_numbers(np.array([[1.0, 5], [3, 5]]), np.array([[2.0, 4], [4, 4]]))
    assert (found.mae, found.rmse, found.r2) == (1, 1, 0)  # of the second number nothing varies
    assert found.facts()["each"]["r2"] == [0, None]


def test_a_listing_is_taken_too(multi: keras.Model, folder: Path) -> None:
    listing = read_listing(folder / "multi.csv")
    assert evaluate(multi, listing, limit=6).n == 6
