"""`convert` and `info`, as functions, as commands and as the script: every pair of formats, errors, kills."""

import argparse
import json
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import torch

from keras_resnext import ResNeXt, create, from_pytorch
from keras_resnext.conversion import TARGET_SUFFIXES, convert
from keras_resnext.loading import load_model
from keras_resnext.preprocessing import Preprocessing
from keras_resnext.pytorch import read_checkpoint
from keras_resnext.weights.info import describe_file
from keras_resnext.weights.keras_files import KERAS_SUFFIXES, read_keras_weights, read_preprocessing, save_keras
from tests import references
from tests.cli.test_cli import run
from tests.support import randomise

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small .pth file with three classes, as torchvision's own code writes it."""
    from torchvision.models.resnet import Bottleneck, ResNet

    module = references.randomise(ResNet(Bottleneck, [1, 1, 1, 1], groups=4, width_per_group=4, num_classes=3))
    path = tmp_path_factory.mktemp("checkpoint") / "m.pth"
    torch.save(module.state_dict(), path)
    return path


@pytest.mark.parametrize("suffix", TARGET_SUFFIXES)
def test_every_pair_of_formats(checkpoint, suffix, tmp_path):
    """There and on to every other format, with the same numbers."""
    weights = read_checkpoint(checkpoint).data
    first = tmp_path / f"a{suffix}"
    _, agreement = convert(checkpoint, first, verify=True)
    assert agreement.library == "torchvision"
    assert agreement.relative_difference < 1e-5
    for other in TARGET_SUFFIXES:
        second = tmp_path / f"b{other}"
        _, none = convert(first, second)
        assert none is None
        found = read_keras_weights(second) if other in KERAS_SUFFIXES else read_checkpoint(second).data
        assert found.keys() == {name for name in weights if other not in KERAS_SUFFIXES or "num_batches" not in name}
        assert all(np.array_equal(array, weights[name]) for name, array in found.items() if "num_batches" not in name)
        assert describe_file(second).parameters == describe_file(checkpoint).parameters
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("options", "layout"),
    [
        (dict(deep=True), "timm"),
        (dict(squeeze=True), "mmcls"),
        (dict(deep=True, in_chans=1, num_classes=0), "mmcls"),
    ],
)
def test_verify_with_timm(options, layout, tmp_path):
    """Both ways round: the PyTorch file as the source, and as the target."""
    module = references.small_timm_model(**{"cardinality": 4, "base_width": 4, "num_classes": 3, **options})
    torch.save({"state_dict": module.state_dict(), "args": argparse.Namespace(lr=0.1)}, tmp_path / "a.pth")
    _, there = convert(tmp_path / "a.pth", tmp_path / "a.keras", verify=True)
    _, back = convert(tmp_path / "a.keras", tmp_path / "b.safetensors", layout=layout, verify=True)
    for agreement in (there, back):
        assert agreement.library == "timm"
        assert agreement.outputs == ("pooled features" if "num_classes" in options else "logits")
        assert agreement.relative_difference < 1e-5
    assert describe_file(tmp_path / "b.safetensors").layout == layout


def test_verify_with_options_and_half_precision(checkpoint, tmp_path):
    state = torch.load(checkpoint, weights_only=True)
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    torch.save({"model": state, "model_ema": {f"module.{k}": v for k, v in half.items()}}, tmp_path / "ema.pth")
    _, agreement = convert(tmp_path / "ema.pth", tmp_path / "m.keras", ema=True, bgr=True, verify=True)
    assert agreement.relative_difference < 1e-5
    kernel = keras.saving.load_model(tmp_path / "m.keras").get_layer("conv1").get_weights()[0]
    assert np.array_equal(kernel[:, :, ::-1].transpose(3, 2, 0, 1), half["conv1.weight"].float().numpy())


def test_what_does_not_agree_is_not_put_in_place(checkpoint, tmp_path, monkeypatch):
    (tmp_path / "m.keras").write_bytes(b"old")
    from keras_resnext import conversion

    def damaged(name, **options):
        model = load_model(name, **options)
        variable = model.get_layer("layer3_0_bn2").variables[0]
        variable.assign(variable * 1.01)
        return model

    monkeypatch.setattr(conversion, "load_model", damaged)
    with pytest.raises(ValueError, match=r"do not agree: layer3\.0\.bn2\.weight is not the same in both"):
        convert(checkpoint, tmp_path / "m.keras", verify=True)
    assert (tmp_path / "m.keras").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["m.keras"]


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (
            "m.onnx",
            {},
            r"target='.*m\.onnx' must be a name that ends in one of \.keras, \.weights\.h5, \.pth, \.pt, \.safetensors",
        ),
        (".pth", {}, r"target='.*\.pth' must be a name that ends in one of"),
        ("m.pth", dict(depht=50), r"depht: no option of ResNeXt; did you mean depth\?"),
        ("m.pth", dict(layout="tv"), "layout='tv' must be one of torchvision, mmcls, timm, open-mmlab"),
        ("m.keras", dict(layout="timm"), r"layout='timm' is for PyTorch files; target='.*m\.keras' is one of Keras"),
        ("none/m.keras", {}, r"target='.*none/m\.keras' is in a folder that does not exist"),
        ("folder.keras", {}, r"target='.*folder\.keras' is a folder"),
        ("m.keras", dict(verify=True, classes=7), "cannot compare a new random head; classes=7 makes one"),
        ("m.keras", dict(ema=True), "holds no moving average"),
    ],
)
def test_errors(checkpoint, target, options, message, tmp_path):
    (tmp_path / "folder.keras").mkdir()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        convert(checkpoint, tmp_path / target, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.keras"]


def test_options_that_the_source_cannot_have(checkpoint, tmp_path):
    model = randomise(ResNeXt(blocks=(1, 1, 1), stem="cifar", groups=4, base_channels=8, classes=4))
    save_keras(model, tmp_path / "m.keras")
    for source, options, message in (
        ("m.keras", dict(bgr=True), r"bgr=True is for PyTorch checkpoints; MODEL='.*m\.keras' is none"),
        ("m.keras", dict(classes=7), "is a Keras model as it is; classes cannot change it"),
        ("m.keras", dict(verify=True), "source or target must be a PyTorch file"),
    ):
        with pytest.raises(ValueError, match=message):
            convert(tmp_path / source, tmp_path / "out.weights.h5", **options)
    with pytest.raises(ValueError, match="neither torchvision nor timm has such a network"):
        convert(tmp_path / "m.keras", tmp_path / "out.pth", verify=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.keras"]


def test_info_of_every_kind(checkpoint, tmp_path):
    state = torch.load(checkpoint, weights_only=True)
    found = describe_file(checkpoint)
    assert (found.format, found.wrapper, found.layout) == ("torch.save, zip", "", "torchvision")
    assert (found.classes, found.dtypes, found.averaged, found.published) == (3, ("float32",), False, None)
    assert found.architecture == "ResNeXt-14 (1, 1, 1, 1), 4 groups of 4, 3 input channels"
    assert found.parameters == sum(
        value.numel() for k, value in state.items() if "running" not in k and "num_" not in k
    )
    mmcls = {("head." if k.startswith("fc") else "backbone.") + k: v.half() for k, v in state.items()}
    flat = {"ema_" + k.replace(".", "_"): v for k, v in mmcls.items()}
    torch.save({"state_dict": {**mmcls, **flat}}, tmp_path / "l.pth", _use_new_zipfile_serialization=False)
    found = describe_file(tmp_path / "l.pth")
    assert (found.format, found.wrapper, found.layout) == ("torch.save, legacy (before 1.6)", "state_dict", "mmcls")
    assert (found.dtypes, found.averaged) == (("float16",), True)
    torch.save({"epoch": torch.tensor(3), "model": {"weird.weight": torch.zeros(2)}}, tmp_path / "w.pth")
    found = describe_file(tmp_path / "w.pth")
    assert (found.architecture, found.classes, found.parameters) == ("no ResNeXt", None, 2)
    assert (found.layout, "expected blocks layer1.0" in found.problem) == ("unknown", True)
    incomplete = {k: v for k, v in state.items() if k != "layer2.0.bn2.bias"} | {"extra.weight": torch.zeros(2)}
    torch.save(incomplete, tmp_path / "i.pth")
    found = describe_file(tmp_path / "i.pth")
    assert (found.problem, found.left_out) == ("1 missing: layer2.0.norm2.bias", "extra.* (1)")
    for name in ("m.pth", "l.pth"):
        assert not describe_file(checkpoint if name == "m.pth" else tmp_path / name).problem


def test_info_names_the_architecture_and_loads_no_framework(tmp_path):
    save_keras(create("resnext26_32x4d", classes=6), tmp_path / "m.weights.h5")
    code = f"""
import sys
sys.argv = ["keras-resnext", "info", {str(tmp_path / "m.weights.h5")!r}]
from keras_resnext.cli import main
try:
    main()
finally:
    assert not [name for name in ("keras", "tensorflow", "torch") if name in sys.modules]
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    rows = dict(line.split(maxsplit=1) for line in shown.stdout.splitlines() if line)
    assert rows["architecture"] == "resnext26_32x4d"
    assert rows["classes"] == "6"


def test_info_of_bad_files(tmp_path):
    for name in ("a.pth", "a.keras", "a.weights.h5"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(ValueError, match=name):
            describe_file(tmp_path / name)
        with pytest.raises(FileNotFoundError, match=f"none.{name}"):
            describe_file(tmp_path / f"none.{name}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="a folder without weights"):
        describe_file(tmp_path / "empty")


def test_hostile_keras_files(tmp_path):
    """HDF5 can point to other files; nothing is followed."""
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["numbers"] = np.ones(3, "float32")
    for kind in ("external", "virtual", "link"):
        path = tmp_path / f"{kind}.weights.h5"
        with h5py.File(path, "w") as file:
            group = file.create_group("layers/conv/vars")
            group.attrs["name"] = "conv1"
            if kind == "external":
                group.create_dataset("0", (3,), "float32", external=[(str(secret), 0, 12)])
            elif kind == "virtual":
                layout = h5py.VirtualLayout((3,), "float32")
                layout[:] = h5py.VirtualSource(str(secret), "numbers", (3,))
                group.create_virtual_dataset("0", layout)
            else:
                group["0"] = h5py.ExternalLink(str(secret), "/numbers")
        with pytest.raises(ValueError, match=rf"{kind}\.weights\.h5: no readable Keras file"):
            read_keras_weights(path)
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("config.json", json.dumps([1]))
    for read in (read_keras_weights, read_preprocessing):
        with pytest.raises(ValueError, match="no readable Keras file"):
            read(tmp_path / "m.keras")


def test_small_files_that_claim_to_be_huge(tmp_path):
    with h5py.File(tmp_path / "huge.weights.h5", "w") as file:
        group = file.create_group("layers/conv/vars")
        group.attrs["name"] = "conv1"
        group.create_dataset("0", (1 << 20, 1 << 20), "float32", chunks=(64, 64))
    with zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", bytes(1 << 26))
    for name in ("huge.weights.h5", "bomb.keras"):
        with pytest.raises(
            ValueError, match=rf"{name}: no readable Keras file: .*( bytes out of \d+|not stored in one piece)"
        ):
            describe_file(tmp_path / name)
    with h5py.File(tmp_path / "twice.weights.h5", "w") as file:
        for place in ("a", "b"):
            group = file.create_group(f"layers/{place}/vars")
            group.attrs["name"] = "conv1"
            group["0"] = np.ones((1, 1, 2, 2), "float32")
    with pytest.raises(ValueError, match="two layers are called 'conv1'"):
        describe_file(tmp_path / "twice.weights.h5")


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "bfloat16", "float64"])
def test_other_dtype_policies(policy, checkpoint, tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = from_pytorch(checkpoint)
        save_keras(model, tmp_path / "m.keras")
        save_keras(model, tmp_path / "m.weights.h5")
        again = from_pytorch(read_keras_weights(tmp_path / "m.weights.h5"))
    finally:
        keras.config.set_dtype_policy(before)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), again.get_weights(), strict=True))
    convert(tmp_path / "m.keras", tmp_path / "b.pth", verify=policy != "float64")
    state = torch.load(tmp_path / "b.pth", weights_only=True)
    assert state["bn1.weight"].dtype == (getattr(torch, policy) if "mixed" not in policy else torch.float32)


def test_what_weights_cannot_hold_is_said(checkpoint, tmp_path):
    options = dict(style="caffe", dilations=[1, 1, 1, 2], conv_cfg={"type": "ConvWS"})
    convert(checkpoint, tmp_path / "caffe.keras", **options)
    with pytest.warns(
        UserWarning, match=r"b\.pth cannot hold style='caffe', dilations=\(1, 1, 1, 2\), conv_cfg=.*ConvWS"
    ):
        convert(tmp_path / "caffe.keras", tmp_path / "b.pth")
    with (
        pytest.warns(UserWarning, match="cannot hold"),
        pytest.raises(ValueError, match="neither torchvision nor timm has a network with style='caffe'"),
    ):
        convert(tmp_path / "caffe.keras", tmp_path / "c.pth", verify=True)
    assert not (tmp_path / "c.pth").exists()


def test_fixed_sizes_and_dead_heads_verify(checkpoint, tmp_path):
    convert(checkpoint, tmp_path / "m.keras", verify=True, input_shape=(64, 96, 3))
    convert(tmp_path / "m.keras", tmp_path / "m.pth", verify=True)
    state = {k: v * 0 if k.startswith("fc") else v for k, v in torch.load(checkpoint, weights_only=True).items()}
    torch.save(state, tmp_path / "zero.safetensors")  # the name lies
    _, agreement = convert(tmp_path / "zero.safetensors", tmp_path / "z.keras", verify=True)
    assert agreement.largest_difference == 0


def test_links_are_followed(checkpoint, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link.keras").symlink_to(tmp_path / "elsewhere" / "real.keras")
    convert(checkpoint, tmp_path / "link.keras")
    assert (tmp_path / "link.keras").is_symlink()
    assert sorted(path.name for path in tmp_path.rglob("*.keras")) == ["link.keras", "real.keras"]


def test_commands(checkpoint, tmp_path, capsys):
    code, out, err = run("convert", checkpoint, tmp_path / "m.keras", "--verify", capsys=capsys)
    assert (code, err) == (0, "")
    assert "logits against torchvision: largest difference" in out
    assert read_preprocessing(tmp_path / "m.keras") == Preprocessing()
    code, out, err = run("convert", checkpoint, tmp_path / "m7.pth", "--classes", 7, "--layout", "mmcls", capsys=capsys)
    assert code == 0
    assert err == (
        "keras-resnext: warning: the checkpoint has a head of 3 classes and the model one of 7: "
        "it starts at random and must be trained\n"
    )
    options = ["--option", "style=caffe", "--option", "dilations=[1, 1, 2, 2]"]
    assert run("convert", checkpoint, tmp_path / "c.keras", *options, capsys=capsys)[0] == 0
    layers = keras.saving.load_model(tmp_path / "c.keras")
    assert layers.get_layer("layer2_0_conv1").strides == (2, 2)
    assert layers.get_layer("layer3_0_conv2").dilation_rate == (2, 2)
    code, out, _ = run("info", tmp_path / "m7.pth", capsys=capsys)
    assert code == 0
    for words in ("mmcls", "7", "float32", "torch.save, zip"):
        assert words in out
    (tmp_path / "empty").mkdir()
    for arguments in (
        ["convert", checkpoint, tmp_path / "m.txt"],
        ["convert", tmp_path / "none.pth", tmp_path / "m.keras"],
        ["convert", checkpoint, tmp_path / "m.keras", "--layout", "x"],
        ["convert", checkpoint, tmp_path / "m.keras", "--ema"],
        ["convert", checkpoint],
        ["info", tmp_path / "none.pth"],
        ["info", ROOT / "README.md"],
        ["convert", checkpoint, tmp_path / "m.keras", "--option", "style"],
        ["convert", checkpoint, tmp_path / "m.keras", "--option", "style=pretty"],
        ["convert", tmp_path / "empty", tmp_path / "m.keras"],
    ):
        code, out, err = run(*arguments, capsys=capsys)
        assert (code, out, err.count("\n")) == (2, "", 1), err


def test_the_script_is_the_command(checkpoint, tmp_path):
    script = [sys.executable, str(ROOT / "tools" / "convert_pytorch.py")]
    done = subprocess.run([*script, checkpoint, tmp_path / "m.keras"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert load_model(tmp_path / "m.keras").output_shape == (None, 3)
    failed = subprocess.run([*script, "none.pth", "m.keras"], capture_output=True, text=True, cwd=tmp_path)
    assert (failed.returncode, failed.stderr.count("\n")) == (2, 1)
    assert "none.pth" in failed.stderr


@pytest.mark.slow
def test_killed_while_converting_the_target_is_old_or_new(checkpoint, tmp_path):
    target = tmp_path / "m.keras"
    target.write_bytes(b"old")
    code = f"""
from keras_resnext.conversion import convert
print("ready", flush=True)
while True:
    convert({str(checkpoint)!r}, {str(target)!r})
"""
    rng = np.random.default_rng(0)
    running = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert running.stdout.readline() == b"ready\n"
    for _ in range(5):  # stopped and looked at, as if it had died there
        time.sleep(rng.uniform(0, 1))
        running.send_signal(signal.SIGSTOP)
        if target.read_bytes() != b"old":
            assert describe_file(target).problem == ""
        running.send_signal(signal.SIGCONT)
    running.kill()
    running.wait()
    if target.read_bytes() != b"old":
        assert load_model(target).output_shape == (None, 3)
