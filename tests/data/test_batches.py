"""Every batch is a function of seed and step, whichever engine makes it."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from skimage import data

import keras_resnext
from keras_resnext.data import (
    Augmentation,
    Plan,
    ValidationBatches,
    crops,
    read_listing,
    training_batches,
)
from keras_resnext.data.crops import shrink_windows
from keras_resnext.data.transforms import crop_windows, recolour
from keras_resnext.preprocessing import load_image, preprocess_input
from tests import references  # noqa: F401  declares what torchvision needs to import

PREPROCESSING = keras_resnext.Preprocessing(size=32)


def test_threads_of_tf_data_can_be_told(listing):
    pytest.importorskip("tensorflow")
    make = lambda workers: training_batches(  # noqa: E731
        listing, Plan(14, 7, 0), Augmentation(size=8), PREPROCESSING, range(2), engine="tf.data", workers=workers
    )
    assert make(1).options().threading.private_threadpool_size == 1
    assert make(None).options().threading.private_threadpool_size in (0, None)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"crop_padding": 4},
        {"policy": "trivial_augment", "color_jitter": (0.4, 0.4, 0.4, 0.1)},
        {"mixup": 0.2, "cutmix": 1.0, "random_erasing": 0.5, "repeats": 2},
    ],
)
def test_any_step_can_be_repeated_and_both_engines_agree(listing, options):
    augmentation = Augmentation(size=32, **options)
    plan = Plan(len(listing), 6, seed=5, repeats=augmentation.repeats)
    make = lambda steps, engine: training_batches(  # noqa: E731
        listing, plan, augmentation, PREPROCESSING, steps, engine=engine
    )
    whole = [(x.numpy(), y.numpy()) for x, y in make(range(5), "tf.data")]
    again = [(x.numpy(), y.numpy()) for x, y in make(range(3, 5), "tf.data")]
    for (images, labels), (same, same_labels) in zip(whole[3:], again, strict=True):
        np.testing.assert_array_equal(images, same)
        np.testing.assert_array_equal(labels, same_labels)
    python = make(range(3, 5), "python")
    for i, (images, labels) in enumerate(again):
        np.testing.assert_allclose(python[i][1], labels, atol=1e-6)
        np.testing.assert_allclose(python[i][0], images, atol=1e-4)
    assert whole[0][0].shape == (6, 32, 32, 3)
    assert not np.array_equal(whole[0][0], whole[1][0])


@pytest.mark.parametrize("options", [{}, {"policy": "trivial_augment"}])
def test_random_crops_without_antialiasing(listing, options):
    """What TensorFlow's plain resizing gives of the same crops; JPEG files and others."""
    tf = pytest.importorskip("tensorflow")
    augmentation = Augmentation(size=8, antialias=False, **options)
    plan = Plan(len(listing), len(listing), seed=3)
    ((images, labels),) = training_batches(listing, plan, augmentation, PREPROCESSING, range(1), engine="tf.data")
    step = plan.step(0)
    np.testing.assert_array_equal(np.argmax(labels, 1), listing.labels[step.indices])
    for image, index, draws, seed in zip(images.numpy(), step.indices, step.draws, step.seeds, strict=True):
        whole = np.asarray(Image.open(BytesIO(listing.read(index))).convert("RGB"))
        top, left, height, width = crop_windows(draws, *whole.shape[:2], (0.08, 1.0), (3 / 4, 4 / 3))
        crop = whole[top : top + height, left : left + width]
        expected = tf.image.resize(crop[:, ::-1] if draws[-1] < 0.5 else crop, (8, 8)).numpy()
        if options:
            expected = np.asarray(recolour(Image.fromarray(expected.round().astype("uint8")), augmentation, int(seed)))
        shown = image * np.float32(PREPROCESSING.std) + np.float32(PREPROCESSING.mean)
        np.testing.assert_allclose(shown, expected, atol=1e-3, err_msg=listing.name(index))
    with pytest.raises(ValueError, match=r"antialias=False needs engine='tf.data'"):
        training_batches(listing, plan, augmentation, PREPROCESSING, range(1), engine="python")


@pytest.mark.parametrize("options", [{"subsampling": 2}, {"subsampling": 1, "progressive": True}, {"mode": "CMYK"}])
def test_a_cropped_jpeg_is_what_pillow_decodes(options, tmp_path):
    """Bit for bit, at the crop's edges too, where colours of half the resolution need what lies beyond."""
    mode = options.pop("mode", "RGB")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(6):
            scene = Image.fromarray(np.random.default_rng(i).integers(0, 256, (37, 51, 3), "uint8"))
            scene.resize((102, 74), Image.Resampling.BICUBIC).convert(mode).save(
                tmp_path / name / f"{i}.jpg", quality=80, **options
            )
    listing = read_listing(tmp_path)
    plan, augmentation = Plan(12, 12, seed=1), Augmentation(size=48)
    batches = [
        training_batches(listing, plan, augmentation, PREPROCESSING, range(1), engine=engine)
        for engine in ("tf.data", "python")
    ]
    np.testing.assert_allclose(next(iter(batches[0]))[0], batches[1][0][0], atol=1e-5)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_large_jpegs_are_shrunk_while_they_are_decoded(orientation, tmp_path, monkeypatch):
    """By both engines alike, and half a grey level off on average; turned ones by Pillow alone."""
    size, exif = 24, Image.Exif()
    exif[0x0112] = orientation
    for name, photograph in {"a": data.astronaut(), "b": data.coffee()}.items():
        (tmp_path / name).mkdir()
        Image.fromarray(photograph).resize((640, 427)).save(tmp_path / name / "0.jpg", quality=90, exif=exif)
    listing = read_listing(tmp_path)
    plan, augmentation = Plan(2, 2, seed=1, repeats=1), Augmentation(size=size, flip=0.0)

    def levels(engine):
        batches = training_batches(listing, plan, augmentation, PREPROCESSING, range(8), engine=engine)
        images = [np.asarray(batches[i][0]) for i in range(8)] if engine == "python" else [x for x, _ in batches]
        return np.stack(images) * np.float32(PREPROCESSING.std) + np.float32(PREPROCESSING.mean)

    shrunk = levels("tf.data")
    assert np.abs(shrunk - levels("python")).max() < 1.01  # a rounding
    factors = {
        int(by)
        for i in range(8)
        for draws in plan.step(i).draws
        for by in shrink_windows(crop_windows(draws, 427, 640, (0.08, 1), (3 / 4, 4 / 3))[None], [[427, 640]], size)[0]
    }
    assert factors == {2, 4, 8}
    monkeypatch.setattr(crops, "GAP", 1000)
    whole = levels("python")
    assert 0 < np.abs(shrunk - whole).mean() < 0.6
    assert np.abs(shrunk - whole).max() < 25


def test_processes_share_a_batch(listing):
    """Together they show what one process shows; each takes every second image."""
    augmentation = Augmentation(size=32)
    whole = training_batches(listing, Plan(14, 6, 1), augmentation, PREPROCESSING, range(2), engine="python")
    parts = [
        training_batches(listing, Plan(14, 6, 1, shard=(i, 2)), augmentation, PREPROCESSING, range(2), engine="python")
        for i in range(2)
    ]
    for step in range(2):
        for kind in (0, 1):  # images and labels
            for i, part in enumerate(parts):
                np.testing.assert_array_equal(whole[step][kind][i::2], part[step][kind])


def test_an_epoch_shows_every_image_once():
    plan = Plan(20, 5, seed=2)
    shown = [np.concatenate([plan.step(4 * epoch + i).indices for i in range(4)]) for epoch in range(2)]
    assert sorted(shown[0]) == sorted(shown[1]) == list(range(20))
    assert shown[0].tolist() != shown[1].tolist()
    repeated = np.concatenate([Plan(20, 5, 2, repeats=4).step(i).indices for i in range(4)])
    assert sorted(np.bincount(repeated, minlength=20).tolist()) == [0] * 15 + [4] * 5
    with pytest.raises(ValueError, match=r"batch_size=21 must lie in 1\.\.20"):
        Plan(20, 21, 0)
    with pytest.raises(ValueError, match="multiple of the 2 processes"):
        Plan(20, 5, 0, shard=(0, 2))


def test_validation_images_are_those_of_prediction(listing):
    batches = ValidationBatches(listing, PREPROCESSING, size=32, batch_size=8)
    images, labels, weights = (np.concatenate(part) for part in zip(*(batches[i] for i in range(2)), strict=True))
    assert weights.tolist() == [1] * 14 + [0] * 2
    np.testing.assert_array_equal(labels.argmax(1)[:14], listing.labels)
    for i in range(14):
        expected = preprocess_input(load_image(listing.files[i], 32, resize=PREPROCESSING.resize))
        np.testing.assert_array_equal(images[i], expected)
