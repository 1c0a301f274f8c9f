"""Listings, checks, augmentation and batches."""

import csv
import json
import os
from dataclasses import replace
from io import BytesIO, StringIO

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

import keras_resnext
from keras_resnext.data import (
    Augmentation,
    Plan,
    ValidationBatches,
    augment,
    check,
    check_images,
    find_splits,
    find_unreadable,
    leave_out_unreadable,
    read_listing,
    split_listing,
    training_batches,
)
from keras_resnext.data.augment import DRAWS, TRIES, crop_windows, mix, recolour
from keras_resnext.data.crops import crop_image
from keras_resnext.preprocessing import load_image, preprocess_input
from tests import references  # noqa: F401  declares what torchvision needs to import

RNG = np.random.default_rng(0)
PREPROCESSING = keras_resnext.Preprocessing(size=32)


def make_image(height=40, width=60):
    smooth = Image.fromarray(RNG.integers(0, 256, (5, 7, 3), dtype="uint8"))
    return smooth.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes of JPEG and PNG files, one of them grey, one CMYK."""
    root = tmp_path_factory.mktemp("images")
    for label in ("cat", "dog", "owl"):
        (root / label / "more").mkdir(parents=True)
        for i in range(3):
            make_image().save(root / label / f"{i}.jpg", quality=95)
        make_image().save(root / label / "more" / "3.png")
        (root / label / "notes.txt").write_text("no image")
    make_image().convert("L").save(root / "cat" / "grey.jpg")
    make_image().convert("CMYK").save(root / "dog" / "cmyk.jpg")
    return root


@pytest.fixture(scope="module")
def listing(folder):
    return read_listing(folder)


def test_folders_are_listed_as_by_torchvision(folder, listing):
    from torchvision.datasets import ImageFolder

    expected = ImageFolder(folder)
    assert listing.classes == tuple(expected.classes)
    assert sorted(zip(listing.files, listing.labels.tolist(), strict=True)) == sorted(expected.samples)


def test_lists_give_the_same_images(folder, listing, tmp_path):
    rows = [
        (os.path.relpath(f, tmp_path), listing.classes[i]) for f, i in zip(listing.files, listing.labels, strict=True)
    ]
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([("label", "path"), *(row[::-1] for row in rows)])
    with open(tmp_path / "b.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    (tmp_path / "c.json").write_text(json.dumps([{"image": f, "class": c} for f, c in rows]))
    (tmp_path / "d.json").write_text(json.dumps(dict(rows)))
    (tmp_path / "e.txt").write_text("".join(f"{f} {listing.classes.index(c)}\n" for f, c in rows))
    (tmp_path / "classes.txt").write_text("cat\ndog\nowl\n")
    for name in ("a.csv", "b.csv", "c.json", "d.json", "e.txt"):
        found = read_listing(tmp_path / name)
        assert found.classes == listing.classes, name
        assert [os.path.realpath(f) for f in found.files] == [os.path.realpath(f) for f in listing.files]
        np.testing.assert_array_equal(found.labels, listing.labels)


def test_tfrecords_give_the_same_images(listing, tmp_path):
    tf = pytest.importorskip("tensorflow")
    features = tf.train.Features, tf.train.Feature, tf.train.BytesList, tf.train.Int64List
    for shard in range(2):
        with tf.io.TFRecordWriter(str(tmp_path / f"train-{shard:05}-of-00002")) as writer:
            for i in range(shard, len(listing), 2):
                example = tf.train.Example(
                    features=features[0](
                        feature={
                            "image/encoded": features[1](bytes_list=features[2](value=[listing.read(i)])),
                            "image/class/label": features[1](int64_list=features[3](value=[listing.labels[i] + 1])),
                            "image/height": features[1](int64_list=features[3](value=[40])),
                            "note": features[1](float_list=tf.train.FloatList(value=[0.5, 1.5])),
                        }
                    )
                )
                writer.write(example.SerializeToString())
    (tmp_path / "labels.txt").write_text("cat\ndog\nowl\n")
    training, validation = find_splits(tmp_path)
    assert validation is None
    found = read_listing(training)
    order = [*range(0, len(listing), 2), *range(1, len(listing), 2)]
    assert found.classes == listing.classes
    np.testing.assert_array_equal(found.labels, listing.labels[order])
    assert [found.read(k) for k in range(len(found))] == [listing.read(i) for i in order]

    shard = tmp_path / "train-00000-of-00002"
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(ValueError, match="not a TFRecord file, or cut"):
        read_listing(training)


def test_splits_are_found(folder, tmp_path):
    assert find_splits(folder) == (folder, None)
    for name in ("training", "validation"):
        (tmp_path / name).mkdir()
    assert find_splits(tmp_path) == (tmp_path / "training", tmp_path / "validation")


def test_held_out_images_are_a_share_of_each_class(listing):
    first, second = split_listing(listing, 0.25, seed=3)
    assert sorted(first.files + second.files) == sorted(listing.files)
    assert np.bincount(second.labels).tolist() == [1, 1, 1]
    assert split_listing(listing, 0.25, seed=3)[1].files == second.files
    with pytest.raises(ValueError, match="too few to hold out"):
        split_listing(listing, 0.95, seed=3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "holds no class folders"),
        (lambda root: (root / "only").mkdir(), "holds no images"),
        (lambda root: [save(root / "only" / "a.png")], "one class alone"),
        (lambda root: [save(root / "Cat" / "a.png"), save(root / "cat" / "a.png")], "same but for case"),
    ],
)
def test_bad_folders(make, message, tmp_path):
    make(tmp_path)
    with pytest.raises(ValueError, match=message):
        read_listing(tmp_path)


def test_a_name_that_is_listed_twice(tmp_path):
    """Of one letter: Python has but one such text, so that identity tells nothing."""
    save(tmp_path / "a.png")
    (tmp_path / "labels.txt").write_text("a\nb\nb\n")
    (tmp_path / "a.csv").write_text("a.png,0\na.png,1\n")
    with pytest.raises(ValueError, match="class names 'b' and 'b' are the same"):
        read_listing(tmp_path / "a.csv")


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    make_image().save(path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "path,label\na.png\n", "must have a path and a label"),
        ("a.json", "{", "cannot be read"),
        ("a.json", "[1]", "entry 1 must be"),
        ("a.txt", "lonely\n", "line 1 must be"),
        ("a.txt", "a.png 0\na.png -1\n", "label -1 of image 2 is outside"),
        ("a.csv", "a.png,0\na.png,99999999999999999999\n", "a.csv.*label 99999999999999999999 of image 2 is outside"),
        ("a.csv", "a.png,0\na.png,1400000000\n", r"outside 0\.\.99999 \(more need their names in labels.txt"),
        ("a.csv", "a.png,0\na.png,--5\n", "a.csv.*label '--5' of row 2 is no number"),
        ("a.csv", "a.png,0\ngone.png,1\n", "1 listed images are missing"),
        ("a.md", "", "must be a folder, a list"),
    ],
)
def test_bad_lists(name, text, message, tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / name).write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_listing(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        read_listing(tmp_path / "nothing")


def test_numbers_that_a_list_skips_are_classes_without_images(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "a.csv").write_text("a.png,0\n" * 3 + "a.png,2\n" * 3)
    listing = read_listing(tmp_path / "a.csv")
    assert listing.classes == ("0", "1", "2")
    assert split_listing(listing, 0.3, 0)[1].labels.tolist() == [0, 2]


def test_expected_classes(folder, listing):
    known = ("ant", "cat", "dog", "owl")
    assert read_listing(folder, known).labels.tolist() == (listing.labels + 1).tolist()
    with pytest.raises(ValueError, match="'owl', which are not among the expected 2"):
        read_listing(folder, ("cat", "dog"))


def test_unreadable_images_are_left_out_up_to_a_limit(listing, tmp_path):
    cut, empty, text, floats = (tmp_path / name for name in ("cut.jpg", "empty.png", "text.png", "floats.tif"))
    cut.write_bytes(listing.read(0)[:400])
    empty.touch()
    make_image().save(tmp_path / "whole.png")
    broken = replace(listing, files=(*listing.files, str(cut), str(empty)), labels=np.append(listing.labels, [0, 1]))
    kept, skipped = check_images(broken, limit=2)
    assert kept.files == listing.files
    assert [name for name, _ in skipped] == [str(cut), str(empty)]
    assert "truncated" in skipped[0][1].lower()
    assert skipped[1][1] == "the file is empty"
    text.write_text("no image")
    Image.fromarray(np.ones((4, 4), "float32")).save(floats)
    cut.with_suffix(".png").write_bytes((tmp_path / "whole.png").read_bytes()[:-300])
    others = replace(listing, files=(str(text), str(floats), str(cut.with_suffix(".png")), "gone.png"))
    reasons = find_unreadable(others)
    assert reasons[0] == "it is no image that Pillow knows"
    assert reasons[1] == "its values have 32 bits (Pillow's mode F); 8 or 16 bits are expected"
    assert "truncated" in reasons[2]
    assert find_unreadable(others, [3, 3]) == {3: "No such file or directory"}
    with pytest.raises(ValueError, match=r"2 of 16 images cannot be read, more than the limit of 1: .*cut.jpg"):
        check_images(broken)
    with pytest.raises(ValueError, match="limit of 0"):
        check_images(broken, strict=True)
    with pytest.raises(ValueError, match="no image of class 'cat'"):
        check_images(broken.select([5, 10, 14]), limit=2)


def test_images_are_looked_through_once(listing, tmp_path, monkeypatch):
    empty, memory = tmp_path / "empty.png", tmp_path / "made" / "images.json"
    empty.touch()
    broken = replace(listing, files=(*listing.files, str(empty)), labels=np.append(listing.labels, 1))

    def look(some):
        told = Console(file=StringIO(), width=200)
        leave_out_unreadable(some, "all", strict=False, limit=None, console=told, memory=memory)
        return told.file.getvalue()

    first = look(broken)
    assert first.endswith("empty.png: the file is empty\n")
    monkeypatch.setattr(check, "find_unreadable", lambda *_, **__: pytest.fail("looked through again"))
    assert look(broken) == first
    with pytest.raises(ValueError, match="limit of 0"):
        leave_out_unreadable(broken, "all", strict=True, limit=None, console=Console(quiet=True), memory=memory)
    monkeypatch.setattr(check, "find_unreadable", lambda *_, **__: {})
    assert look(listing) == ""  # other images are
    memory.write_text("{")
    assert look(broken) == ""  # nor does a broken memory harm


@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "deep.pgm"])
def test_grey_of_16_bits_keeps_its_shades(name, tmp_path):
    """Pillow alone turns all above 255 white."""
    values = (np.arange(64, dtype="uint16") * 1040).reshape(8, 8)
    if name.endswith("pgm"):
        (tmp_path / name).write_bytes(b"P5 8 8 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(tmp_path / name)
    expected = np.repeat(np.round(values / 257)[..., None], 3, axis=-1)
    np.testing.assert_array_equal(load_image(tmp_path / name, 8), expected)
    data, draws = (tmp_path / name).read_bytes(), np.full(DRAWS, 0.99)
    shown = crop_image(data, draws, Augmentation(size=8, crop_scale=(1, 1), crop_ratio=(1, 1)))
    np.testing.assert_array_equal(np.asarray(shown), expected)


def test_values_of_32_bits_are_refused(tmp_path):
    Image.fromarray(np.ones((8, 8), "float32")).save(tmp_path / "floats.tif")
    with pytest.raises(ValueError, match=r"floats.tif.*32 bits \(Pillow's mode F\); 8 or 16 bits are expected"):
        load_image(tmp_path / "floats.tif", 8)


def test_threads_of_tf_data_can_be_told(listing):
    pytest.importorskip("tensorflow")
    make = lambda workers: training_batches(  # noqa: E731
        listing, Plan(14, 7, 0), Augmentation(size=8), PREPROCESSING, range(2), engine="tf.data", workers=workers
    )
    assert make(1).options().threading.private_threadpool_size == 1
    assert make(None).options().threading.private_threadpool_size in (0, None)


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

    ours = {"rand_augment": augment._RAND_AUGMENT, "trivial_augment": augment._TRIVIAL_AUGMENT}[kind]
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
        top, left, height, width = augment.crop_windows(draws, *whole.shape[:2], (0.08, 1.0), (3 / 4, 4 / 3))
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


def test_processes_share_a_batch(listing):
    """Together they show what one process shows."""
    augmentation = Augmentation(size=32)
    whole = training_batches(listing, Plan(14, 6, 1), augmentation, PREPROCESSING, range(2), engine="python")
    parts = [
        training_batches(listing, Plan(14, 6, 1, shard=(i, 2)), augmentation, PREPROCESSING, range(2), engine="python")
        for i in range(2)
    ]
    for step in range(2):
        np.testing.assert_array_equal(whole[step][0], np.concatenate([part[step][0] for part in parts]))
        np.testing.assert_array_equal(whole[step][1], np.concatenate([part[step][1] for part in parts]))


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
        ({"policy": "auto"}, "must be None or one of rand_augment"),
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
