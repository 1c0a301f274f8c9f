"""A run that is lengthened goes on by the schedule of the longer one; any other argument is told with both values."""

import json
from dataclasses import asdict, replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from keras_resnext.training import train
from keras_resnext.training.continuation import check_same, continued
from keras_resnext.training.recipes import find_recipe
from tests.training.small_runs import QUIET, RECIPE, build, make_session, weights

pytestmark = pytest.mark.usefixtures("no_curves")


def facts(recipe=RECIPE, **sections):
    sections = {"arguments": {"model": "small", "options": {}}, "seed": 0, "data": {"training": "a"}} | sections
    return json.loads(json.dumps({**sections, "recipe": asdict(recipe)}))


def test_a_lengthened_run_ends_as_one_that_was_as_long_from_the_beginning(few, tmp_path):
    """Where the schedule does not stretch: bit for bit."""
    recipe = replace(RECIPE, epochs=2, ema=0.0, schedule="constant", milestones=(), batch_size=100)
    train(whole := build(), *few, recipe=recipe, output=tmp_path / "whole", console=QUIET)
    short = replace(recipe, epochs=1)
    train(build(), *few, recipe=short, output=tmp_path / "longer", console=QUIET)
    began = json.loads((tmp_path / "longer/run.json").read_text())["started"]
    console = Console(file=StringIO(), width=200)
    result = train(longer := build(), *few, recipe=recipe, output=tmp_path / "longer", console=console)
    for a, b in zip(weights(whole), weights(longer), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(result.history) == 2
    told = console.file.getvalue()
    assert "The 1 epochs of the run are now 2: from epoch 2 on the learning rate is that of a run of 2." in told
    run = json.loads((tmp_path / "longer/run.json").read_text())
    assert run["lengthened"] == [{"step": 2, "from": 1, "to": 2}]
    assert (run["recipe"]["epochs"], run["results"]["epochs"], run["started"]) == (2, 2, began)
    with pytest.raises(ValueError, match="epochs=1 must be at least 2, the epoch that the run has reached"):
        train(build(), *few, recipe=short, output=tmp_path / "longer", console=QUIET)
    again = train(build(), *few, recipe=recipe, output=tmp_path / "longer", console=QUIET)  # nothing is left
    assert again.history == result.history
    assert json.loads((tmp_path / "longer/run.json").read_text())["ended"] == run["ended"]


def test_the_schedule_of_the_longer_run_counts_and_the_epochs_of_the_head_stay():
    short, long = (find_recipe("finetune", epochs=epochs) for epochs in (3, 20))
    assert (short.head_epochs, long.head_epochs) == (1, 2)
    check_same("runs/a", facts(short), facts(long))
    assert continued(long, short.head_epochs, 30, 10) == replace(long, head_epochs=1)
    with pytest.raises(ValueError, match="epochs=20 must be at least 21"):
        continued(long, 1, 201, 10)


def test_patience_may_change_at_any_time(tmp_path):
    check_same("runs/a", facts(), facts(replace(RECIPE, patience=3)))
    run = make_session(replace(RECIPE, epochs=9, patience=2), tmp_path)
    run.best_epoch, run.history = 1, [{"epoch": epoch} for epoch in range(1, 4)]
    told = run.describe_resumption()
    assert told == "Stopped at epoch 3: no better validation for 2 epochs; a higher patience goes on."


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (facts(replace(RECIPE, learning_rate=1.0)), "learning_rate=1.0 was 0.1"),
        (facts(replace(RECIPE, milestones=(1,))), r"milestones=\[1\] was \[2, 2\]"),  # the epochs are the same
        (facts(replace(RECIPE, augmentation=replace(RECIPE.augmentation, size=9))), "size=9 was 8"),
        (
            facts(arguments={"model": "other", "options": {"se_ratio": 16}}),
            "model='other' was 'small', se_ratio=16 was N",
        ),
        (facts(seed=1, data={"training": "b"}), "seed=1 was 0, the training images are others"),
    ],
)
def test_other_arguments_are_told_with_both_values_and_the_way_out(now, message):
    with pytest.raises(ValueError, match=f"output='runs/a' holds a run with other arguments: {message}") as error:
        check_same("runs/a", facts(), now)
    assert str(error.value).endswith(
        "; give those of the run to go on with it (epochs and patience may change), or for a new run output=FOLDER, "
        "another one"
    )
