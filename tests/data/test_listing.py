"""Labelled images are found in folders, lists and records; what cannot be read is told."""

import csv
import json
import os
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from keras_resnext.data import (
    Augmentation,
    check,
    check_images,
    find_splits,
    find_unreadable,
    leave_out_unreadable,
    read_listing,
    split_listing,
)
from keras_resnext.data.crops import crop_image
from keras_resnext.data.transforms import DRAWS
from keras_resnext.preprocessing import load_image
from tests import references  # noqa: F401  declares what torchvision needs to import
from tests.data.data_material import make_image


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
    assert reasons[0] == "it is not an image that Pillow reads"
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
    np.testing.assert_array_equal(np.asarray(shown.image), expected)


def test_values_of_32_bits_are_refused(tmp_path):
    Image.fromarray(np.ones((8, 8), "float32")).save(tmp_path / "floats.tif")
    with pytest.raises(ValueError, match=r"floats.tif.*32 bits \(Pillow's mode F\); 8 or 16 bits are expected"):
        load_image(tmp_path / "floats.tif", 8)
