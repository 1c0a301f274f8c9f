"""Several labels an image, two classes, weights and balance: what is read off the data, learned, measured and said."""

import csv
import json
import re
from dataclasses import replace

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resnext import cli, evaluate
from keras_resnext.data import Groups, Listing, Plan, find_kind, read_listing, split_listing
from keras_resnext.digits import encode_png, load_digits
from keras_resnext.evaluation.label_scores import score_labels
from keras_resnext.training import find_recipe, train
from keras_resnext.training.class_weights import weights_of
from keras_resnext.training.label_metrics import MeanAveragePrecision, MicroF1, label_accuracy
from keras_resnext.training.setup import find_images
from keras_resnext.training.tasks import TASKS
from tests.training.small_runs import QUIET, RECIPE, SMALL, build

pytestmark = pytest.mark.usefixtures("no_curves")


def run(*arguments):
    with pytest.raises(SystemExit) as end:
        cli.main([str(argument) for argument in arguments])
    return end.value.code or 0


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A list of images of two digits each, some of none, with the labels that they show."""
    folder = tmp_path_factory.mktemp("pairs")
    digits, labels = load_digits()
    lines = ["path,labels"]
    for i in range(0, 240, 2):
        both = [digits[i], digits[i + 1]] if i % 20 else [np.zeros((8, 8))] * 2
        (folder / f"{i}.png").write_bytes(encode_png(np.hstack(both)))
        lines.append(f"{i}.png,{'|'.join(map(str, sorted({labels[i], labels[i + 1]}))) if i % 20 else ''}")
    (folder / "list.csv").write_text("\n".join(lines))
    return folder


def test_several_labels_from_a_list_to_an_evaluation(pairs, tmp_path, capsys):
    """One command with a list; what evaluates, predicts and exports afterwards knows the kind by the last layer."""
    small = [*SMALL, "--image-size", "8", "--epochs", "1", "--batch-size", "16"]
    assert run("train", pairs / "list.csv", "--output", tmp_path / "out", "--set", "momentum=0.8", *small) == 0
    said = capsys.readouterr().out
    assert "10 labels, 1" in said
    assert "images with several of 10 labels" in said
    assert "with none" in said
    assert "Learning any number of labels an image (a probability for each, by sigmoid); loss bce, best by map." in said
    assert "mAP" in said.splitlines()[-1]
    assert "val_map" in next(line for line in said.splitlines() if line.startswith("epoch 1/1"))
    (row,) = csv.DictReader((tmp_path / "out" / "history.csv").open())
    assert {"loss", "map", "accuracy", "f1", "val_loss", "val_map", "val_accuracy", "val_f1"} <= row.keys()
    record = json.loads((tmp_path / "out" / "run.json").read_text())["recipe"]
    assert (record["loss"], record["momentum"]) == ("bce", 0.8)

    model = keras.saving.load_model(tmp_path / "out" / "best.keras")
    assert model.layers[-1].activation is keras.activations.sigmoid
    _, held_out = find_images(pairs / "list.csv", None, 0)
    with (tmp_path / "held.csv").open("w") as file:
        lines = [f"{name},{'|'.join(np.flatnonzero(hot).astype(str))}" for name, hot in
                 zip(held_out.files, held_out.labels, strict=True)]  # fmt: skip
        file.write("\n".join(["path,labels", *lines]))
    found = evaluate(model, tmp_path / "held.csv", labels=list(held_out.classes))
    assert found.label_scores is not None
    assert float(row["val_map"]) == pytest.approx(found.label_scores.mean_average_precision, abs=2e-3)
    assert float(row["val_accuracy"]) == pytest.approx(found.label_scores.mean_accuracy, abs=1e-6)
    assert float(row["val_f1"]) == pytest.approx(found.label_scores.micro_f1, abs=1e-6)
    assert float(row["val_loss"]) == pytest.approx(found.loss, rel=1e-4)


def test_measures_are_those_of_the_evaluation():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(300, 4)).astype("float32") * 2
    truths = (rng.random((300, 4)) < 1 / (1 + np.exp(-logits))) & [True, True, True, False]
    expected = score_labels(1 / (1 + np.exp(-logits)), truths)
    weights = np.ones(300)
    for scores, of_logits in ((logits, True), (1 / (1 + np.exp(-logits)), False)):
        metric, f1 = MeanAveragePrecision(4, of_logits), MicroF1(of_logits)
        for rows in (slice(0, 100), slice(100, 300)):
            metric.update_state(truths[rows], scores[rows], weights[rows])
            f1.update_state(truths[rows].astype("float32"), scores[rows], weights[rows])
        metric.update_state(np.ones((2, 4)), scores[:2], np.zeros(2))  # what fills up the last batch
        assert float(metric.result()) == pytest.approx(expected.mean_average_precision, abs=2e-3)
        assert float(f1.result()) == pytest.approx(expected.micro_f1, abs=1e-6)
        accuracy = keras.ops.convert_to_numpy(label_accuracy(truths.astype("float32"), scores, of_logits)).mean()
        assert accuracy == pytest.approx(expected.mean_accuracy, abs=1e-6)
    again = MeanAveragePrecision.from_config(metric.get_config())
    assert (again.labels, again.from_logits) == (4, False)


def multi(labels, names="abc"):
    labels = np.asarray(labels, "uint8")
    return Listing(tuple(f"{i}.png" for i in range(len(labels))), labels, tuple(names), kind="multi")


def test_the_kind_is_read_off_the_data(tmp_path):
    assert find_kind(multi([[1, 1, 0], [0, 0, 0]])) == ("multi", "")
    kind, why = find_kind(multi([[1, 0, 0], [0, 1, 0]]))
    assert (kind, why) == ("single", "Each image has one label: they are taken for classes.")
    assert find_kind(multi([[1], [1], [0]], "a"))[0] == "multi"
    for name, files in (("a", range(60)), ("b", range(60, 110))):
        (tmp_path / "many" / name).mkdir(parents=True)
        for i in files:
            Image.new("RGB", (9, 9), (i, i, i)).save(tmp_path / "many" / name / f"{i}.png")
    assert find_kind(read_listing(tmp_path / "many")) == ("single", "")
    (tmp_path / "many" / "b" / "0.png").symlink_to(tmp_path / "many" / "a" / "0.png")
    assert find_kind(read_listing(tmp_path / "many")) == ("single", "1 of 110 images are in several classes.")
    (tmp_path / "many" / "b" / "1.png").hardlink_to(tmp_path / "many" / "a" / "1.png")
    kind, why = find_kind(read_listing(tmp_path / "many"))
    assert (kind, why) == ("multi", "2 of 110 images are in several classes: they have several labels each.")
    training, held_out = find_images(tmp_path / "many", "0.2", 0)
    assert (training.kind, len(training) + len(held_out)) == ("multi", 110)
    assert find_images(tmp_path / "many", "none", 0, "single")[0].kind == "single"


def test_the_split_holds_out_of_each_label():
    rng = np.random.default_rng(0)
    listing = multi(np.column_stack([rng.random(400) < 0.5, rng.random(400) < 0.05, np.arange(400) == 7]))
    training, held_out = split_listing(listing, 0.2, 0)
    assert len(training) + len(held_out) == 400
    assert len(held_out) == pytest.approx(80, abs=3)
    assert held_out.labels[:, 1].mean() == pytest.approx(listing.labels[:, 1].mean(), abs=0.01)
    assert training.labels[:, 2].sum() == 1  # nothing to learn it from otherwise
    with pytest.raises(ValueError, match="1 images are too few to hold out 20%"):
        split_listing(multi([[1, 1, 0]]), 0.2, 0)


@pytest.mark.parametrize("repeats", [1, 2])
def test_balanced_epochs_draw_each_class_equally_often(repeats):
    labels = np.repeat([0, 1, 2], [500, 10, 90])
    listing = Listing(("x",) * 600, labels, ("a", "b", "c", "empty"))
    plan = Plan(600, 60, 3, repeats, groups=Groups.of(listing))
    epochs = [np.concatenate([plan.step(e * 10 + i).indices for i in range(10)]) for e in range(2)]
    for indices in epochs:
        counts = np.bincount(labels[indices], minlength=3)
        assert counts.tolist() == [200, 200, 200] if repeats == 1 else (abs(counts - 200) < 40).all()
    if repeats == 1:
        assert set(np.bincount(epochs[0])[500:510]) == {20}  # each of the rare ones
        assert np.bincount(epochs[0])[:500].max() == 1
        assert set(epochs[0]) != set(epochs[1])
    again = Plan(600, 60, 3, repeats, groups=Groups.of(listing))
    assert again.step(13).indices.tolist() == plan.step(13).indices.tolist()
    of_labels = Groups.of(multi([[1, 1, 0], [0, 0, 0], [1, 0, 0]]))
    assert [members.tolist() for members in of_labels.members] == [[0, 2], [0], [1]]


def test_weights_of_classes(tmp_path):
    listing = Listing(("x",) * 6, np.array([0, 0, 0, 0, 1, 1]), ("cat", "dog", "none"))
    assert weights_of("balanced", listing) == (0.75, 1.5, 1.0)
    assert weights_of("balanced", multi([[1, 0, 1], [0, 0, 1], [0, 0, 1]])) == (2.0, 1.0, 1.0)
    (tmp_path / "w.csv").write_text("class,weight\ndog,3\n")
    assert weights_of(str(tmp_path / "w.csv"), listing) == (1.0, 3.0, 1.0)
    (tmp_path / "w.json").write_text('{"cat": 2, "none": 0}')
    assert weights_of(str(tmp_path / "w.json"), listing) == (2.0, 1.0, 0.0)
    for text, message in (
        ('{"cta": 2}', "names 'cta', which is no class of the data; did you mean 'cat'"),
        ('{"cat": -1}', "gives 'cat' the weight -1"),
        ('{"cat": NaN}', "gives 'cat' the weight nan"),
        ('{"cat": "x"}', "gives 'cat' the weight 'x'"),
        ("[1]", "must hold a class name and a weight a line"),
        ("{", "must hold a class name and a weight a line"),
    ):
        (tmp_path / "w.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            weights_of(str(tmp_path / "w.json"), listing)
    with pytest.raises(FileNotFoundError):
        weights_of(str(tmp_path / "absent.csv"), listing)
    with pytest.raises(ValueError, match=r"must be balanced, or a \.csv or \.json"):
        weights_of("balancd", listing)
    with pytest.raises(ValueError, match="must be 3 numbers from 0 on"):
        weights_of((1.0, 2.0), listing)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"labels": np.full(200, 10)}, {}, r"training\.labels has 10 for image .* it must lie in 0\.\.9"),
        ({"labels": np.full(200, np.nan)}, {}, "must be whole numbers"),
        ({"labels": np.zeros((200, 3), "uint8")}, {}, r"has shape \(200, 3\)"),
        ({"labels": np.ones((200, 10), "uint8"), "kind": "multi"}, {}, "for several labels it must end in sigmoid"),
        ({"labels": np.ones((200, 10)), "kind": "raw"}, {}, "numbers each .* but model=.*learns one class an image"),
        ({}, {"loss": "cross_entropy", "activation": "sigmoid"}, "loss='cross_entropy' is for one class an image"),
        ({}, {"progressive_size": 4}, "progressive_size=4 needs a model of images of any size"),
        ({}, {"class_weights": (1.0,)}, "must be 10 numbers from 0 on"),
    ],
)
def test_what_cannot_be_learned_is_told(few, tmp_path, changes, options, message):
    listing = replace(few[0].select(range(200)), **changes) if len(few[0]) >= 200 else None
    model = build(classifier_activation=options.pop("activation", "softmax"))
    with pytest.raises(ValueError, match=message):
        train(model, listing, recipe=replace(RECIPE, **options), output=tmp_path / "out", console=QUIET)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n0.png,1\n1.png,nan\n2.png,0\n", "row 2 has NaN as a label"),
        ("path,value\n0.png,1.5\n1.png,2\n2.png,0\n", "numbers? each .*training takes one class an image or several"),
        ("path,label\n0.png,a\n1.png,a\n", "one class alone, 'a'"),
        ("path,a,b\n0.png,1,\n1.png,0,1\n", "row 1 has '' in column 'b'"),
        ("path,labels\n0.png,\n1.png,\n", "no image has a label"),
    ],
)
def test_lists_that_cannot_be_learned_are_one_line(tmp_path, capsys, text, message):
    for i in range(3):
        Image.new("RGB", (9, 9)).save(tmp_path / f"{i}.png")
    (tmp_path / "list.csv").write_text(text)
    assert run("train", tmp_path / "list.csv", "--output", tmp_path / "out", *SMALL) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert not (tmp_path / "out").exists()


def test_settings_are_checked(digits, tmp_path, capsys):
    for setting, message in (
        ("momentun=1", "did you mean momentum?"),
        ("nesterov=1", "nesterov=1 must be true or false"),
        ("momentum", "must be NAME=VALUE"),
    ):
        assert run("train", digits, "--output", tmp_path / "out", "--set", setting, *SMALL) == 2
        assert message in capsys.readouterr().err
    assert find_recipe("cifar", crop_ratio=[1, 2]).augmentation.crop_ratio == (1, 2)
    assert TASKS["multi"].choose_loss(None) == "bce"
