"""timm's RandAugment: every operation at every strength gives timm's pixels, and names mean what they mean there."""

import numpy as np
import pytest
from PIL import Image

import tests.references  # noqa: F401  (lets timm be imported)
from keras_resnext.data.augmentation import Augmentation, TimmPolicy, timm_policy
from keras_resnext.data.rand_augment import FILL, RESAMPLING, apply_operation, apply_policy, operations
from keras_resnext.data.transforms import recolour


@pytest.fixture(scope="module")
def photo():
    from skimage.data import astronaut

    return Image.fromarray(astronaut()).resize((48, 40))


@pytest.mark.parametrize("increasing", [True, False])
def test_operations_are_timms(photo, monkeypatch, increasing):
    from timm.data import auto_augment

    names = auto_augment._RAND_INCREASING_TRANSFORMS if increasing else auto_augment._RAND_TRANSFORMS
    rows = operations(increasing)
    assert [name.removesuffix("Increasing") for name in names] == list(rows)
    for name, row in zip(names, rows.values(), strict=True):
        for strength in (0, 3.3, 7, 10):
            if name.startswith("Posterize") and row.argument(strength / 10) == 0:  # Pillow refuses it, and timm stops
                assert not np.asarray(apply_operation(photo, row, strength, False, RESAMPLING[0])).any()
                continue
            for negative, kind in ((True, RESAMPLING[0]), (False, RESAMPLING[1])):
                monkeypatch.setattr(auto_augment.random, "random", lambda negative=negative: 0.9 if negative else 0.1)
                hparams = {"img_mean": FILL, "interpolation": kind}
                theirs = auto_augment.AugmentOp(name, prob=1.0, magnitude=strength, hparams=hparams)(photo)
                ours = apply_operation(photo, row, strength, negative, kind)
                np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs), err_msg=f"{name} {strength}")


def test_names_are_timms():
    from timm.data.auto_augment import rand_augment_transform

    for name in ("rand-m7-mstd0.5-inc1", "rand-m9-n3-p0.8-mmax20", "rand"):
        policy, theirs = timm_policy(name), rand_augment_transform(name)
        op = theirs.ops[4]
        assert (policy.m, policy.n, policy.p) == (op.magnitude, theirs.num_layers, op.prob)
        assert policy.mmax == (op.magnitude_max or 10)
        assert policy.mstd == op.magnitude_std
        assert policy.inc == op.name.endswith("Increasing")
    for name in ("rand-x3", "rand-m7.5", "auto-m7", "rand-", "m7"):
        assert timm_policy(name) is None
    with pytest.raises(ValueError, match="policy='rand-m7-inc2x' must be rand_augment"):
        Augmentation(policy="rand-m7-inc2x")


def test_strengths_and_numbers_of_operations_are_drawn_as_there(photo, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "keras_resnext.data.rand_augment.apply_operation",
        lambda image, row, strength, negative, kind: drawn.append((strength, negative, kind)) or image,
    )
    for seed in range(2000):
        apply_policy(photo, TimmPolicy(m=7, mstd=0.5, inc=True), np.random.default_rng(seed))
    strengths = np.array([strength for strength, _, _ in drawn])
    assert len(drawn) == pytest.approx(2000, rel=0.05)  # two operations, each with probability one half
    assert (strengths.mean(), strengths.std()) == (pytest.approx(7, abs=0.05), pytest.approx(0.5, abs=0.05))
    assert np.mean([negative for _, negative, _ in drawn]) == pytest.approx(0.5, abs=0.05)
    drawn.clear()
    for seed in range(500):
        apply_policy(photo, TimmPolicy(m=8, mstd=101, p=1.0), np.random.default_rng(seed))
    strengths = [strength for strength, _, _ in drawn]
    assert (min(strengths), max(strengths)) == (pytest.approx(0, abs=0.2), pytest.approx(8, abs=0.2))


def test_a_seed_repeats_an_image(photo):
    augmentation = Augmentation(policy="rand-m7-mstd0.5-inc1")
    images = [np.asarray(recolour(photo, augmentation, seed)) for seed in (1, 1, 2)]
    assert np.array_equal(images[0], images[1])
    assert augmentation.recolours
