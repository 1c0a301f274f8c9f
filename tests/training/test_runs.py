"""`keras-resnext runs` compares what run.json says of runs."""

import json
import os
import socket
import subprocess
import sys

import pytest

from keras_resnext import cli
from keras_resnext.training.runs import find_runs

RESULTS = {"metric": "val_top1", "best": 0.9876, "best_epoch": 2, "epochs": 3, "seconds": 37.5, "last": {}}


def write_run(folder, **facts):
    folder.mkdir(parents=True)
    facts = {
        "command": {"recipe": "cifar"}, "arguments": {"model": "resnext29_8x64d"}, "recipe": {"epochs": 3},
        "started": "2026-05-01T10:00:00+02:00", "ended": "2026-05-01T10:01:00+02:00", "state": "finished",
        "results": RESULTS,
    } | facts  # fmt: skip
    (folder / "run.json").write_text(json.dumps(facts))


def table(folder, capsys, *options):
    with pytest.raises(SystemExit) as end:
        cli.main(["runs", str(folder), *options])
    out, error = capsys.readouterr()
    return end.value.code or 0, out, error


def test_runs_in_a_table_oldest_first(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    write_run(tmp_path / "second")
    write_run(tmp_path / "deep/first", started="2026-04-01T10:00:00+02:00", state="interrupted", results={})
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/run.json").write_text('{"recipe": [')
    code, out, error = table(tmp_path, capsys)
    lines = [line.split() for line in out.splitlines()]
    assert code == 0
    assert [line[0] for line in lines] == ["run", "deep/first", "second"]
    assert lines[1][1:] == ["resnext29_8x64d", "cifar", "0/3", "–", "–", "2026-04-01", "10:00", "interrupted"]
    assert lines[2][3:] == ["3/3", "val_top1", "98.76%,", "epoch", "2", "12.5", "2026-05-01", "10:00", "finished"]
    assert "broken/run.json' cannot be read: it is not what training writes" in error

    code, out, _ = table(tmp_path / "second", capsys, "--json")
    assert json.loads(out) == [
        {
            "folder": str(tmp_path / "second"), "model": "resnext29_8x64d", "recipe": "cifar", "epochs": 3,
            "planned": 3, "metric": "val_top1", "best": 0.9876, "best_epoch": 2, "seconds_per_epoch": 12.5,
            "started": "2026-05-01T10:00:00+02:00", "ended": "2026-05-01T10:01:00+02:00", "state": "finished",
        }
    ]  # fmt: skip


def test_a_killed_run_is_not_running(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for name, process in (("alive", os.getpid()), ("killed", gone.pid)):
        write_run(tmp_path / name, state="running", process={"host": socket.gethostname(), "id": process})
    assert {run.folder.name: run.state for run in find_runs(tmp_path)[0]} == {
        "alive": "running",
        "killed": "interrupted",
    }


@pytest.mark.parametrize(
    ("place", "message"),
    [("none", "there is no such folder"), ("file", "is a file, not a folder")],
)
def test_a_folder_that_is_none_is_one_line(tmp_path, capsys, place, message):
    (tmp_path / "file").touch()
    code, out, error = table(tmp_path / place, capsys)
    assert (code, out) == (2, "")
    assert message in error
    assert table(tmp_path, capsys)[1] == f"{tmp_path} holds no runs.\n"


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"recipe": {"epochs": "x"}}', "[" * 100_000, "\udcff"])
def test_any_other_file_of_that_name_is_told(tmp_path, text):
    (tmp_path / "run.json").write_bytes(text.encode(errors="surrogateescape"))
    assert find_runs(tmp_path) == ([], {tmp_path / "run.json": "it is not what training writes"})
