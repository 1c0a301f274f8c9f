"""Training runs: recipes, optimizer, interruption, resumption, and what can go wrong."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from io import StringIO

import keras
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from keras_resnext import ResNeXt, cli
from keras_resnext.data import Listing, Plan, ValidationBatches, check, read_listing
from keras_resnext.digits import write_folders
from keras_resnext.network.input_preprocessing import get_preprocessing
from keras_resnext.training import session, train
from keras_resnext.training.failures import explain_failure
from keras_resnext.training.optimizers import SGD, Schedule, make_schedule
from keras_resnext.training.options import RunOptions
from keras_resnext.training.recipes import RECIPES, Recipe, find_recipe
from keras_resnext.training.setup import check_options
from keras_resnext.training.state import SavedState, TrainingDivergedError, save_state
from keras_resnext.training.step import CrossEntropy, compile_model

QUIET = Console(quiet=True)
SMALL = ("--model", "resnext29_8x64d", "--option", "blocks=[1,1]", "--option", "strides=[2,2]")
SMALL += ("--option", "dilations=[1,1]", "--option", "num_stages=2", "--option", "groups=4")
SMALL += ("--option", "width_per_group=2", "--option", "stem_channels=8", "--option", "base_channels=8")
SMALL += ("--recipe", "cifar", "--image-size", "8", "--flip", "0", "--crop-padding", "1")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    root = tmp_path_factory.mktemp("digits")
    write_folders(root)
    return root


@pytest.fixture(scope="module")
def few(digits):
    """Two hundred digits, and fifty to validate on."""
    whole, held_out = read_listing(digits / "train"), read_listing(digits / "val")
    return whole.select(range(0, len(whole), 7)), held_out.select(range(0, len(held_out), 7))


def build(**options):
    keras.utils.set_random_seed(1)
    options = {"blocks": (1, 1), "strides": (2, 2), "dilations": (1, 1), "num_stages": 2, "base_channels": 8} | options
    return ResNeXt(
        groups=4, width_per_group=2, stem="cifar", stem_channels=8, classes=10, input_shape=(8, 8, 3), **options
    )


RECIPE = find_recipe("cifar", epochs=3, batch_size=32, size=8, flip=0.0, crop_padding=1, ema=0.3, mixup=0.2)


def weights(model):
    return [keras.ops.convert_to_numpy(weight) for weight in model.weights]


def test_sgd_is_pytorchs():
    for options in ({}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}):
        start = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
        theirs, ours = torch.nn.Parameter(torch.tensor(start)), keras.Variable(start, name="kernel")
        reference = torch.optim.SGD([theirs], lr=0.1, weight_decay=0.05, **options)
        optimizer = SGD(0.1, l2=0.05, **options)
        optimizer.build([ours])
        for i in range(12):
            rate = 0.1 if i < 6 else 0.01
            reference.param_groups[0]["lr"] = optimizer.learning_rate = rate
            gradient = np.cos(start * i).astype("float32")
            theirs.grad = torch.tensor(gradient)
            reference.step()
            optimizer.apply([keras.ops.convert_to_tensor(gradient)])
        np.testing.assert_allclose(keras.ops.convert_to_numpy(ours), theirs.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_decay_leaves_norms_and_biases_alone_if_told():
    variables = [keras.Variable(np.ones(2, "float32"), name=name) for name in ("kernel", "gamma", "beta", "bias")]
    optimizer = SGD(1.0, l2=0.1, decay_norm_and_bias=False)
    optimizer.build(variables)
    optimizer.apply([keras.ops.zeros(2)] * 4)
    values = [float(keras.ops.convert_to_numpy(variable)[0]) for variable in variables]
    np.testing.assert_allclose(values, [0.9, 1, 1, 1], rtol=1e-6)
    assert SGD.from_config(optimizer.get_config()).decay_norm_and_bias is False


def test_schedules():
    paper = Schedule(0.1, 10, 100, "step", (30, 60, 90))
    rates = [float(paper(epoch * 10 + 9)) for epoch in (0, 29, 30, 59, 60, 89, 90, 99)]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 1e-4, 1e-4], rtol=1e-5)
    cosine = Schedule(0.5, 10, 12, "cosine", warmup_epochs=2)
    np.testing.assert_allclose(
        [float(cosine(step)) for step in (0, 10, 20, 70, 120)], [0.005, 0.2525, 0.5, 0.25, 0], atol=1e-6
    )
    again = Schedule.from_config(cosine.get_config())
    assert float(again(33)) == float(cosine(33))
    with pytest.raises(ValueError, match="schedule='linear' must be one of step, cosine, constant"):
        Schedule(0.1, 10, 10, "linear")
    with pytest.raises(ValueError, match="warmup_epochs=10"):
        Schedule(0.1, 10, 10, warmup_epochs=10)


def test_recipes_are_those_of_the_references():
    paper = find_recipe("paper")
    assert paper == RECIPES["mmcls"] == RECIPES["paper"]
    assert (paper.peak_rate, paper.momentum, paper.weight_decay, paper.epochs) == (0.1, 0.9, 1e-4, 100)
    assert find_recipe("paper", batch_size=64).peak_rate == pytest.approx(0.025)
    assert find_recipe("paper", batch_size=64, accumulate=4).peak_rate == pytest.approx(0.1)
    assert find_recipe("cifar", epochs=30).milestones == (15, 22)
    assert find_recipe("paper", epochs=1).milestones == (1, 1, 1)  # none is from the start on
    assert find_recipe("finetune", epochs=1).head_epochs == 1
    stepped = find_recipe("finetune", schedule="step", milestones=(5,), head_epochs=2, warmup_epochs=0)
    schedule = make_schedule(stepped, 10)
    assert float(schedule(29)) == pytest.approx(10 * float(schedule(30)))
    modern = find_recipe("modern", flip=0.0)
    assert (modern.augmentation.flip, modern.augmentation.cutmix, modern.ema) == (0.0, 1.0, 0.04)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("best", {}, "recipe='best' must be one of paper, mmcls"),
        ("paper", {"epochs": 0}, "epochs=0 must be at least 1"),
        ("paper", {"learning_rate": 0}, "learning_rate=0 must be above 0"),
        ("paper", {"optimizer": "lion"}, "sgd or adamw"),
        ("paper", {"label_smoothing": 1.0}, "below 1"),
        ("paper", {"head_epochs": 101}, "head_epochs=101"),
        ("paper", {"clip_norm": -1}, "clip_norm=-1"),
        ("paper", {"clip_norm": float("nan")}, "clip_norm=nan must be a finite number"),
        ("paper", {"schedule": "linear"}, "schedule='linear' must be one of step, cosine, constant"),
        ("finetune", {"schedule": "step"}, "schedule='step' needs milestones"),
        ("paper", {"milestones": (30, 20)}, "in ascending order"),
        ("paper", {"milestones": (0,)}, "epochs from 1 on"),
        ("paper", {"weight_decay": -1}, "weight_decay=-1"),
        ("paper", {"magic": 1}, "magic: no field of a recipe"),
    ],
)
def test_bad_recipes(name, changes, message):
    with pytest.raises(ValueError, match=message):
        find_recipe(name, **changes)


def test_cross_entropy_is_pytorchs_and_teaches_the_hopeless():
    logits = np.array([[30.0, -30, 0], [1, 2, 3]], "float32")
    targets = np.array([[0, 1, 0], [0.2, 0.8, 0]], "float32")
    probabilities = keras.ops.softmax(logits)
    expected = torch.nn.CrossEntropyLoss(label_smoothing=0.1)(torch.tensor(logits), torch.tensor(targets)).item()
    assert float(CrossEntropy(0.1)(targets, probabilities)) == pytest.approx(expected, rel=1e-5)
    assert float(CrossEntropy(0.1, from_logits=True)(targets, logits)) == pytest.approx(expected, rel=1e-5)
    again = CrossEntropy.from_config(CrossEntropy(0.1, True).get_config())
    assert (again.label_smoothing, again.from_logits) == (0.1, True)


def test_a_model_that_gives_logits_learns_what_one_with_softmax_does(few):
    """`classifier_activation=None`, as many users of Keras have it."""
    images = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32")
    found = []
    for activation in ("softmax", None):
        compile_model(model := build(classifier_activation=activation), replace(RECIPE), 10)
        logs = [model.train_on_batch(images, np.eye(10)[:8], return_dict=True) for _ in range(2)]
        assert set(logs[0]) == {"loss", "top1", "top5", "cross_entropy"}
        found.append([float(value) for row in logs for value in row.values()])
    np.testing.assert_allclose(*found, rtol=1e-4)
    with pytest.raises(ValueError, match="ends in 'sigmoid'; it must end in softmax, or in none and give logits"):
        train(build(classifier_activation="sigmoid"), *few, recipe=RECIPE, output="nowhere", console=QUIET)


class StopError(Exception):
    pass


def test_a_run_that_is_cut_off_ends_in_the_same_weights(few, tmp_path, monkeypatch):
    """In the middle of an epoch, with moving average, mixing and drop path; the history too."""
    options = {"recipe": RECIPE, "console": QUIET, "save_steps": 4}
    whole = build(drop_path_rate=0.2)
    expected = train(whole, *few, output=tmp_path / "whole", **options)

    saves = []

    def cut(*arguments):
        save_state(*arguments)
        saves.append(arguments)
        if len(saves) in (2, 5):
            raise StopError

    monkeypatch.setattr(session, "save_state", cut)
    for _ in range(2):
        with pytest.raises(StopError):
            train(build(drop_path_rate=0.2), *few, output=tmp_path / "cut", **options)
    assert SavedState(tmp_path / "cut" / "checkpoint.npz").state["inside"]
    resumed = build(drop_path_rate=0.2)
    result = train(resumed, *few, output=tmp_path / "cut", **options)
    for a, b in zip(weights(whole), weights(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    for before, after in zip(expected.history, result.history, strict=True):
        assert before | {"seconds": 0} == after | {"seconds": 0}

    leftovers = [".0123456789ab.checkpoint.npz", ".0123456789ab.best.keras"]
    for name in (*leftovers, ".checkpoint.npz.other", "best.0123456789ab.keras"):
        (tmp_path / "cut" / name).touch()
    run = json.loads((tmp_path / "cut" / "run.json").read_text())
    run["versions"]["keras"], run["weights"] = "3.0", "those it began with"
    (tmp_path / "cut" / "run.json").write_text(json.dumps(run))
    options["console"] = told = Console(file=StringIO(), width=200)
    again = train(build(drop_path_rate=0.2), *few, output=tmp_path / "cut", **options)
    assert again.history == result.history  # a finished run trains no more
    assert "Finished at epoch 3." in told.file.getvalue()
    assert f"Since the run began: keras 3.0 is now {keras.__version__}." in told.file.getvalue()
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["weights"] == "those it began with"
    names = {path.name for path in (tmp_path / "cut").iterdir()}
    assert names.isdisjoint(leftovers)
    assert {".checkpoint.npz.other", "best.0123456789ab.keras"} <= names
    with pytest.raises(ValueError, match="other arguments: validation_size differ"):
        train(build(drop_path_rate=0.2), *few, output=tmp_path / "cut", validation_size=9, **options)


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
    assert run["recipe"]["batch_size"] == 32
    assert run["data"]["images"] == len(few[0])
    assert Image.open(tmp_path / "curves.png").width > 800
    assert (tmp_path / "labels.txt").read_text().split() == list("0123456789")
    loaded = keras.saving.load_model(result.best)
    assert not getattr(loaded, "optimizer", None)
    images = np.concatenate([batch[0] for batch in (ValidationBatches(
        few[1], get_preprocessing(loaded), size=8, batch_size=len(few[1])),)[0]])  # fmt: skip
    assert (loaded.predict(images, verbose=0).argmax(1) == few[1].labels).mean() == pytest.approx(result.top1)


def test_tensorboard_reads_what_was_trained(few, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = find_recipe("cifar", epochs=2, batch_size=64, size=8, flip=0.0, crop_padding=1)
    result = train(build(), *few, recipe=recipe, output=tmp_path / "run", tensorboard=True, console=QUIET)
    (board := EventAccumulator(str(tmp_path / "run/tensorboard"))).Reload()
    tags = board.Tags()["tensors"]
    assert {"loss/train", "loss/val", "top1/train", "top1/val", "top5/val", "learning_rate", "seconds"} <= set(tags)
    for tag, name in (("loss/train", "loss"), ("top1/val", "val_top1"), ("learning_rate", "learning_rate")):
        events = board.Tensors(tag)
        assert [event.step for event in events] == [1, 2]
        values = [event.tensor_proto.float_val[0] for event in events]
        assert values == pytest.approx([row[name] for row in result.history], rel=1e-6)

    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    with pytest.raises(ImportError, match=r"needs TensorBoard.*pip install 'keras_resnext\[tensorboard\]'"):
        train(build(), *few, recipe=recipe, output=tmp_path / "none", tensorboard=True, console=QUIET)
    assert not (tmp_path / "none").exists()


def test_the_head_learns_first(few, tmp_path):
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


def test_frozen_stages_stay_and_accumulation_and_clipping_run(few, tmp_path):
    recipe = replace(RECIPE, epochs=1, accumulate=2, clip_norm=1.0, optimizer="adamw", decay_norm_and_bias=False)
    model = build(frozen_stages=1)
    stem = keras.ops.convert_to_numpy(model.get_layer("conv1").kernel)
    result = train(model, *few, recipe=recipe, output=tmp_path, console=QUIET)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(model.get_layer("conv1").kernel), stem)
    assert np.isfinite(result.history[0]["loss"])


@pytest.mark.parametrize("part", ["training", "validation", "python"])
def test_a_image_that_vanishes_is_named(few, tmp_path, monkeypatch, part):
    """In the middle of a run; with tf.data, which says no name, in validation, and with Pillow alone."""
    gone = shutil.copy(few[0].files[0], tmp_path / "gone.png")
    place = 1 if part == "validation" else 0
    lists = [*few]
    lists[place] = replace(few[place], files=(*few[place].files[:-1], str(gone)))
    run = session.Session.run
    monkeypatch.setattr(session.Session, "run", lambda *arguments: gone.unlink() or run(*arguments))
    recipe = replace(RECIPE, epochs=1, ema=0.0, batch_size=len(few[0]))
    engine = "python" if part == "python" else "tf.data"
    with pytest.raises(RuntimeError) as error:
        train(build(), *lists, recipe=recipe, output=tmp_path / "out", engine=engine, console=QUIET)
    assert str(error.value) == (
        f"image {str(gone)!r} can be read no more: No such file or directory; nothing was saved before"
    )


def test_a_batch_too_large_for_the_device_is_told(few, tmp_path):
    tf = pytest.importorskip("tensorflow")
    session_ = make_session(RECIPE, tmp_path)
    for error in (tf.errors.ResourceExhaustedError(None, None, "OOM when"), RuntimeError("RESOURCE_EXHAUSTED: Out")):
        told = explain_failure(error, session_, *few)
        assert "too little memory for batches of 32 images: give a smaller batch_size" in str(told)
    told = explain_failure(tf.errors.UnknownError(None, None, "first\nsecond"), session_, *few)
    assert str(told) == "TensorFlow failed: first; nothing was saved before"
    assert explain_failure(KeyError("a mistake of ours"), session_, *few) is None


def make_session(recipe, folder):
    return session.Session(build(), Plan(200, 32, 0), recipe, folder, QUIET, RunOptions())


def test_patience_begins_where_the_whole_network_learns(tmp_path):
    run = make_session(replace(RECIPE, epochs=9, head_epochs=4, patience=2), tmp_path)
    run.best_epoch = 1
    for epoch in range(1, 6):
        run.history.append({"epoch": epoch})
        assert not run.is_finished(), epoch
    run.history.append({"epoch": 6})
    assert run.is_finished()


def test_a_backend_that_cannot_train_is_named(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(RuntimeError, match="training needs Keras on TensorFlow or JAX, not torch"):
        train(None, None, recipe=RECIPE, output="nowhere")


def test_training_stops_where_validation_gets_no_better(few, tmp_path):
    recipe = replace(RECIPE, epochs=9, patience=2, learning_rate=1e-9)
    result = train(build(), *few, recipe=recipe, output=tmp_path, console=QUIET)
    assert len(result.history) < 9


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_state(few, tmp_path):
    recipe = replace(RECIPE, epochs=1, ema=0.0)
    train(build(), *few, recipe=recipe, output=tmp_path, console=QUIET)
    with pytest.raises(ValueError, match=r"holds a run with other arguments: recipe\.learning_rate differ"):
        train(build(), *few, recipe=replace(recipe, learning_rate=1.0), output=tmp_path, console=QUIET)

    model = build()
    model.get_layer("fc").kernel.assign(np.full((64, 10), np.nan))
    with pytest.raises(TrainingDivergedError, match=r"the loss became nan in epoch 1, step 1 of 6 .*nothing was saved"):
        train(model, *few, recipe=recipe, output=tmp_path / "other", console=QUIET)
    assert not (tmp_path / "other" / "checkpoint.npz").exists()


@pytest.mark.parametrize(
    ("rate", "options", "message"),
    [
        (1e40, {}, "conv1/kernel became NaN or infinite in epoch 1, step 1 of 1"),
        (1e40, {"save_steps": 1}, "conv1/kernel became NaN or infinite in epoch 1, step 1 of 2"),
        (1e25, {}, "the validation loss became nan in epoch 1, step 1 of 1"),
    ],
)
def test_what_the_last_update_broke_is_never_written(few, tmp_path, rate, options, message):
    """The loss of a step is that before its update: no further step would tell."""
    size = len(few[0]) // 2 if options else len(few[0])
    recipe = replace(RECIPE, epochs=1, ema=0.0, batch_size=size, learning_rate=rate)
    with pytest.raises(TrainingDivergedError, match=message):
        train(build(), *few, recipe=recipe, output=tmp_path, console=QUIET, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.txt", "run.json"]


def test_numbers_of_half_the_size_are_saved_too(tmp_path):
    variable = keras.Variable(np.arange(3.0), dtype="bfloat16")
    save_state(tmp_path / "a.npz", {"model": [variable]}, {"step": 1})
    variable.assign(np.zeros(3))
    SavedState(tmp_path / "a.npz").restore("model", [variable])
    assert keras.ops.convert_to_numpy(variable).tolist() == [0, 1, 2]


def test_models_and_images_must_fit(few, tmp_path):
    with pytest.raises(ValueError, match="has 10 classes, the images have 11"):
        train(build(), replace(few[0], classes=(*"abcdefghijk",)), recipe=RECIPE, output=tmp_path, console=QUIET)
    with pytest.raises(ValueError, match="same classes as training"):
        train(build(), few[0], replace(few[1], classes=(*"abcdefghij",)), recipe=RECIPE, output=tmp_path)
    with pytest.raises(ValueError, match=r"batch_size=999 must lie in 1\.\."):
        train(build(), *few, recipe=replace(RECIPE, batch_size=999), output=tmp_path, console=QUIET)


def test_broken_checkpoints_are_named(tmp_path):
    path = tmp_path / "checkpoint.npz"
    path.write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(ValueError, match=r"cannot be read: it is damaged, or no state of a training; delete it"):
        SavedState(path)
    path.write_bytes(b"no archive at all")
    with pytest.raises(ValueError, match="it is damaged") as error:
        SavedState(path)
    assert "pickle" not in str(error.value)
    save_state(path, {"model": [keras.Variable(np.zeros(3))]}, {"step": 1})
    with pytest.raises(ValueError, match="another model or optimizer"):
        SavedState(path).restore("model", [keras.Variable(np.zeros(4))])


def start(digits, output, *arguments, **options):
    code = "from keras_resnext.cli import run; run()"
    command = [sys.executable, "-c", code, "train", str(digits), "--output", str(output), *SMALL, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.slow
def test_killed_terminated_and_resumed_by_the_command_line(digits, tmp_path):
    """kill -9 and SIGTERM; `tools/kill_training.py` kills twenty times at random."""
    arguments = ("--epochs", "4", "--batch-size", "32", "--save-steps", "3")
    whole = start(digits, tmp_path / "whole", *arguments)
    assert whole.wait(120) == 0, whole.stderr.read()
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = start(digits, tmp_path / "cut", *arguments)
        line = ""
        while not line.startswith("epoch"):
            line = process.stdout.readline()
            assert line, process.stderr.read()
        process.send_signal(number)
        process.communicate()
        assert process.returncode == (-9 if number == signal.SIGKILL else 143)
    last = start(digits, tmp_path / "cut", *arguments)
    output, errors = last.communicate()
    assert last.returncode == 0, errors
    assert "Resuming at epoch" in output
    with np.load(tmp_path / "whole" / "checkpoint.npz") as a, np.load(tmp_path / "cut" / "checkpoint.npz") as b:
        assert all(np.array_equal(a[name], b[name]) for name in a if name != "state")


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(digits, tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)); "
    code = f"{limit}from keras_resnext.cli import run; run()"
    result = subprocess.run(
        [sys.executable, "-c", code, "train", str(digits), "--output", str(tmp_path / "out"), *SMALL, "--epochs", "1"],
        capture_output=True, text=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1].startswith("keras-resnext: ")
    assert "Traceback" not in result.stderr
    assert not [path for path in (tmp_path / "out").iterdir() if path.suffix in (".keras", ".npz")]


def test_a_dry_run_draws_batch_and_schedule(digits, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["train", str(digits), "--output", str(tmp_path), *SMALL, "--dry-run"])
    assert end.value.code in (0, None)
    assert {path.name for path in tmp_path.iterdir()} == {"batch.png", "schedule.png"}
    for path in tmp_path.iterdir():
        assert Image.open(path).width > 500
    assert "10 classes, 1438 images to train on, 359 to validate on." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "best"], "--recipe 'best' must be one of"),
        (["--model", "resnet"], "resnet"),
        (["--precision", "int8"], "--precision 'int8' must be one of"),
        (["--val", "1.5"], "must lie between 0 and 1"),
        (["--option", "foo=1"], "foo: no option of ResNeXt; choose from avg_down"),
        (["--option", "include_top=false"], "--option 'include_top' cannot be given"),
        (["--option", 'norm_cfg={"type":"GN"}', "--sync-bn"], "--sync-bn is for BatchNorm"),
        (["--milestones", "3,x"], "--milestones '3,x' must be numbers of epochs"),
        (["--weights", "nothing.pth"], "--weights 'nothing.pth': there is no such file"),
        (["--output", __file__], "test_train.py' is a file, not a folder"),
        (["--process", "1", "--processes", "2"], "needs coordinator"),
    ],
)
def test_bad_arguments_are_one_line(digits, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(check, "find_unreadable", lambda *_, **__: pytest.fail("images were opened before"))
    with pytest.raises(SystemExit) as end:
        cli.main(["train", str(digits), "--output", str(tmp_path / "x"), *arguments])
    assert end.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("keras-resnext: ")
    assert message in error
    assert not (tmp_path / "x").exists()


def test_synchronised_statistics_keep_what_the_norm_was_told():
    options = {"norm_cfg": {"type": "BN", "eps": 1e-3}, "style": "caffe"}
    assert check_options(options, sync_bn=True) == {"norm_cfg": {"type": "SyncBN", "eps": 1e-3}, "style": "caffe"}
    assert check_options({}, sync_bn=True) == {"norm_cfg": {"type": "SyncBN"}}
    assert check_options(options) == options


def test_recipes_name_their_source():
    assert all(isinstance(recipe, Recipe) and recipe.source for recipe in RECIPES.values())
