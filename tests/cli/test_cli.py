"""The command line as a user meets it: real processes' output and exit codes."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import torch
from PIL import Image

from keras_resnext import ResNeXt, cli
from tests import references


def run(*arguments, capsys):
    """(exit code, standard output, standard error) of the command line in this process."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 100, 3), "uint8")).save(path)
    return path


@pytest.fixture
def saved(tmp_path):
    """A small .keras file with seven classes."""
    path = tmp_path / "small.keras"
    options = dict(blocks=(1, 1, 1), stem="cifar", groups=4, width_per_group=4, base_channels=8, classes=7)
    ResNeXt(**options, input_shape=(32, 32, 3)).save(path)
    return path


def test_list(capsys):
    code, out, _ = run("list", capsys=capsys)
    assert code == 0
    assert "resnext101_64x4d" in out
    assert "25.0 M" in out


def test_predict_with_a_keras_file(saved, image, tmp_path, capsys):
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join("abcdefg"))
    code, out, err = run("predict", saved, image, "--labels", labels, "--top", 3, capsys=capsys)
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()[1:] if "%" in line]
    assert len(rows) == 3
    assert {row[-2] for row in rows} < set("abcdefg")
    assert run("predict", saved, image, "--top", 3, capsys=capsys) == (0, out, "")  # labels.txt is beside the model


def test_predict_with_a_pytorch_checkpoint(image, tmp_path, capsys):
    import torchvision

    block = torchvision.models.resnet.Bottleneck
    module = torchvision.models.ResNet(block, [1, 1, 1, 1], groups=4, width_per_group=4)
    torch.save(references.randomise(module).state_dict(), tmp_path / "m.pth")
    code, out, _ = run("predict", tmp_path / "m.pth", image, capsys=capsys)
    assert code == 0
    from torchvision import transforms

    steps = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()]
    steps.append(transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        scores = module(transforms.Compose(steps)(Image.open(image))[None]).softmax(1)[0]
    from keras_resnext.labels import imagenet_labels

    best = [imagenet_labels()[i] for i in scores.argsort(descending=True)[:5]]
    positions = [out.index(f" {name} ") for name in best]
    assert positions == sorted(positions)


def test_export_and_its_errors(saved, tmp_path, capsys):
    code, out, _ = run("export", saved, tmp_path / "served", capsys=capsys)
    assert code == 0
    assert (tmp_path / "served" / "1" / "saved_model.pb").is_file()
    assert str(tmp_path / "served" / "1") in out.replace("\n", "")
    code, _, err = run("export", saved, tmp_path / "served", "--version", 1, capsys=capsys)
    assert (code, err.count("\n")) == (2, 1)


@pytest.mark.parametrize("format_", ["tflite", "onnx"])
def test_export_to_a_file(format_, saved, image, tmp_path, capsys):
    path = tmp_path / f"small.{format_}"
    code, out, _ = run("export", saved, path, "--format", format_, "--images", image, capsys=capsys)
    assert code == 0
    assert path.stat().st_size > 10_000
    rows = dict(line.split("  ", 1) for line in out.splitlines())
    assert rows["written"].strip() == str(path)
    assert rows["top-1 agreement"].strip() == "100%"
    assert float(rows["largest difference"]) < 1e-4


def test_export_tells_where_the_model_came_from(saved, tmp_path, capsys):
    assert run("export", saved, tmp_path / "served", "--tflite", "--no-warmup", capsys=capsys)[0] == 0
    facts = json.loads((tmp_path / "served" / "1" / "manifest.json").read_text())
    assert facts["source"] == "small.keras"
    assert "model.tflite" in facts["sha256"]
    assert not (tmp_path / "served" / "1" / "assets.extra").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "resnext51", "{image}"], "MODEL='resnext51' is neither a file ending in .keras"),
        (["predict", "none.keras", "{image}"], "MODEL='none.keras': there is no such file"),
        (["predict", "{text}.pth", "{image}"], ".pth"),
        (["predict", "{text}.keras", "{image}"], "no readable Keras file"),
        (["predict", "{saved}", "none.png"], "image='none.png': there is no such file"),
        (["predict", "{saved}", "{text}.pth"], "is not an image"),
        (["predict", "{saved}", "{image}", "--labels", "{text}.pth"], "labels has 1 names; it must have 7"),
        (["predict", "{saved}", "{image}", "--labels", "{image}"], "is not a text file"),
        (["export", "{saved}", "{folder}/out", "--labels", "{text}.pth"], "labels"),
        (["export", "{saved}", "{folder}/out", "--version", "0"], "version"),
        (["export", "{saved}", "{folder}/out", "--format", "tfjs"], "format='tfjs' must be one of saved_model, tflite"),
        (["export", "{saved}", "{folder}/o.onnx", "--format", "onnx", "--io-type", "int8"], "is for --format tflite"),
        (["export", "{saved}", "{folder}/o.onnx", "--format", "onnx", "--opset", "3"], "--opset 3"),
        (["export", "{saved}", "{folder}/o.onnx", "--format", "tflite"], "o.onnx"),
        (["export", "{saved}", "{folder}/o.tflite", "--format", "tflite", "--quantization", "int8"], "calibration"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, saved, image, tmp_path, capsys):
    for suffix in (".pth", ".keras"):
        (tmp_path / f"text{suffix}").write_text("no checkpoint")
    places = dict(image=image, saved=saved, text=tmp_path / "text", folder=tmp_path)
    code, out, err = run(*[a.format(**places) for a in arguments], capsys=capsys)
    assert code == 2
    assert (out, err.count("\n")) == ("", 1), err
    assert err.startswith("keras-resnext: ")
    assert message in err
    assert not (tmp_path / "out" / "1").exists()


def test_as_a_process(tmp_path):
    """The installed command: help at once, unknown verbs and bad files without a traceback."""
    command = [sys.executable.replace("python3", "python").rsplit("/", 1)[0] + "/keras-resnext"]
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True)
    assert helped.returncode == 0
    for verb in ("list", "predict", "export", "quickstart"):
        assert verb in helped.stdout
    for arguments in (["frobnicate"], ["predict", "x.keras", "y.png"], ["predict"], ["export", "x.keras", "base"]):
        failed = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=tmp_path)
        assert failed.returncode == 2
        assert (failed.stdout, failed.stderr.count("\n")) == ("", 1), failed.stderr
        assert failed.stderr.startswith("keras-resnext: ")
    assert list(tmp_path.iterdir()) == []


def test_help_loads_no_framework():
    code = "import sys, keras_resnext.cli; print('keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_a_model_without_head_is_refused(image, tmp_path, capsys):
    keras.Model(*(lambda x: (x, keras.layers.ReLU()(x)))(keras.Input((32, 32, 3)))).save(tmp_path / "m.keras")
    code, _, err = run("predict", tmp_path / "m.keras", image, capsys=capsys)
    assert code == 2
    assert "must give one output (None, classes) of class scores" in err


def test_logits_are_shown_as_probabilities(image, tmp_path, capsys):
    options = dict(blocks=(1, 1, 1), stem="cifar", groups=4, width_per_group=4, base_channels=8, classes=7)
    ResNeXt(**options, classifier_activation=None, zero_init_residual=False).save(tmp_path / "m.keras")
    code, out, _ = run("predict", tmp_path / "m.keras", image, "--top", 7, capsys=capsys)
    assert code == 0
    shares = [float(word.strip("%")) for word in out.split() if word.endswith("%")]
    assert sum(shares) == pytest.approx(100, abs=0.1)


def test_a_damaged_keras_file(saved, image, capsys):
    data = bytearray(saved.read_bytes())
    data[len(data) // 2] ^= 255
    saved.write_bytes(data[:-7])
    code, _, err = run("predict", saved, image, capsys=capsys)
    assert (code, err.count("\n")) == (2, 1)
    with pytest.raises(ValueError, match=r"small\.keras"):
        ResNeXt(weights=saved)
