"""Images vary as torchvision's do."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keras_resnext.data import (
    Augmentation,
    transforms,
)
from keras_resnext.data.transforms import DRAWS, TRIES, crop_windows, mix, recolour
from tests import references  # noqa: F401  declares what torchvision needs to import
from tests.data.data_material import make_image


@given(
    st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 2**32 - 1), st.sampled_from([(0.08, 1.0), (0.5, 0.6)])
)
def test_crops_lie_inside_and_have_allowed_shapes(height, width, seed, scale):
    top, left, h, w = crop_windows(np.random.default_rng(seed).random(DRAWS), height, width, scale, (3 / 4, 4 / 3))
    assert h >= 1
    assert w >= 1
    assert 0 <= top <= height - h
    assert 0 <= left <= width - w
    if min(h, w) > 50:
        assert 0.72 < w / h < 1.37


def test_crops_have_the_distribution_of_torchvision():
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    image = torch.zeros(3, 375, 500)
    theirs = np.array([RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(3000)])
    rng = np.random.default_rng(1)
    ours = np.array([crop_windows(rng.random(DRAWS), 375, 500, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(3000)])
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), rtol=0.05)
    np.testing.assert_allclose(ours.std(0), theirs.std(0), rtol=0.06)


@pytest.mark.parametrize("kind", ["rand_augment", "trivial_augment"])
def test_policies_are_those_of_torchvision(kind):
    """Every operation at four strengths and both signs."""
    from torchvision.transforms import InterpolationMode, autoaugment

    ours = {"rand_augment": transforms._RAND_AUGMENT, "trivial_augment": transforms._TRIVIAL_AUGMENT}[kind]
    image = make_image(64, 48)
    if kind == "rand_augment":
        space = autoaugment.RandAugment()._augmentation_space(31, (64, 48))
    else:
        space = autoaugment.TrivialAugmentWide()._augmentation_space(31)
    assert set(space) == set(ours)
    for name, (magnitudes, signed) in space.items():
        operation, strongest, ours_signed = ours[name]
        assert signed == ours_signed, name
        for level in (0, 9, 17, 30):
            for sign in (1, -1) if signed else (1,):
                magnitude = float(magnitudes[level]) if magnitudes.ndim else 0.0
                expected = autoaugment._apply_op(image, name, sign * magnitude, InterpolationMode.NEAREST, None)
                actual = operation(image, sign * strongest * level / 30)
                difference = np.abs(np.asarray(actual, int) - np.asarray(expected, int)).max(-1)
                assert (difference > 1).mean() < 0.02, (name, level, sign)


def test_colour_jitter_varies_each_by_as_much_as_is_asked():
    image = make_image()
    assert recolour(image, Augmentation(), 1) is image
    grey = recolour(image.convert("L").convert("RGB"), Augmentation(color_jitter=(0, 0, 0.9, 0.5)), 1)
    assert np.ptp(np.asarray(grey, int), axis=-1).max() <= 1  # neither saturation nor hue colours what is grey
    means = [np.asarray(recolour(image, Augmentation(color_jitter=(0.5, 0, 0, 0)), s)).mean() for s in range(50)]
    ratio = np.array(means) / np.asarray(image).mean()
    assert 0.45 < ratio.min() < 0.65
    assert 1.2 < ratio.max() < 1.55


def test_mixing_keeps_the_share_of_each_image():
    """Images of one value: what is left of each must be what its label says."""
    values = np.arange(8, dtype="float32")
    images, labels = np.broadcast_to(values[:, None, None, None], (8, 16, 16, 3)).copy(), np.eye(8, dtype="float32")
    for kind in ({"mixup": 0.8}, {"cutmix": 1.0}):
        shares = []
        for seed in range(6):
            mixed, targets = mix(images, labels, Augmentation(**kind), seed)
            np.testing.assert_allclose(targets.sum(1), 1, atol=1e-5)
            np.testing.assert_allclose(mixed.mean((1, 2, 3)), targets @ values, atol=0.8 if "cutmix" in kind else 1e-4)
            shares.append(targets.max(1).min())
        assert min(shares) < 0.95
    erased, targets = mix(images + 1, labels, Augmentation(random_erasing=1.0), 0)
    share = (erased == 0).mean((1, 2, 3))
    assert (share > 0).all()
    assert (share < 0.4).all()
    np.testing.assert_array_equal(targets, labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip": 1.5}, "flip=1.5 must be a probability"),
        ({"crop_scale": (0.5, 0.2)}, "crop_scale"),
        ({"crop_ratio": (0, 1)}, "crop_ratio"),
        ({"policy": "auto"}, "must be rand_augment, trivial_augment, none or a name of timm"),
        ({"interpolation": "lanczos"}, "bilinear or bicubic"),
        ({"size": 0}, "at least 1"),
        ({"mixup": -1}, "not be negative"),
        ({"policy_magnitude": 31}, r"0\.\.30"),
        ({"color_jitter": (0, 0, 0, 0.6)}, "hue at most 0.5"),
    ],
)
def test_bad_augmentations(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)


def test_draws_are_enough():
    assert DRAWS == 4 * TRIES + 1
