"""The search over short runs: what it tries, what a stop costs, what it writes, and the command that it ends with."""

import csv
import itertools
import shlex
import sys
from dataclasses import replace

import pytest
from PIL import Image

from keras_resnext import cli
from keras_resnext.data.augmentation import Augmentation
from keras_resnext.training import search as module
from keras_resnext.training import session
from keras_resnext.training.search import check_search, search, strengthen
from keras_resnext.training.state import save_state
from keras_resnext.training.train_options import RunOptions
from tests.training.small_runs import QUIET, RECIPE, SMALL, build

pytestmark = pytest.mark.usefixtures("no_curves")


class KilledError(BaseException):
    pass


def rows(path):
    return list(csv.DictReader(path.open()))


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_and_finds_the_same(few, tmp_path, monkeypatch):
    recipe = replace(RECIPE, epochs=1, ema=0.0, batch_size=100)
    made = []

    def make(short):
        made.append(short)
        return build()

    def look(folder, trials=2):
        return search(make, *few, recipe, folder, trials, RunOptions(save_steps=1), QUIET)

    whole = look(tmp_path / "whole")
    assert len(whole.rows) == len(made) == 2
    assert whole.score == max(row["score"] for row in whole.rows)
    assert len({short.learning_rate for short in made}) == 2
    assert all(short.augmentation.mixup <= 0.2 and short.augmentation.crop_padding == 1 for short in made)

    saves = []

    def cut(*arguments):
        save_state(*arguments)
        saves.append(arguments)
        if len(saves) == 3:  # in the middle of the second trial
            raise KilledError

    with monkeypatch.context() as changed:
        changed.setattr(session, "save_state", cut)
        with pytest.raises(KilledError):
            look(tmp_path / "cut")
    assert len(rows(tmp_path / "cut" / "search.csv")) == 1
    assert (tmp_path / "cut" / "search" / "trial-1" / "checkpoint.npz").exists()
    found = look(tmp_path / "cut")
    assert [row | {"trial": 0} for row in found.rows] == [row | {"trial": 0} for row in whole.rows]
    assert found.changes == whole.changes
    assert len(rows(tmp_path / "cut" / "search.csv")) == 2
    assert Image.open(tmp_path / "cut" / "search.png").width > 900
    assert {path.name for path in (tmp_path / "cut" / "search").iterdir()} <= {"study.db", "search.lock"}
    before = len(made)
    look(tmp_path / "cut")  # nothing is left to try
    assert len(made) == before
    recipe = replace(recipe, weight_decay=0.0)
    with pytest.raises(ValueError, match="holds a search with other arguments"):
        look(tmp_path / "cut")


def test_strength_is_a_scale_of_the_variations():
    plain = Augmentation()
    assert strengthen(plain, 0.0) == {
        "color_jitter": (0.0, 0.0, 0.0, 0.0), "random_erasing": 0.0, "mixup": 0.0, "crop_scale": (1.0, 1.0),
    }  # fmt: skip
    assert strengthen(plain, 1.0)["crop_scale"] == pytest.approx((0.08, 1.0))
    assert "crop_scale" not in strengthen(replace(plain, crop_padding=2), 1.0)
    assert replace(plain, **strengthen(plain, 0.5)).mixup == 0.1


def test_the_command_that_trains_with_the_best(digits, tmp_path, capsys, monkeypatch):
    found = module.SearchResult({"learning_rate": 0.2, "color_jitter": (0.1, 0.1, 0.1, 0.0)}, 0.9, "top1", [])
    monkeypatch.setattr(module, "search", lambda *_: found)
    given = ["train", str(digits), "--output", str(tmp_path), *SMALL, "--lr", "0.1", "--strict"]
    with pytest.raises(SystemExit) as end:
        cli.main([*given, "--search", "3"])
    assert end.value.code in (0, None)
    words = shlex.split(capsys.readouterr().out.strip().splitlines()[-1])
    assert words[:3] == ["keras-resnext", "train", str(digits)]
    assert "--search" not in words
    pairs = set(itertools.pairwise(words))
    assert {("--learning-rate", "0.2"), ("--color-jitter", "0.1"), ("--option", "groups=4"), ("--flip", "0.0")} <= pairs
    assert "--strict" in words
    assert words.count("--learning-rate") == 1


def test_bad_searches(digits, tmp_path, capsys, monkeypatch):
    for arguments, message in (
        (["--val", "none"], "--search 5 needs validation images"),
        (["--lr", "find"], "--learning-rate 'find' cannot be given with search"),
    ):
        with pytest.raises(SystemExit) as end:
            cli.main(["train", str(digits), "--output", str(tmp_path / "x"), *SMALL, "--search", "5", *arguments])
        assert end.value.code == 2
        assert message in capsys.readouterr().err.strip().splitlines()[-1]
    with pytest.raises(ValueError, match="one process, not in 2"):
        check_search(5, True, 2)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"search=5 needs optuna .*keras_resnext\[search\]"):
        check_search(5, True)
