"""Back to PyTorch: files that torch, safetensors and each library's own network accept, bit for bit."""

import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from keras_resnext import ResNeXt, from_pytorch, save_pytorch_weights
from keras_resnext.pytorch import read_checkpoint
from keras_resnext.weights.assign import state_dict, structure_of
from keras_resnext.weights.keras_files import read_keras_weights, save_keras
from keras_resnext.weights.layouts import LAYOUTS, detect_layout, layout_names
from keras_resnext.weights.names import canonical_names
from tests import references
from tests.support import randomise, relative_error

SMALL = dict(blocks=(1, 2, 1, 1), groups=4, width_per_group=4, classes=5, input_shape=(64, 64, 3))


def torchvision_module(**options):
    from torchvision.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, [1, 2, 1, 1], groups=4, width_per_group=4, num_classes=5, **options)


def timm_module(**options):
    from timm.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, [1, 2, 1, 1], cardinality=4, base_width=4, num_classes=5, **options)


DEEP = dict(stem_type="deep", stem_width=32, avg_down=True)
CASES = {
    "torchvision": (torchvision_module, {}, {}),
    "timm": (timm_module, {}, {}),
    "timm, deep stem and pooling": (timm_module, DEEP, dict(deep_stem=True, avg_down=True)),
    "timm, squeeze-and-excitation": (timm_module, {"block_args": {"attn_layer": "se"}}, dict(se_ratio=16)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_librarys_own_network_takes_it_strictly_and_computes_the_same(case, tmp_path):
    build, library_options, options = CASES[case]
    model = randomise(ResNeXt(**SMALL, **options, classifier_activation=None))
    module = build(**library_options).eval()
    x = np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype("float32")
    scores = model(x, training=False)
    for suffix in (".pth", ".pt", ".safetensors"):
        path = tmp_path / f"m{suffix}"
        save_pytorch_weights(model, path, layout=case.split(",")[0])
        state = load_file(path) if suffix == ".safetensors" else torch.load(path, weights_only=True)
        references.randomise(module)
        module.load_state_dict(state, strict=True)
        counters = [value for name, value in state.items() if name.endswith("num_batches_tracked")]
        assert len(counters) == sum("running_var" in name for name in state)
        assert {(value.dtype, value.shape, int(value)) for value in counters} == {(torch.int64, (), 0)}
        assert relative_error(scores, references.logits(module, x)) < 1e-5


@pytest.mark.parametrize("case", CASES)
def test_round_trips_are_bit_equal(case, tmp_path):
    """PyTorch to Keras to a .keras file to Keras weights to PyTorch: every entry, counters included."""
    build, library_options, _ = CASES[case]
    state = references.randomise(build(**library_options)).state_dict()
    torch.save(state, tmp_path / "a.pth")
    model = from_pytorch(tmp_path / "a.pth")
    save_keras(model, tmp_path / "a.keras")
    save_keras(keras.saving.load_model(tmp_path / "a.keras"), tmp_path / "a.weights.h5")
    again = from_pytorch(read_keras_weights(tmp_path / "a.weights.h5"))
    save_pytorch_weights(again, tmp_path / "b.pth", layout=case.split(",")[0])
    back = torch.load(tmp_path / "b.pth", weights_only=True)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) and back[name].dtype == state[name].dtype for name in state)


def test_mmcls_names(tmp_path):
    """Those that the golden files of mmcls 0.25.0 show; its own network was tried when these tests were written."""
    model = randomise(ResNeXt(**SMALL, deep_stem=True, avg_down=True, se_ratio=16))
    save_pytorch_weights(model, tmp_path / "m.pth", layout="mmcls")
    names = set(read_checkpoint(tmp_path / "m.pth").data)
    for name in (
        "backbone.stem.0.conv.weight",
        "backbone.stem.2.bn.num_batches_tracked",
        "backbone.layer1.0.downsample.0.weight",
        "backbone.layer2.0.downsample.1.weight",
        "backbone.layer2.0.downsample.2.running_var",
        "backbone.layer2.1.se_layer.conv2.conv.bias",
        "head.fc.weight",
    ):
        assert name in names
    for before, after in zip(model.get_weights(), from_pytorch(tmp_path / "m.pth").get_weights(), strict=True):
        assert np.array_equal(before, after)
    grouped = ResNeXt(**SMALL, norm_cfg={"type": "GN", "num_groups": 4})
    save_pytorch_weights(grouped, tmp_path / "gn.pth", layout="mmcls")
    assert "backbone.layer1.0.gn2.weight" in read_checkpoint(tmp_path / "gn.pth").data
    save_pytorch_weights(grouped, tmp_path / "bare.pth", layout="open-mmlab")
    assert {"layer1.0.gn2.weight", "conv1.weight"} < read_checkpoint(tmp_path / "bare.pth").data.keys()
    save_pytorch_weights(grouped, tmp_path / "gn.pth")
    data = read_checkpoint(tmp_path / "gn.pth").data
    assert "layer1.0.bn2.weight" in data
    assert not any("running" in name or "num_batches" in name for name in data)


FEATURES = st.fixed_dictionaries(
    {},
    optional={
        "deep_stem": st.just(True),
        "avg_down": st.just(True),
        "se_ratio": st.sampled_from([4, 16]),
        "include_top": st.just(False),
        "num_stages": st.sampled_from([1, 2, 3]),
        "norm_cfg": st.sampled_from([{"type": "GN", "num_groups": 4}, {"type": "BN"}]),
        "stem_channels": st.sampled_from([16, 32]),
    },
)


@settings(max_examples=15)
@given(options=FEATURES, layout=st.sampled_from(list(LAYOUTS)))
def test_names_lead_back_to_the_same_entries(options, layout):
    stages = options.get("num_stages", 4)
    model = ResNeXt(
        blocks=(1,) * stages,
        groups=4,
        base_channels=8,
        strides=(1, 2, 2, 2)[:stages],
        dilations=(1,) * stages,
        **options,
    )
    names, structure = list(state_dict(model)), structure_of(model)
    if layout == "torchvision" and options.keys() & {"deep_stem", "se_ratio"}:
        with pytest.raises(ValueError, match="layout='torchvision' has no"):
            layout_names(names, layout, structure)
        return
    if layout == "torchvision" and "avg_down" in options and stages > 1:
        with pytest.raises(ValueError, match="has no average pooling in shortcuts; choose mmcls or timm or open-mmlab"):
            layout_names(names, layout, structure)
        return
    renamed = layout_names(names, layout, structure)
    canonical = canonical_names(names)
    assert len(set(renamed.values())) == len(names)
    assert canonical_names(renamed.values()) == {renamed[name]: canonical[name] for name in names}
    if "backbone.conv1.weight" in renamed.values() or "se_ratio" in options:
        assert detect_layout(renamed.values()) == {"open-mmlab": "mmcls"}.get(layout, layout)


def test_what_cannot_be_saved(tmp_path):
    model = ResNeXt(**SMALL)
    for path, layout, message in (
        ("m.onnx", "timm", r"must end in one of \.pth, \.pt, \.safetensors"),
        ("m.pth", "keras", "layout='keras' must be one of torchvision, mmcls, timm, open-mmlab"),
    ):
        with pytest.raises(ValueError, match=message):
            save_pytorch_weights(model, tmp_path / path, layout)
    foreign = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="is not built by ResNeXt: layer 'dense"):
        save_pytorch_weights(foreign, tmp_path / "m.pth")
    for path in ("m.h5", "m.pth", "m"):
        with pytest.raises(ValueError, match=r"must end in one of \.keras, \.weights\.h5"):
            save_keras(model, tmp_path / path)
    with pytest.raises(OSError, match="nowhere"):
        save_pytorch_weights(model, tmp_path / "nowhere" / "m.pth")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".pth", ".safetensors"])
def test_a_full_disk_keeps_the_old_file(suffix, tmp_path, monkeypatch):
    model, path = ResNeXt(**SMALL), tmp_path / f"m{suffix}"
    path.write_bytes(b"old")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        (save_keras if "keras" in suffix or "h5" in suffix else save_pytorch_weights)(model, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_killed_while_saving_the_file_is_old_or_new(tmp_path):
    """In every format: the process is stopped at any moment and what lies there is read."""
    paths = [tmp_path / f"m{suffix}" for suffix in (".keras", ".weights.h5", ".pth", ".safetensors")]
    code = f"""
import pathlib, random
from keras_resnext import ResNeXt, save_pytorch_weights
from keras_resnext.weights.keras_files import save_keras
model = ResNeXt(blocks=(1, 1, 1, 1))
def save(path):
    (save_keras if path.suffix in (".keras", ".h5") else save_pytorch_weights)(model, path)
paths = [pathlib.Path(path) for path in {list(map(str, paths))!r}]
for path in paths:
    save(path)
print("saved", flush=True)
while True:
    save(random.choice(paths))
"""

    def read(path):
        return read_keras_weights(path) if path.suffix in (".keras", ".h5") else read_checkpoint(path).data

    rng = np.random.default_rng(0)
    running = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert running.stdout.readline() == b"saved\n"
    for _ in range(6):  # stopped and looked at, as if it had died there
        time.sleep(rng.uniform(0, 0.3))
        running.send_signal(signal.SIGSTOP)
        for path in paths:
            assert all(np.isfinite(array).all() for array in read(path).values())
        running.send_signal(signal.SIGCONT)
    running.kill()
    running.wait()
    for path in paths:
        assert from_pytorch(read(path)).output_shape == (None, 1000)
