"""Checkpoints that differ from the model: classes, input channels, colours, moving averages, missing heads."""

import argparse
import warnings

import numpy as np
import pytest
import torch

from keras_resnext import ResNeXt, from_pytorch, load_pytorch_weights
from tests import references
from tests.support import relative_error

OPTIONS = dict(classifier_activation=None)
TINY = dict(blocks=(1, 1, 1, 1), groups=4, width_per_group=4)


@pytest.fixture(scope="module")
def module():
    from torchvision.models.resnet import Bottleneck, ResNet

    return references.randomise(ResNet(Bottleneck, [1, 1, 1, 1], groups=4, width_per_group=4, num_classes=5))


@pytest.fixture
def state(module):
    return dict(module.state_dict())


def images(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def test_other_classes(state, module, tmp_path):
    torch.save(state, tmp_path / "m.pth")
    for build in (
        lambda: from_pytorch(state, classes=7, **OPTIONS),
        lambda: ResNeXt(**TINY, classes=7, weights=tmp_path / "m.pth", **OPTIONS),
    ):
        with pytest.warns(UserWarning, match="a head of 5 classes and the model one of 7: it starts at random"):
            model = build()
        kernel, bias = model.get_layer("fc").get_weights()
        assert kernel.shape == (2048, 7)
        assert kernel.std() == pytest.approx(0.01, rel=0.1)
        assert not bias.any()
        assert np.array_equal(model.get_layer("bn1").get_weights()[0], state["bn1.weight"].numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_pytorch(state, classes=5)
    model = ResNeXt(**TINY, classes=7)
    with pytest.raises(ValueError, match=r"2 of another shape: fc\.weight: \(5, 2048\) in the checkpoint, \(7, 2048\)"):
        load_pytorch_weights(model, state)
    with pytest.warns(UserWarning, match="starts at random"):
        load_pytorch_weights(model, state, adapting=True)


def test_backbone_only_files(state, module):
    backbone = {f"backbone.{name}": value for name, value in state.items() if not name.startswith("fc.")}
    x = images(1, 64, 64, 3)
    pooled = from_pytorch(backbone, pooling="avg").predict_on_batch(x)
    module.fc, head = torch.nn.Identity(), module.fc
    expected = references.logits(module, x)
    module.fc = head
    assert relative_error(pooled, expected) < 1e-5
    assert from_pytorch(backbone).output_shape == (None, None, None, 2048)
    with pytest.warns(UserWarning, match="no head and the model one of 3"):
        assert from_pytorch(backbone, classes=3).output_shape == (None, 3)
    with pytest.raises(ValueError, match=r"2 missing: fc\.weight; fc\.bias"):
        load_pytorch_weights(ResNeXt(**TINY, classes=5), backbone)


def test_one_channel_gives_what_the_grey_image_repeated_gives(state, module):
    grey = images(2, 64, 64, 1)
    with pytest.warns(UserWarning, match="3 input channels in the checkpoint and 1 in the model: summed over them"):
        model = from_pytorch(state, input_shape=(64, 64, 1), **OPTIONS)
    expected = references.logits(module, np.repeat(grey, 3, axis=-1))
    assert relative_error(model.predict_on_batch(grey), expected) < 1e-5


@pytest.mark.parametrize("channels", [2, 4, 6, 7])
def test_more_channels_as_timm_adapts_them(state, module, channels):
    from timm.models import adapt_input_conv

    with pytest.warns(UserWarning, match=rf"{channels} in the model: tiled and scaled by 3/{channels}"):
        model = from_pytorch(state, input_shape=(None, None, channels), **OPTIONS)
    expected = adapt_input_conv(channels, state["conv1.weight"]).numpy().transpose(2, 3, 1, 0)
    assert relative_error(model.get_layer("conv1").get_weights()[0], expected) < 1e-6
    with pytest.raises(
        ValueError, match=rf"conv1\.weight: \(64, 3, 7, 7\) in the checkpoint, \(64, {channels}, 7, 7\)"
    ):
        load_pytorch_weights(ResNeXt(**TINY, classes=5, input_shape=(None, None, channels)), state)


def test_deep_stems_adapt_too():
    reference = references.timm_model("resnext50d_32x4d", cardinality=2, base_width=4, num_classes=3)
    with pytest.warns(UserWarning, match=r"conv1\.0\.weight has 3 input channels"):
        model = from_pytorch(dict(reference.state_dict()), input_shape=(None, None, 1), **OPTIONS)
    grey = images(1, 64, 64, 1)
    assert relative_error(model.predict_on_batch(grey), references.logits(reference, np.repeat(grey, 3, -1))) < 1e-5


def test_bgr_checkpoints_take_rgb_images(state, module, tmp_path):
    rgb = images(2, 64, 64, 3)
    expected = references.logits(module, rgb[..., ::-1].copy())
    assert relative_error(from_pytorch(state, bgr=True, **OPTIONS).predict_on_batch(rgb), expected) < 1e-5
    model = ResNeXt(**TINY, classes=5, **OPTIONS)
    load_pytorch_weights(model, state, bgr=True)
    kernel = state["conv1.weight"].numpy()[:, ::-1].transpose(2, 3, 1, 0)
    assert np.array_equal(model.get_layer("conv1").get_weights()[0], kernel)
    one = {**state, "conv1.weight": state["conv1.weight"][:, :1]}
    with pytest.raises(ValueError, match=r"bgr=True needs .* three channels; conv1\.weight has shape \(64, 1, 7, 7\)"):
        from_pytorch(one, bgr=True)
    with pytest.raises(ValueError, match="bgr=True, but the checkpoint has no first convolution"):
        from_pytorch({"fc.weight": np.zeros((2, 2))}, bgr=True)


def averaged(state):
    return {name: value * 2 if value.is_floating_point() else value for name, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {
            "model": s,
            "model_ema": {"n_averaged": torch.tensor(3), **{f"module.{k}": v for k, v in averaged(s).items()}},
        },
        lambda s: {"state_dict": s, "state_dict_ema": averaged(s), "epoch": 3, "args": argparse.Namespace(lr=0.1)},
        lambda s: {"model_ema": {"state_dict": averaged(s)}, "state_dict": s},
    ],
)
def test_moving_averages_by_option(state, wrap, tmp_path):
    torch.save(wrap(state), tmp_path / "m.pth")
    weights = state["layer1.0.bn1.weight"].numpy()
    for ema, factor in ((False, 1), (True, 2)):
        model = from_pytorch(tmp_path / "m.pth", ema=ema)
        assert np.array_equal(model.get_layer("layer1_0_bn1").get_weights()[0], factor * weights)


def test_mmcvs_flat_moving_averages(state, tmp_path):
    """EMAHook copies parameters, not statistics, into buffers of the model."""
    own = {("head." if name.startswith("fc") else "backbone.") + name: value for name, value in state.items()}
    copies = {
        "ema_" + name.replace(".", "_"): value * 2
        for name, value in own.items()
        if "running" not in name and "num_batches" not in name
    }
    torch.save({"meta": {}, "state_dict": {**own, **copies}}, tmp_path / "m.pth")
    for ema, factor in ((False, 1), (True, 2)):
        model = from_pytorch(tmp_path / "m.pth", ema=ema)
        gamma, _, mean, _ = model.get_layer("layer1_0_bn1").get_weights()
        assert np.array_equal(gamma, factor * state["layer1.0.bn1.weight"].numpy())
        assert np.array_equal(mean, state["layer1.0.bn1.running_mean"].numpy())


def test_no_moving_average(state, tmp_path):
    for content in (state, {"state_dict": state}):
        with pytest.raises(ValueError, match="ema=True, but the checkpoint holds no moving average"):
            from_pytorch(content, ema=True)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_and_adapted_at_once(state, dtype):
    half = {k: v.to(getattr(torch, dtype)) if v.is_floating_point() else v for k, v in state.items()}
    with pytest.warns(UserWarning, match="checkpoint") as notes:
        model = from_pytorch(half, classes=2, input_shape=(None, None, 1))
    assert len(notes) == 2
    expected = half["conv1.weight"].float().sum(1, keepdim=True).numpy().transpose(2, 3, 1, 0)
    assert relative_error(model.get_layer("conv1").get_weights()[0], expected) < 1e-6
