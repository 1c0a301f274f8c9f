"""The commands explain and features as a user meets them: files, printed lines, exit codes."""

import numpy as np
import pytest
from PIL import Image

from keras_resnext import cli
from keras_resnext.cli.image_files import find_images
from keras_resnext.explain import extract_features
from tests.support import relative_error


def run(*arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


def test_the_command_explain(saved, image, tmp_path, capsys):
    labels, out = tmp_path / "labels.txt", tmp_path / "out"
    labels.write_text("\n".join("abcdefg"))
    options = ["--labels", labels, "--class", "b", "--layer", "layer2_0_relu", "--feature-maps"]
    code, printed, err = run("explain", saved, image, image, "--output", out, *options, capsys=capsys)
    assert (code, err) == (0, "")
    kinds = ("feature_maps", "grad_cam")
    assert sorted(path.name for path in out.iterdir()) == sorted(f"image-{i}.{k}.png" for i in (1, 2) for k in kinds)
    assert " b " in printed
    assert "at layer2_0_relu" in printed
    beside = tmp_path / "model.keras"
    beside.write_bytes(saved.read_bytes())
    assert run("explain", beside, image, *options[2:6], "--output", out, capsys=capsys)[1].count(" b ") == 1


def test_the_images_of_a_folder_are_sorted(tmp_path, monkeypatch):
    monkeypatch.setattr(
        type(tmp_path), "rglob", lambda folder, _: [folder / "c.png", folder / "a.png", folder / "b.png"]
    )
    for name in "abc":
        (tmp_path / f"{name}.png").touch()
    assert [path.stem for path in find_images([tmp_path])] == ["a", "b", "c"]


def test_the_command_features(saved, image, small, tmp_path, capsys):
    folder = tmp_path / "folder"
    (folder / "deeper").mkdir(parents=True)
    for name in ("b.png", "a.JPG", "deeper/c.png"):
        Image.new("RGB", (40, 40), "red").save(folder / name)
    (folder / "notes.txt").write_text("no image")
    output = tmp_path / "f.npy"
    code, printed, err = run("features", saved, folder, image, "--output", output, "--batch-size", 3, capsys=capsys)
    assert (code, err) == (0, "")
    files = (tmp_path / "f.txt").read_text().splitlines()
    assert files == [str(p) for p in (folder / "a.JPG", folder / "b.png", folder / "deeper/c.png", image)]
    features = np.load(output)
    assert (features.shape, features.dtype) == ((4, 128), np.float32)
    assert relative_error(features, extract_features(small, files)) < 1e-5
    assert "4 images, 128 features each" in printed
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "{saved}", "none.png"], "image='none.png': there is no such file"),
        (["explain", "{saved}", "{folder}"], "is a folder, not an image"),
        (["explain", "{saved}", "{text}"], "is not an image"),
        (["explain", "{saved}", "{image}", "--layer", "layer9"], "--layer 'layer9' is no layer"),
        (["explain", "{saved}", "{image}", "--method", "cam"], "--method 'cam' must be one of grad_cam, grad_cam++"),
        (["explain", "{saved}", "{image}", "--class", "cat"], "class='cat' is neither a class nor a number in 0..6"),
        (["explain", "{saved}", "{image}", "--labels", "{text}"], "labels has 1 names; it must have 7"),
        (["explain", "{saved}", "{image}", "--output", "{text}"], "exists"),
        (["features", "{saved}", "{folder}", "--output", "f.npz"], "--output 'f.npz' must end in .npy"),
        (["features", "{saved}", "{image}", "--output", "{folder}/none/f.npy"], "in a folder that does not exist"),
        (["features", "{saved}", "{folder}/empty"], "is a folder without images"),
        (["features", "{saved}", "none.png"], "image='none.png': there is no such file"),
        (["features", "{saved}", "{text}", "--output", "{folder}/f.npy"], "is not an image"),
        (["features", "{saved}", "{image}", "--output", "{folder}/f.npy", "--layer", "fc"], "--layer 'fc' gives"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, saved, image, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("no image")
    places = dict(saved=saved, image=image, folder=tmp_path, text=tmp_path / "text.txt")
    code, out, err = run(*[a.format(**places) for a in arguments], capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("keras-resnext: ")
    assert message in err
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".npy" or path.name.endswith("cam.png")]
