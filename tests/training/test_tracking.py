"""Settings and figures arrive in MLflow and Weights & Biases, each with its own store on disk."""

import sys
from pathlib import Path

import pytest

from keras_resnext.training import train
from keras_resnext.training.tracking import Tracker
from tests.training.small_runs import QUIET, RECIPE, build

FACTS = {"arguments": {"model": "small"}, "recipe": {"epochs": 2}, "seed": 0, "data": {}, "versions": {}}
ROWS = [{"epoch": epoch, "loss": 1 / epoch, "val_top1": 0.5} for epoch in (1, 2)]


def test_mlflow_has_settings_figures_and_the_state(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="keras_resnext[mlflow] is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    first = Tracker("mlflow", tmp_path / "run", FACTS, None)
    first.add_row(ROWS[0])
    with pytest.raises(SystemExit), first.ending():
        raise SystemExit(143)
    client = mlflow.MlflowClient()
    assert client.get_run(first.identity).info.status == "KILLED"
    longer = Tracker("mlflow", tmp_path / "run", {**FACTS, "recipe": {"epochs": 9}}, first.identity)
    with longer.ending():
        longer.add_row(ROWS[1])
    found = client.get_run(first.identity)
    assert (longer.identity, found.info.status, found.info.run_name) == (first.identity, "FINISHED", "run")
    assert found.data.params == {"arguments.model": "small", "recipe.epochs": "2", "seed": "0"}
    history = client.get_metric_history(first.identity, "loss")
    assert [(each.step, each.value) for each in history] == [(1, 1.0), (2, 0.5)]
    assert set(found.data.metrics) == {"loss", "val_top1"}

    monkeypatch.setattr(mlflow, "log_metrics", lambda *_, **__: 1 / 0)
    with pytest.warns(UserWarning, match="mlflow did not take the figures: division by zero"):
        longer.add_row(ROWS[1])


def test_wandb_has_a_run_without_a_network(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="keras_resnext[wandb] is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    tracker = Tracker("wandb", tmp_path, FACTS, None)
    with tracker.ending():
        for row in ROWS:
            tracker.add_row(row)
    (written,) = Path(tmp_path, "wandb").glob(f"offline-run-*-{tracker.identity}/run-{tracker.identity}.wandb")
    content = written.read_bytes()
    assert b"val_top1" in content
    assert b"arguments.model" in content


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_what_is_not_installed_is_named_before_anything_is_written(few, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"track='{name}' needs its package .*pip install 'keras_resnext\[{name}\]'"):
        train(build(), *few, recipe=RECIPE, output=tmp_path / "run", track=name, console=QUIET)
    assert not (tmp_path / "run").exists()


def test_another_tracker_is_named(few, tmp_path):
    with pytest.raises(ValueError, match="track='excel' must be one of mlflow, wandb"):
        train(build(), *few, recipe=RECIPE, output=tmp_path / "run", track="excel", console=QUIET)
