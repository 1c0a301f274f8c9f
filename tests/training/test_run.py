"""What a run trains, what it writes, and when it stops."""

import csv
import json
import sys
from dataclasses import replace
from datetime import datetime
from io import StringIO

import keras
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from keras_resnext.data import Listing, ValidationBatches
from keras_resnext.network.input_preprocessing import get_preprocessing
from keras_resnext.training import train
from keras_resnext.training.mistakes import find_mistakes
from keras_resnext.training.recipes import find_recipe
from keras_resnext.training.step import compile_model
from tests.training.small_runs import QUIET, RECIPE, build, make_session, weights


def test_a_model_that_gives_logits_learns_what_one_with_softmax_does(few):
    """`classifier_activation=None`, as many users of Keras have it."""
    images = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32")
    found = []
    for activation in ("softmax", None):
        compile_model(model := build(classifier_activation=activation), replace(RECIPE), 10)
        logs = [model.train_on_batch(images, np.eye(10)[:8], return_dict=True) for _ in range(2)]
        assert set(logs[0]) == {"loss", "top1", "top5", "plain_loss"}
        found.append([float(value) for row in logs for value in row.values()])
    np.testing.assert_allclose(*found, rtol=1e-4)
    with pytest.raises(ValueError, match="ends in 'relu'; it must end in softmax, or in none and give logits"):
        train(build(classifier_activation="relu"), *few, recipe=RECIPE, output="nowhere", console=QUIET)


def test_what_a_run_writes(few, tmp_path, monkeypatch):
    reads = []
    read = Listing.read
    monkeypatch.setattr(Listing, "read", lambda self, i: (self is few[0] and reads.append(i)) or read(self, i))
    result = train(
        build(), *few, recipe=RECIPE, output=tmp_path, console=(told := Console(file=StringIO(), width=200)),
        arguments={"model": "small"}, command={"data": "digits"}, cache=True,
    )  # fmt: skip
    assert 0 < len(reads) == len(set(reads))  # once in all epochs
    assert "CPU, float32, step not compiled by XLA.\n" in told.file.getvalue()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best.keras", "checkpoint.npz", "curves.png", "history.csv", "labels.txt", "last.keras", "run.json",
    ]  # fmt: skip
    with open(tmp_path / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[result.epoch - 1]["val_top1"]) == pytest.approx(result.top1)
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["arguments"] == {"model": "small"}
    assert run["command"] == {"data": "digits"}
    assert (run["device"], run["policy"], run["xla"], run["validation_size"]) == ("CPU", "float32", False, 8)
    assert len(run["weights"]) == 64
    assert run["seed"] == 0
    assert (run["state"], run["lengthened"]) == ("finished", [])
    assert datetime.fromisoformat(run["started"]) <= datetime.fromisoformat(run["ended"])
    assert datetime.fromisoformat(run["ended"]).tzinfo
    assert {"python", "keras_resnext", "keras", keras.backend.backend()} <= run["versions"].keys()
    assert run["results"] == {
        "metric": "val_top1", "best": result.top1, "best_epoch": result.epoch, "epochs": 3,
        "seconds": pytest.approx(sum(row["seconds"] for row in result.history)), "last": result.history[-1],
    }  # fmt: skip
    assert run["recipe"]["batch_size"] == 32
    assert run["data"]["images"] == len(few[0])
    assert Image.open(tmp_path / "curves.png").width > 800
    assert (tmp_path / "labels.txt").read_text().split() == list("0123456789")
    loaded = keras.saving.load_model(result.best)
    assert not getattr(loaded, "optimizer", None)
    images = np.concatenate([batch[0] for batch in (ValidationBatches(
        few[1], get_preprocessing(loaded), size=8, batch_size=len(few[1])),)[0]])  # fmt: skip
    assert (loaded.predict(images, verbose=0).argmax(1) == few[1].labels).mean() == pytest.approx(result.top1)


def test_tensorboard_reads_what_was_trained(few, no_curves, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = find_recipe("cifar", epochs=2, batch_size=64, size=8, flip=0.0, crop_padding=1)
    result = train(build(), *few, recipe=recipe, output=tmp_path / "run", tensorboard=True, console=QUIET)
    boards = {}
    for name in ("train", "validation"):
        (board := EventAccumulator(str(tmp_path / "run/tensorboard" / name))).Reload()
        boards[name] = board
    shared = {"epoch_loss", "epoch_top1", "epoch_top5"}
    assert set(boards["train"].Tags()["tensors"]) == shared | {"epoch_learning_rate", "epoch_seconds"}
    assert set(boards["validation"].Tags()["tensors"]) == shared | {"mistakes"}
    for run, tag, name in (("train", "epoch_loss", "loss"), ("validation", "epoch_loss", "val_loss")):
        events = boards[run].Tensors(tag)
        assert [event.step for event in events] == [1, 2]
        values = [event.tensor_proto.float_val[0] for event in events]
        assert values == pytest.approx([row[name] for row in result.history], rel=1e-6)
    (shown,) = boards["validation"].Tensors("mistakes")
    width, height, png = shown.tensor_proto.string_val
    assert png == (tmp_path / "run/mistakes.png").read_bytes()
    assert Image.open(tmp_path / "run/mistakes.png").size == (int(width), int(height))

    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.event_file_writer", None)
    with pytest.raises(ImportError, match=r"needs TensorBoard.*pip install 'keras_resnext\[tensorboard\]'"):
        train(build(), *few, recipe=recipe, output=tmp_path / "none", tensorboard=True, console=QUIET)
    assert not (tmp_path / "none").exists()


def test_mistakes_are_the_wrong_ones_and_the_worst_come_first(few):
    model = build()
    held_out = ValidationBatches(few[1], get_preprocessing(model), size=8, batch_size=16)
    found = find_mistakes(model, held_out, 5)
    scores = model.predict(held_out, verbose=0)[: len(few[1])]
    right = scores[np.arange(len(few[1])), few[1].labels]
    wrong = scores.argmax(1) != few[1].labels
    assert len(found) == 5
    assert [right[each.image] for each in found] == sorted(right[wrong])[:5]
    assert all(wrong[each.image] and each.truth == few[1].labels[each.image] for each in found)
    assert [each.probability for each in found] == pytest.approx([scores[each.image].max() for each in found])


def test_the_head_learns_first(few, no_curves, tmp_path):
    recipe = replace(RECIPE, epochs=1, head_epochs=1, ema=0.0)
    model = build()
    before = dict(zip([v.path for v in model.weights], weights(model), strict=True))
    train(model, few[0], recipe=recipe, output=tmp_path / "head", console=QUIET)
    changed = {v.path for v in model.weights if not np.array_equal(keras.ops.convert_to_numpy(v), before[v.path])}
    assert changed == {"fc/kernel", "fc/bias"}
    assert len(model.trainable_weights) > 2  # as it was
    train(model, few[0], recipe=replace(recipe, epochs=2), output=tmp_path / "all", console=QUIET)
    changed = {v.path for v in model.weights if not np.array_equal(keras.ops.convert_to_numpy(v), before[v.path])}
    assert "conv1/kernel" in changed


def test_frozen_stages_stay_and_accumulation_and_clipping_run(few, no_curves, tmp_path):
    recipe = replace(RECIPE, epochs=1, accumulate=2, clip_norm=1.0, optimizer="adamw", decay_norm_and_bias=False)
    model = build(frozen_stages=1)
    stem = keras.ops.convert_to_numpy(model.get_layer("conv1").kernel)
    result = train(model, *few, recipe=recipe, output=tmp_path, console=QUIET)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(model.get_layer("conv1").kernel), stem)
    assert np.isfinite(result.history[0]["loss"])


def test_patience_begins_where_the_whole_network_learns(tmp_path):
    run = make_session(replace(RECIPE, epochs=9, head_epochs=4, patience=2), tmp_path)
    run.best_epoch = 1
    for epoch in range(1, 6):
        run.history.append({"epoch": epoch})
        assert not run.is_finished(), epoch
    run.history.append({"epoch": 6})
    assert run.is_finished()


def test_training_stops_where_validation_gets_no_better(few, no_curves, tmp_path):
    recipe = replace(RECIPE, epochs=9, patience=2, learning_rate=1e-9)
    result = train(build(), *few, recipe=recipe, output=tmp_path, console=QUIET)
    assert len(result.history) < 9


def test_a_backend_that_cannot_train_is_named(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(RuntimeError, match="training needs Keras on TensorFlow or JAX, not torch"):
        train(None, None, recipe=RECIPE, output="nowhere")


def test_models_and_images_must_fit(few, tmp_path):
    with pytest.raises(ValueError, match="has 10 classes, the images have 11"):
        train(build(), replace(few[0], classes=(*"abcdefghijk",)), recipe=RECIPE, output=tmp_path, console=QUIET)
    with pytest.raises(ValueError, match="same classes as training"):
        train(build(), few[0], replace(few[1], classes=(*"abcdefghij",)), recipe=RECIPE, output=tmp_path)
    with pytest.raises(ValueError, match=r"batch_size=999 must lie in 1\.\."):
        train(build(), *few, recipe=replace(RECIPE, batch_size=999), output=tmp_path, console=QUIET)
