"""The learning rate finder: its rule, what it leaves behind, and that a run then starts as if it had not been."""

import csv
import json
from dataclasses import replace

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resnext import cli
from keras_resnext.training import find_rate, rate_finder, train
from keras_resnext.training.found import set_aside, settle
from keras_resnext.training.rate_finder import RateCurve, choose_rate
from keras_resnext.training.train_options import RunOptions
from tests.training.small_runs import QUIET, RECIPE, SMALL, build, weights

pytestmark = pytest.mark.usefixtures("no_curves")
RATES = np.geomspace(1e-5, 10, 100)


def variables(model):
    return [keras.ops.convert_to_numpy(variable) for variable in model.variables]


def test_the_rate_is_the_highest_at_which_the_loss_falls():
    places = np.log10(RATES)
    noise = np.random.default_rng(0).normal(0, 0.02, 100)
    falling = 2.3 - 1.2 / (1 + np.exp(-4 * (places + 1.5)))  # from 0.03 on
    rate, why = choose_rate(RateCurve(RATES, falling + np.maximum(0, places + 0.5) * 3 + noise))
    assert 0.1 < rate < 0.6
    assert f"fell up to a rate of {rate:.2g} and rose above it" in why
    rate, why = choose_rate(RateCurve(RATES, falling - places / 10))
    assert rate == pytest.approx(10)
    assert "still falls at 10, the highest rate" in why


def test_a_loss_that_never_falls_chooses_nothing():
    losses = 2.3 + np.random.default_rng(0).normal(0, 0.1, 100)
    rate, why = choose_rate(RateCurve(RATES, losses))
    assert rate is None
    assert "fell at no rate from 1e-05 to 1e+01" in why
    assert choose_rate(RateCurve(RATES[:0], losses[:0]))[0] is None


def test_the_model_is_left_as_it_was_and_the_curve_is_written(few, tmp_path, monkeypatch):
    monkeypatch.setattr(rate_finder, "STEPS", 8)
    model = build(drop_path_rate=0.2)
    before = variables(model)
    rate, why = find_rate(model, few[0], replace(RECIPE, accumulate=2), tmp_path)
    for a, b in zip(before, variables(model), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not model.compiled
    assert model.optimizer is None
    rows = list(csv.DictReader((tmp_path / "lr.csv").open()))
    assert 2 <= len(rows) <= 8
    assert list(rows[0]) == ["learning_rate", "loss", "smoothed_loss"]
    assert float(rows[0]["learning_rate"]) == pytest.approx(1e-5)
    assert Image.open(tmp_path / "lr.png").width > 500
    chosen = [row for row in rows if float(row["learning_rate"]) == pytest.approx(rate * 32 / 128, rel=0.06)]
    assert chosen or ("the recipe's own" in why and rate == RECIPE.learning_rate)


def test_a_run_is_that_of_the_same_rate_given_and_remembers_it(digits, few, tmp_path, capsys, monkeypatch):
    """By the command line, and once more, when it neither searches nor trains."""
    monkeypatch.setattr(rate_finder, "STEPS", 8)
    arguments = ["train", str(digits), "--output", str(tmp_path), *SMALL, "--epochs", "1", "--batch-size", "128"]

    def run(*more):
        with pytest.raises(SystemExit) as end:
            cli.main([*arguments, *more])
        assert end.value.code in (0, None)
        return capsys.readouterr().out

    told = run("--lr", "find")
    record = json.loads((tmp_path / "run.json").read_text())
    rate = record["recipe"]["learning_rate"]
    assert f"Learning rate {rate:g}: " in told
    assert record["found"]["learning_rate"]["value"] == rate
    monkeypatch.setattr(rate_finder, "measure_rates", lambda *_, **__: pytest.fail("searched again"))
    told = run("--lr", "find")
    assert f"Learning rate {rate:g}: found when the run began." in told
    assert "Finished at epoch 1." in told
    assert "Finished" in run("--lr", str(rate))


def test_training_after_the_search_has_the_same_bits(few, tmp_path, monkeypatch):
    monkeypatch.setattr(rate_finder, "STEPS", 4)
    recipe = replace(RECIPE, epochs=1)
    searched, plain = build(drop_path_rate=0.2), build(drop_path_rate=0.2)
    recipe, found = settle(("learning_rate",), searched, few[0], recipe, tmp_path / "a", RunOptions(), QUIET)
    assert found["learning_rate"]["value"] == recipe.learning_rate
    for model, name in ((searched, "a"), (plain, "b")):
        train(model, few[0], recipe=recipe, output=tmp_path / name, console=QUIET)
    for a, b in zip(weights(searched), weights(plain), strict=True):
        np.testing.assert_array_equal(a, b)


def test_words_are_set_aside():
    changes = {"learning_rate": "find", "batch_size": "auto", "epochs": 3}
    assert set_aside(changes) == ({"epochs": 3}, ("batch_size", "learning_rate"))
    assert set_aside({"learning_rate": 0.1}) == ({"learning_rate": 0.1}, ())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lr", "search"], "--learning-rate 'search' must be a number or 'find'"),
        (["--batch-size", "1.5"], "--batch-size '1.5' must be a whole number or 'auto'"),
        (["--batch-size", "0"], "--batch-size 0 must be at least 1"),
        (["--patience", "some"], "--patience 'some' must be a number of epochs, or none"),
        (["--patience", "-1"], "--patience -1 must be at least 1"),
    ],
)
def test_bad_words_are_one_line(digits, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        cli.main(["train", str(digits), "--output", str(tmp_path / "x"), *SMALL, *arguments])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
