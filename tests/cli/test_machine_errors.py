"""What the machine refuses, disk or memory, is one line and exit code 2, and nothing half written stays."""

import os
import re
import resource
from contextlib import contextmanager

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_resnext import ResNeXt, cli
from keras_resnext.data.tf_records import write_records

LIMIT = 20_000  # bytes of a file; each of these writes more


def run(*arguments, capsys):
    """Standard error, one line, of a command that fails."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert (stop.value.code, captured.err.count("\n")) == (2, 1), captured
    return captured.err


@contextmanager
def full_disk():
    """No file can grow beyond `LIMIT`: as on a full disk, but for the number of the error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("material")
    options = dict(blocks=(1, 1, 1, 1), groups=4, width_per_group=4, base_channels=8, classes=3)
    model = ResNeXt(**options, input_shape=(32, 32, 3))
    model.save(folder / "m.keras")
    for name in "ab":
        (folder / "images" / name).mkdir(parents=True)
        for index in range(20):
            image = np.random.default_rng(index).integers(0, 256, (32, 32, 3), "uint8")
            Image.fromarray(image).save(folder / "images" / name / f"{index}.png")
    return folder


WAYS = {
    "saved_model": ("export", "{}/m.keras", "base"),
    "tflite": ("export", "{}/m.keras", "m.tflite", "--format", "tflite"),
    "keras": ("convert", "{}/m.keras", "n.keras"),
    "h5": ("convert", "{}/m.keras", "n.weights.h5"),
    "pytorch": ("convert", "{}/m.keras", "n.pth"),
    "folder": ("convert", "{}/m.keras", "hub", "--layout", "timm"),
    "records": ("records", "{}/images", "records"),
    "evaluate": ("evaluate", "{}/m.keras", "{}/images", "--output", "found"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_full_disk(way, material, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if way == "evaluate":
        (material / "labels.txt").write_text("a\nb\nc\n")
    with full_disk():
        err = run(*(part.format(material) for part in WAYS[way]), capsys=capsys)
    assert "File too large: '" in err
    assert not re.search(r"[0-9a-f]{12}", err), err
    left = [str(path) for path in tmp_path.rglob("*") if path.is_file()]
    assert way == "evaluate" or left == []
    assert not [path for path in left if os.path.basename(path).startswith(".")]


@pytest.mark.parametrize("way", ["saved_model", "tflite", "h5", "records"])
def test_a_folder_that_cannot_be_written_to(way, material, capsys):
    """/sys is that for root too."""
    verb, source, target, *options = (part.format(material) for part in WAYS[way])
    err = run(verb, source, f"/sys/{os.path.basename(target)}", *options, capsys=capsys)
    assert re.search(r"(not permitted|Read-only file system|Permission denied): '/sys[a-z0-9./]*'$", err.strip())


NO_MEMORY = [
    tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[9,9]\nmore"),
    MemoryError("Unable to allocate 9 TiB"),
    MemoryError(),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=["tensorflow", "numpy", "python"])
def test_too_little_memory(error, material, tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("keras.Model.predict_on_batch", fail)
    monkeypatch.setattr("keras.Model.__call__", fail)
    err = run("predict", material / "m.keras", material / "images/a/0.png", capsys=capsys)
    assert err.startswith("keras-resnext: not enough memory (")
    monkeypatch.undo()
    for name in ("tensorflow.saved_model.save", "tensorflow.lite.TFLiteConverter.convert"):
        monkeypatch.setattr(name, fail)
    for target in (("base",), ("m.tflite", "--format", "tflite")):
        err = run("export", material / "m.keras", tmp_path / target[0], *target[1:], capsys=capsys)
        assert err.startswith("keras-resnext: not enough memory (")
    assert list(tmp_path.iterdir()) == []


def test_other_failures_of_tensorflow_and_faults_of_this_code(material, monkeypatch, capsys):
    def fail(error):
        def raise_it(*_, **__):
            raise error

        monkeypatch.setattr("keras.Model.predict_on_batch", raise_it)
        monkeypatch.setattr("keras.Model.__call__", raise_it)
        return "predict", material / "m.keras", material / "images/a/0.png"

    err = run(*fail(tf.errors.InternalError(None, None, "first\nsecond")), capsys=capsys)
    assert err == "keras-resnext: TensorFlow failed: first\n"
    with pytest.raises(KeyError, match="a fault"):
        cli.main([str(part) for part in fail(KeyError("a fault"))])


def test_python_gets_an_oserror(material, tmp_path):
    with full_disk(), pytest.raises(OSError, match="File too large"):
        write_records(material / "images", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
