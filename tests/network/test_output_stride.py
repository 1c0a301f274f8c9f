"""`output_stride`: strides that become dilations, map by map as timm and torchvision compute them."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import torch

from keras_resnext import ResNeXt, from_pytorch
from keras_resnext.weights.assign import structure_of
from keras_resnext.weights.info import describe_file
from tests import references
from tests.support import relative_error

BLOCKS, CHANNELS = (1, 2, 2, 2), (16, 32, 64, 128)
TINY = dict(blocks=BLOCKS, groups=4, width_per_group=4, base_channels=16)


def of_timm(name, output_stride):
    """timm's network, narrow, with random numbers."""
    import timm
    from timm.models import byobnet

    if name in byobnet.model_cfgs:
        kind = byobnet.model_cfgs[name]
        stages = tuple(replace(s, d=d, c=c * 4, gs=4) for s, d, c in zip(kind.blocks, BLOCKS, CHANNELS, strict=True))
        return byobnet.ByobNet(replace(kind, blocks=stages), num_classes=3, output_stride=output_stride)
    narrow = dict(layers=BLOCKS, channels=CHANNELS, num_classes=3, cardinality=4, base_width=16)
    return timm.create_model(name, output_stride=output_stride, **narrow)


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [("resnext50_32x4d", 16), ("seresnextaa101d_32x8d", 8), ("skresnext50_32x4d", 8), ("gcresnext26ts", 8)],
)
def test_maps_are_timms(name, output_stride):
    network = references.randomise(of_timm(name, output_stride)).eval()
    state = {key: value.numpy() for key, value in network.state_dict().items()}
    maps = from_pytorch(state, output_stride=output_stride, out_indices=(0, 1, 2, 3), **UNSEEN.get(name, {}))
    x = np.random.default_rng(0).standard_normal((1, 64, 64, 3)).astype("float32")
    with torch.no_grad():
        wanted = network.forward_intermediates(torch.from_numpy(x.transpose(0, 3, 1, 2)), intermediates_only=True)[-4:]
    for ours, theirs in zip(maps(x, training=False), wanted, strict=True):
        assert relative_error(ours, theirs.numpy().transpose(0, 2, 3, 1)) < 1e-5
    assert [theirs.shape[-1] for theirs in wanted] == [max(64 // output_stride, side) for side in (16, 8, 4, 2)]


UNSEEN = {"seresnextaa101d_32x8d": dict(antialias=True, stem_pool="avg")}


def test_maps_are_those_of_a_detectors_backbone():
    """In torchvision's detectors the network stands under backbone.body, with BatchNorm that cannot learn."""
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.resnet import Bottleneck, ResNet
    from torchvision.ops import FrozenBatchNorm2d

    network = ResNet(Bottleneck, list(BLOCKS), groups=4, width_per_group=4, norm_layer=FrozenBatchNorm2d)
    layers = {f"layer{i}": str(i) for i in (1, 2, 3, 4)}
    backbone = references.randomise(BackboneWithFPN(network, layers, [256, 512, 1024, 2048], 8)).eval()
    state = {f"backbone.{key}": value.numpy() for key, value in backbone.state_dict().items()}
    with pytest.warns(UserWarning, match=r"left out: backbone\.fpn"):
        model = from_pytorch(state, include_top=False, out_indices=(0, 1, 2, 3))
    x = np.random.default_rng(0).standard_normal((1, 64, 96, 3)).astype("float32")
    with torch.no_grad():
        wanted = backbone.body(torch.from_numpy(x.transpose(0, 3, 1, 2))).values()
    for ours, theirs in zip(model(x, training=False), wanted, strict=True):
        assert relative_error(ours, theirs.numpy().transpose(0, 2, 3, 1)) < 1e-5


@pytest.mark.parametrize(("output_stride", "replaced"), [(8, (False, True, True)), (16, (False, False, True))])
def test_maps_are_torchvisions(output_stride, replaced):
    from torchvision.models.resnet import Bottleneck, ResNet

    network = ResNet(Bottleneck, list(BLOCKS), groups=4, width_per_group=4, replace_stride_with_dilation=list(replaced))
    references.randomise(network).eval()
    state = {key: value.numpy() for key, value in network.state_dict().items()}
    model = from_pytorch(state, output_stride=output_stride, include_top=False)
    x = np.random.default_rng(0).standard_normal((1, 64, 96, 3)).astype("float32")
    body = torch.nn.Sequential(*list(network.children())[:-2])
    with torch.no_grad():
        wanted = body(torch.from_numpy(x.transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)
    assert relative_error(model(x, training=False), wanted) < 1e-5


@pytest.mark.parametrize("options", [{}, dict(deep_stem=True, avg_down=True), dict(blocks=(1, 1, 1, 1), avg_down=True)])
def test_files_keep_it(options, tmp_path):
    model = ResNeXt(**{**TINY, **options}, output_stride=8, include_top=False)
    assert structure_of(model).output_stride == 8
    model.save(tmp_path / "m.keras")
    assert structure_of(keras.saving.load_model(tmp_path / "m.keras")) == structure_of(model)
    assert describe_file(tmp_path / "m.keras").structure == structure_of(model)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(output_stride=4), "output_stride=4 is unknown; choose one of 8, 16, 32"),
        (dict(output_stride=8, dilations=(1, 1, 2, 4)), r"leave strides=.* and dilations=\(1, 1, 2, 4\) out, or"),
        (dict(output_stride=16, stem="cifar", depth=29), "for stem='imagenet'"),
    ],
)
def test_what_does_not_fit_is_an_error(options, words):
    with pytest.raises(ValueError, match=words):
        ResNeXt(**options)
