"""`keras-resnext train` as a user meets it: signals, full disks, bad options."""

import resource
import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from keras_resnext import cli
from keras_resnext.data import check
from keras_resnext.training.setup import check_options
from tests.training.small_runs import SMALL


def start(digits, output, *arguments):
    code = "from keras_resnext.cli import run; run()"
    command = [sys.executable, "-c", code, "train", str(digits), "--output", str(output), *SMALL, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(digits, output, *arguments):
    """The exit code of the same command in this process, which has its framework already."""
    with pytest.raises(SystemExit) as end:
        cli.main(["train", str(digits), "--output", str(output), *SMALL, *arguments])
    return end.value.code or 0


@pytest.mark.slow
def test_killed_terminated_and_resumed_by_the_command_line(digits, tmp_path, capsys, no_curves):
    """kill -9, SIGTERM and Ctrl-C; `tools/kill_jobs.py` kills at random."""
    arguments = ("--epochs", "5", "--batch-size", "96", "--save-steps", "3")
    for number, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)):
        process = start(digits, tmp_path / "cut", *arguments)
        line = ""
        while not line.startswith("epoch"):
            line = process.stdout.readline()
            assert line, process.stderr.read()
        process.send_signal(number)
        rest, _ = process.communicate()
        assert process.returncode == code
        if number != signal.SIGKILL:  # where it is saved, and what goes on with it
            stopped, again = rest.splitlines()[-2:]
            assert stopped.startswith(f"Stopped. {tmp_path / 'cut' / 'checkpoint.npz'} holds the run at epoch ")
            assert again == f"  keras-resnext train {digits} --output {tmp_path / 'cut'} {shlex.join(SMALL)} " + (
                shlex.join(arguments)
            )
    assert run(digits, tmp_path / "cut", *arguments) == 0
    assert "Resuming at epoch" in capsys.readouterr().out
    assert run(digits, tmp_path / "whole", *arguments) == 0
    with np.load(tmp_path / "whole" / "checkpoint.npz") as a, np.load(tmp_path / "cut" / "checkpoint.npz") as b:
        assert all(np.array_equal(a[name], b[name]) for name in a if name != "state")


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(digits, tmp_path, capsys):
    """A limit on the size of files passes for the disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, before[1]))
    try:
        code = run(digits, tmp_path / "out", "--epochs", "1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = capsys.readouterr().err
    assert code == 2
    assert error.strip().splitlines()[-1].startswith("keras-resnext: ")
    assert "Traceback" not in error
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
        (["--option", "foo=1"], "foo: no option of ResNeXt; choose from activation"),
        (["--option", "include_top=false"], "--option 'include_top' cannot be given"),
        (["--option", 'norm_cfg={"type":"GN"}', "--sync-bn"], "--sync-bn is for BatchNorm"),
        (["--milestones", "3,x"], "--milestones '3,x' must be numbers of epochs"),
        (["--weights", "nothing.pth"], "--weights 'nothing.pth': there is no such file"),
        (["--output", __file__], "test_train_command.py' is a file, not a folder"),
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
