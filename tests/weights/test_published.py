"""The table of published checkpoints: facts against torchvision's and timm's own, and what names mean."""

import re

import numpy as np
import pytest

from keras_resnext import Preprocessing, list_pretrained
from keras_resnext.network.architectures import ARCHITECTURES
from keras_resnext.weights.published import PUBLISHED, find_by_file_name, find_by_sha256, find_published
from tests import references  # noqa: F401  declares what torchvision needs to import

ROWS = {row.name: row for row in PUBLISHED}


def test_names_are_unique_and_architectures_known():
    assert len(ROWS) == len(PUBLISHED) == 71
    assert list_pretrained() == list(ROWS)
    assert len({row.file for row in PUBLISHED}) == 71 - 5 - 4  # timm's of torchvision's, and mmpretrain's of mmcls's
    for row in PUBLISHED:
        assert row.architecture in ARCHITECTURES
        assert re.fullmatch(r"[0-9a-f]{8,9}", row.sha256_prefix) or row.hub in row.url
        assert row.url.startswith("https://")
        assert row.classes in (0, 1000, 11821)
        if row.classes == 1000:
            assert 70 < row.top1 < (row.top5 or 100) <= 100
            assert row.test_top1 is None or row.top1 < row.test_top1 < 88
        else:
            assert row.top1 is row.top5 is row.test_top1 is None


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
        assert facts.url == row.url if facts.url else row.hub in row.url
        assert (facts.hf_hub_id or "", facts.num_classes) == (row.hub, row.classes)
        assert facts.license.upper() == row.licence.upper()
        size = facts.input_size[-1]
        expected = (size, int(size / facts.crop_pct), facts.interpolation)
        preprocessing = row.preprocessing
        assert (preprocessing.size, preprocessing.resize, preprocessing.interpolation) == expected
        assert preprocessing.mean == pytest.approx([255 * value for value in facts.mean])
        assert preprocessing.std == pytest.approx([255 * value for value in facts.std])
        if facts.test_input_size is None:
            assert row.test_preprocessing is None
        else:
            test = facts.test_input_size[-1]
            expected = (test, int(test / (facts.test_crop_pct or facts.crop_pct)), facts.interpolation)
            tested = row.test_preprocessing
            assert (tested.size, tested.resize, tested.interpolation) == expected
        found += 1
    assert found == 49


def test_short_names_mean_the_best_that_may_be_used_commercially():
    assert find_published("imagenet", "resnext50_32x4d").name == "torchvision/resnext50_32x4d.imagenet1k_v2"
    assert find_published("imagenet", "resnext101_64x4d").name == "torchvision/resnext101_64x4d.imagenet1k_v1"
    assert find_published("imagenet", "resnext101_32x4d").name == "timm/resnext101_32x4d.gluon_in1k"
    assert find_published("mmcls", "resnext101_32x4d").name == "mmcls/resnext101_32x4d"
    assert find_published("imagenet/seresnextaa101d_32x8d").name == "timm/seresnextaa101d_32x8d.sw_in12k_ft_in1k_288"
    assert find_published("timm", "resnext50_32x4d").name == "timm/resnext50_32x4d.a1h_in1k"
    assert find_published("imagenet/seresnext50_32x4d").name == "timm/seresnext50_32x4d.racm_in1k"
    for architecture in ARCHITECTURES:
        try:
            assert find_published("imagenet", architecture).commercial
        except ValueError:
            assert not any(row.commercial for row in PUBLISHED if row.architecture == architecture)
    for name, meant in (
        ("resnext50_32x4d.a1h_in1k", "timm/resnext50_32x4d.a1h_in1k"),
        ("resnext50-32x4d_8xb32_in1k", "mmpretrain/resnext50-32x4d_8xb32_in1k"),
        ("ResNeXt101_64X4D_Weights.IMAGENET1K_V1", "torchvision/resnext101_64x4d.imagenet1k_v1"),
        ("jhu/resnext50_32x4d_gn_ws", "open-mmlab/jhu/resnext50_32x4d_gn_ws"),
    ):
        assert find_published(name).name == meant
    assert find_published("IMAGENET1K_V1", "resnext101_32x8d").name == "torchvision/resnext101_32x8d.imagenet1k_v1"
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
        ("open-mmlab", "resnext50_32x4d_gn", "choose one of open-mmlab/jhu/resnext50_32x4d_gn .unknown"),
        ("imagenet", None, "is no name"),
        ("", None, "is no name"),
    ],
)
def test_unknown_names(name, architecture, message):
    with pytest.raises(ValueError, match=message):
        find_published(name, architecture)


def test_the_test_size_by_name():
    row = find_published("timm/resnext50_32x4d.a1h_in1k@288")
    assert (row.preprocessing.size, row.preprocessing.resize, row.top1) == (288, 288, 82.016)
    assert find_published(row.name) == row
    assert find_published("timm@288", "resnext50_32x4d") == row
    assert find_published("timm/resnext50_32x4d.a1h_in1k@224") == find_published("timm/resnext50_32x4d.a1h_in1k")
    with pytest.raises(ValueError, match=r"a1h_in1k was not measured at 300 pixels, but at 224 and 288"):
        find_published("timm/resnext50_32x4d.a1h_in1k@300")
    with pytest.raises(ValueError, match=r"v2 was not measured at 288 pixels, but at 224"):
        find_published("imagenet@288", "resnext50_32x4d")


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
        (dict(mean=(1, 2)), r"mean=\(1\.0, 2\.0\) and std=.* must have as many numbers, one a channel"),
        (dict(std=(1, 0, 1)), r"std=\(1, 0, 1\) must be one finite number above 0 a channel"),
        (dict(mean="abc"), "mean='abc' must be one finite number a channel"),
        (dict(std=(1, float("nan"), 1)), "std=.* must be one finite number above 0 a channel"),
        (dict(std=(-1, 1, 1)), r"std=\(-1, 1, 1\) must be one finite number above 0 a channel"),
    ],
)
def test_preprocessing_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**options)


def test_preprocessing_completes_itself():
    assert Preprocessing(size=288).resize == 329
    assert Preprocessing(size=np.int64(32)) == Preprocessing(32, 32, mean=[123.675, 116.28, 103.53])
