"""A run that is stopped or fails loses nothing: it says why, keeps the last good state, and goes on from it."""

import json
import re
import shutil
from dataclasses import replace
from io import StringIO

import keras
import numpy as np
import pytest
from rich.console import Console

from keras_resnext.training import session, train
from keras_resnext.training.failures import explain_failure
from keras_resnext.training.recipes import find_recipe
from keras_resnext.training.state import SavedState, TrainingDivergedError, save_state
from tests.training.small_runs import QUIET, RECIPE, build, make_session, weights

SHORT = {"epochs": 2, "batch_size": 32, "size": 8, "flip": 0.0, "crop_padding": 1, "ema": 0.3, "mixup": 0.2}
SHORT["schedule"] = "cosine"


def labelled(listing, kind):
    """Digits by their number, or with two labels each, or by whether they are odd."""
    if kind == "bce":
        return listing
    if kind == "binary":
        return replace(listing, labels=listing.labels % 2, classes=("even", "odd"))
    hot = np.eye(10, dtype="uint8")[listing.labels] | np.eye(10, dtype="uint8")[listing.labels * 3 % 10]
    return replace(listing, labels=hot, kind="multi")


pytestmark = pytest.mark.usefixtures("no_curves")


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

    leftovers = [".0123456789ab.checkpoint.npz", ".0123456789ab.best.keras", ".0123456789ab.writing"]
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
    with pytest.raises(ValueError, match="other arguments: validation_size=9 was 8; give"):
        train(build(drop_path_rate=0.2), *few, output=tmp_path / "cut", validation_size=9, **options)


KINDS = {  # what the model ends in, outputs, and what the recipe changes
    "multi": ("sigmoid", 10, {"accumulate": 2, "balanced_sampling": True, "class_weights": "balanced"}),
    "binary": ("sigmoid", 1, {"loss": "focal", "label_smoothing": 0.1}),
    "bce": ("softmax", 10, {"loss": "bce", "optimizer": "lamb", "learning_rate": 0.01, "layer_decay": 0.8, "repeats": 2,
                            "policy": "rand-m7-mstd0.5-inc1", "progressive_size": 6, "sum_labels": False}),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_task_ends_in_the_same_weights(few, tmp_path, monkeypatch, kind):
    """With moving average and accumulation; the file of the best epoch keeps what the model ends in."""
    activation, classes, changes = KINDS[kind]
    recipe = find_recipe("cifar", **{**SHORT, **changes})
    lists = [labelled(listing, kind) for listing in few]
    options = {"recipe": recipe, "console": QUIET, "save_steps": 4}

    def make():
        return build(classifier_activation=activation, classes=classes, input_shape=(None, None, 3))

    whole = make()
    expected = train(whole, *lists, output=tmp_path / "whole", validation_size=8, **options)

    def cut(*arguments):
        save_state(*arguments)
        raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(session, "save_state", cut)
        with pytest.raises(StopError):
            train(make(), *lists, output=tmp_path / "cut", validation_size=8, **options)
    assert SavedState(tmp_path / "cut" / "checkpoint.npz").state["inside"]
    resumed = make()
    result = train(resumed, *lists, output=tmp_path / "cut", validation_size=8, **options)
    for a, b in zip(weights(whole), weights(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    for before, after in zip(expected.history, result.history, strict=True):
        assert before | {"seconds": 0} == after | {"seconds": 0}
    for model in (resumed, keras.saving.load_model(result.best)):
        assert model.layers[-1].activation is keras.activations.get(activation)
    score = "val_top1" if kind == "bce" else "val_map"
    assert result.score == max(row[score] for row in result.history)


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


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_state(few, tmp_path):
    recipe = replace(RECIPE, epochs=1, ema=0.0)
    train(build(), *few, recipe=recipe, output=tmp_path, console=QUIET)
    with pytest.raises(ValueError, match=r"holds a run with other arguments: learning_rate=1\.0 was 0\.1; give"):
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


def edited(state):
    """A good state as JSON, changed as people and programs change files."""
    nested = "[" * 100_000 + "]" * 100_000
    for name, value in (
        *(("step", wrong) for wrong in ("6", 6.0, True, None, -6, 10**30, 7, 600)),
        *(("history", wrong) for wrong in (None, [], {}, ["a"], [{}], [{"epoch": 1, "top1": "x", "seconds": 1}])),
        *(("best", "x"), ("best", float("nan")), ("best_epoch", 9), ("inside", 1), ("head", None), ("spent", "1")),
    ):
        yield json.dumps(state | {name: value})
    yield from (json.dumps({name: state[name] for name in state if name != left}) for left in state)
    yield from ("[]", "3", "null", "{", "", nested, f'{{"step": {nested}}}', '{"step": 1' + "0" * 5000 + "}")


def test_a_state_or_record_that_was_changed_is_refused_in_one_line(few, tmp_path, monkeypatch):
    recipe, options = replace(RECIPE, epochs=1, ema=0.0), {"output": tmp_path, "console": QUIET}
    train(build(), *few, recipe=recipe, **options)
    model, path, record = build(), tmp_path / "checkpoint.npz", tmp_path / "run.json"
    good, kept = path.read_bytes(), record.read_text()
    with np.load(path) as data:
        arrays = dict(data)
    state = json.loads(str(arrays["state"]))
    monkeypatch.setattr("keras_resnext.training.record.digest", lambda _: "")  # takes longest

    def refused(*messages):
        with pytest.raises(ValueError, match="|".join(messages)) as error:
            train(model, *few, recipe=recipe, **options)
        assert "\n" not in str(error.value)
        assert type(error.value) is ValueError

    for text in edited(state):
        np.savez(path, **arrays | {"state": np.array(text)})
        refused(r"cannot be read: it is (damaged|no state of)")
    for name, array in (("model/0", np.array(["x"])), ("model/0", np.zeros(0)), ("model/x", np.zeros(1))):
        np.savez(path, **arrays | {name: array})
        refused("entries that training does not write", "written by another model")
    np.save(tmp_path / "a.npy", np.zeros(3))
    huge = re.sub(rb"\(3,\), }", b"(9" + b"9" * 14 + b",)}", (tmp_path / "a.npy").read_bytes())
    for content in (huge, (tmp_path / "a.npy").read_bytes(), good[:-50], b""):
        path.write_bytes(content)
        refused("cannot be read: it")
    (tmp_path / "a.npy").unlink()
    path.write_bytes(good)
    for text in ("[]", "3", '{"versions": []}', "[" * 100_000, "\udcff", '{"a": 1' + "0" * 5000 + "}", '{"seed": {}}'):
        record.write_bytes(text.encode(errors="surrogateescape"))
        refused("no readable run.json", "a run with other arguments")
        assert record.read_bytes() == text.encode(errors="surrogateescape")
    record.write_text(kept)
    assert train(model, *few, recipe=recipe, **options).epoch == 1
    assert not [name for name in tmp_path.iterdir() if name.name.startswith(".")]
