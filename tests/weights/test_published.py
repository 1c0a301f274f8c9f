"""The table of published checkpoints: facts against torchvision's and timm's own, names, and that all convert."""

import re

import numpy as np
import pytest
import torch

from keras_resnext import Preprocessing, create, from_pytorch, list_pretrained
from keras_resnext.network.architectures import ARCHITECTURES
from keras_resnext.weights.assign import TO_KERAS, model_variables
from keras_resnext.weights.infer import expected_shapes, infer_from_names
from keras_resnext.weights.names import canonical_names
from keras_resnext.weights.published import PUBLISHED, find_by_file_name, find_by_sha256, find_published
from tests import references
from tests.support import relative_error, without_weights

ROWS = {row.name: row for row in PUBLISHED}


def test_names_are_unique_and_architectures_known():
    assert len(ROWS) == len(PUBLISHED) == 21
    assert list_pretrained() == list(ROWS)
    assert len({row.url for row in PUBLISHED}) == 21
    for row in PUBLISHED:
        assert row.architecture in ARCHITECTURES
        assert re.fullmatch(r"[0-9a-f]{8}", row.sha256_prefix)
        assert row.url.startswith("https://")
        assert 70 < row.top1 < (row.top5 or 100) <= 100


def test_facts_agree_with_torchvision():
    import torchvision

    found = 0
    for row in PUBLISHED:
        if row.source != "torchvision":
            continue
        enum = torchvision.models.get_model_weights(row.architecture)[row.tag.upper()]
        assert enum.url == row.url
        assert enum.meta["_metrics"]["ImageNet-1K"] == {"acc@1": row.top1, "acc@5": row.top5}
        transform = enum.transforms()
        assert (transform.crop_size, transform.resize_size) == ([row.preprocessing.size], [row.preprocessing.resize])
        assert transform.interpolation.value == row.preprocessing.interpolation
        assert row.preprocessing.mean == pytest.approx([255 * value for value in transform.mean])
        assert row.preprocessing.std == pytest.approx([255 * value for value in transform.std])
        found += 1
    assert found == 5


def test_facts_agree_with_timm():
    import timm

    found = 0
    for row in PUBLISHED:
        if row.source != "timm":
            continue
        facts = timm.models.get_pretrained_cfg(f"{row.architecture}.{row.tag}")
        if facts is None:
            assert "32x48d" in row.architecture  # this timm lists the file and lacks the function that builds it
            continue
        assert facts.url.rsplit("/", 1)[1] == row.file
        assert facts.license.upper() == row.licence.upper()
        size = facts.input_size[-1]
        expected = (size, int(size / facts.crop_pct), facts.interpolation)
        preprocessing = row.preprocessing
        assert (preprocessing.size, preprocessing.resize, preprocessing.interpolation) == expected
        assert preprocessing.mean == pytest.approx([255 * value for value in facts.mean])
        found += 1
    assert found == 11


def test_short_names_mean_the_best_that_may_be_used_commercially():
    assert find_published("imagenet", "resnext50_32x4d").name == "torchvision/resnext50_32x4d.imagenet1k_v2"
    assert find_published("imagenet", "resnext101_64x4d").name == "torchvision/resnext101_64x4d.imagenet1k_v1"
    assert find_published("imagenet", "resnext101_32x4d").name == "mmcls/resnext101_32x4d"
    assert find_published("timm", "resnext50_32x4d").name == "timm/resnext50_32x4d.a1h_in1k"
    assert find_published("imagenet/seresnext50_32x4d").name == "timm/seresnext50_32x4d.racm_in1k"
    for architecture in ARCHITECTURES:
        try:
            assert find_published("imagenet", architecture).commercial
        except ValueError:
            assert not any(row.commercial for row in PUBLISHED if row.architecture == architecture)
    named = find_published("timm/resnext101_32x16d.fb_wsl_ig1b_ft_in1k", "resnext101_32x16d")
    assert not named.commercial


@pytest.mark.parametrize(
    ("name", "architecture", "message"),
    [
        ("imagenet", "resnext101_32x16d", r"choose one of timm/.*fb_wsl_ig1b_ft_in1k \(CC-BY-NC-4\.0\)"),
        ("imagenet", "resnext26_32x4d", "none are known of resnext26_32x4d"),
        ("mmcls/resnext50_32x4d", "resnext101_32x4d", "no name of published weights of resnext101_32x4d"),
        ("mmcls/resnext51", None, "'mmcls/resnext51' is no name of published weights; choose one of torchvision/"),
        ("timm/resnext101_32x16d", None, "is no name"),
        ("imagenet", None, "is no name"),
        ("", None, "is no name"),
    ],
)
def test_unknown_names(name, architecture, message):
    with pytest.raises(ValueError, match=message):
        find_published(name, architecture)


def test_rows_by_file():
    row = PUBLISHED[0]
    assert find_by_file_name("resnext50_32x4d-7cdf4587.pth") is row
    assert find_by_sha256("7cdf4587" + "0" * 56) is row
    assert find_by_file_name("resnext50_32x4d.pth") is None
    assert find_by_sha256("0" * 64) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(size=0), "size=0 must be an integer of at least 1"),
        (dict(size="224"), "size='224' must be an integer"),
        (dict(resize=223), "resize=223 must be an integer of at least 224"),
        (dict(resize=256.0), "resize=256.0 must be an integer"),
        (dict(interpolation="area"), "interpolation='area' must be one of bilinear, bicubic"),
        (dict(mean=(1, 2)), r"mean=\(1, 2\) must be three finite numbers"),
        (dict(std=(1, 0, 1)), r"std=\(1, 0, 1\) must be three finite numbers above 0"),
        (dict(mean="abc"), "mean='abc' must be three finite numbers"),
        (dict(std=(1, float("nan"), 1)), "std=.* must be three finite numbers above 0"),
        (dict(std=(-1, 1, 1)), r"std=\(-1, 1, 1\) must be three finite numbers above 0"),
    ],
)
def test_preprocessing_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**options)


def test_preprocessing_completes_itself():
    assert Preprocessing(size=288).resize == 329
    assert Preprocessing(size=np.int64(32)) == Preprocessing(32, 32, mean=[123.675, 116.28, 103.53])


def reference_module(row, blocks):
    """The source's own network."""
    architecture = ARCHITECTURES[row.architecture]
    groups, width = architecture.groups, architecture.width_per_group
    if row.source == "timm":
        from timm.models.resnet import Bottleneck, ResNet

        options = {"stem_type": "deep", "stem_width": 32, "avg_down": True} if "50d" in row.architecture else {}
        attention = {"block_args": {"attn_layer": "se"}} if row.architecture.startswith("se") else {}
        return ResNet(Bottleneck, blocks, cardinality=groups, base_width=width, **options, **attention)
    from torchvision.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, blocks, groups=groups, width_per_group=width)


# One of the rows that have the same network of the same source under the same names.
DISTINCT = {(row.source, row.architecture): name for name, row in ROWS.items()}.values()


@pytest.mark.parametrize("name", DISTINCT)
def test_every_row_is_its_architecture(name):
    """The source's network, whole and without its numbers: every entry's name and shape."""
    row = ROWS[name]
    architecture = ARCHITECTURES[row.architecture]
    with torch.device("meta"):
        state = reference_module(row, list(architecture.structure.blocks)).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    assert infer_from_names(shapes) == architecture.structure
    with without_weights():
        wanted = {name: variable.shape for name, variable in model_variables(create(row.architecture)).items()}
    canonical = canonical_names(shapes)
    found = {canonical[name]: shape for name, shape in shapes.items()}
    assert found == expected_shapes(architecture.structure)
    assert found.keys() == wanted.keys()
    for name, shape in found.items():
        axes = TO_KERAS.get(len(shape), range(len(shape)))
        assert tuple(shape[axis] for axis in axes) == wanted[name], name


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTINCT)
def test_every_row_converts(name, tmp_path):
    """The numbers, at full width with one block a stage, out of a file as the source writes it."""
    row = ROWS[name]
    module = references.randomise(reference_module(row, [1, 1, 1, 1]))
    state = module.state_dict()
    x = np.random.default_rng(0).standard_normal((1, 32, 32, 3)).astype("float32")
    expected = references.logits(module, x)
    if row.source == "mmcls":  # as it publishes: its names, wrapped, in the old format
        state = {("head." if k.startswith("fc") else "backbone.") + k: v for k, v in state.items()}
        torch.save({"meta": {}, "state_dict": state}, tmp_path / row.file, _use_new_zipfile_serialization=False)
    else:
        torch.save(state, tmp_path / row.file)
    del module, state
    model = from_pytorch(tmp_path / row.file, classifier_activation=None)
    (tmp_path / row.file).unlink()
    assert relative_error(model(x, training=False), expected) < 1e-5
