"""Data sets written as TFRecords, and those of tensorflow_datasets."""

import os
import resource
import sys
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

import keras_resnext
from keras_resnext import cli
from keras_resnext.data import Augmentation, Plan, find_splits, read_listing, training_batches

tf = pytest.importorskip("tensorflow")
from keras_resnext.data import tf_records  # noqa: E402
from keras_resnext.data.tf_records import write_records  # noqa: E402

RNG = np.random.default_rng(0)


def make_image(height=40, width=60):
    smooth = Image.fromarray(RNG.integers(0, 256, (5, 7, 3), dtype="uint8"))
    return smooth.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    """Three classes, to train on and to validate on: JPEG, PNG, grey, CMYK and more than one image in a file."""
    root = tmp_path / "images"
    for split, count in (("train", 4), ("val", 2)):
        for label in ("cat", "dög", "owl"):
            (root / split / label / "more").mkdir(parents=True)
            for i in range(count):
                make_image().save(root / split / label / f"{i}.jpg")
            make_image().save(root / split / label / "more" / "last.png")
    make_image().convert("L").save(root / "train" / "cat" / "grey.jpg")
    make_image(30, 20).convert("CMYK").save(root / "train" / "owl" / "cmyk.jpg")
    make_image().save(root / "val" / "owl" / "phone.jpg", "MPO", save_all=True, append_images=[make_image()])
    return root


def contents(listing):
    """What matters of a listing, whatever its order: encoded images and their classes."""
    return sorted((listing.read(i), listing.classes[listing.labels[i]]) for i in range(len(listing)))


def run(*arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


def test_what_is_written_is_found_again(folder, tmp_path, capsys):
    code, out, err = run("records", folder, tmp_path / "new" / "records", "--shards", 3, capsys=capsys)
    assert (code, err) == (0, "")
    assert "train: 17 images of 3 classes in 3 files" in out
    names = [f"train-{i:05}-of-00003" for i in range(3)] + [f"validation-{i:05}-of-00002" for i in range(2)]
    assert sorted(os.listdir(tmp_path / "new" / "records")) == ["labels.txt", *names]
    splits = find_splits(tmp_path / "new" / "records")
    for split, place in zip(("train", "val"), splits, strict=True):
        ours, theirs = read_listing(place), read_listing(folder / split)
        assert ours.classes == theirs.classes == ("cat", "dög", "owl")
        assert contents(ours) == contents(theirs)
        sizes = [ours.files.count(file) for file in set(ours.files)]
        assert max(sizes) - min(sizes) <= 1


def test_features_are_those_of_imagenet(folder, tmp_path):
    listing = write_records(folder, tmp_path / "records", shards=1)["train"]
    kinds = {"image/class/label": tf.int64, "image/height": tf.int64, "image/width": tf.int64}
    kinds |= {"image/channels": tf.int64}
    texts = ("encoded", "format", "colorspace", "class/text", "filename")
    kinds |= {f"image/{name}": tf.string for name in texts}
    wanted = {name: tf.io.FixedLenFeature((), kind) for name, kind in kinds.items()}
    # TensorFlow's own reader looks at the checksums too.
    found = list(tf.data.TFRecordDataset([str(tmp_path / "records" / "train-00000-of-00001")]))
    assert len(found) == len(listing) == 17
    seen = set()
    for i, record in enumerate(found):
        row = {k: v.numpy() for k, v in tf.io.parse_single_example(record, wanted).items()}
        assert set(tf.train.Example.FromString(record.numpy()).features.feature) == set(wanted)
        name = os.path.basename(listing.files[i])
        assert row["image/encoded"] == listing.read(i)
        assert row["image/filename"].decode() == name
        assert row["image/class/label"] == listing.labels[i] + 1
        assert row["image/class/text"].decode() == listing.classes[listing.labels[i]]
        with Image.open(listing.files[i]) as image:
            assert (row["image/width"], row["image/height"]) == image.size
        assert row["image/format"] == (b"PNG" if name.endswith("png") else b"JPEG")
        seen.add((row["image/colorspace"], row["image/channels"]))
    assert seen == {(b"RGB", 3), (b"Grayscale", 1), (b"CMYK", 4)}


def test_a_file_of_several_images_is_called_jpeg(folder):
    data = (folder / "val" / "owl" / "phone.jpg").read_bytes()
    assert Image.open(folder / "val" / "owl" / "phone.jpg").format == "MPO"
    feature = tf_records.make_example(data, [0], ["owl"], "phone.jpg").features.feature
    assert feature["image/format"].bytes_list.value == [b"JPEG"]


def test_batches_are_the_same(folder, tmp_path):
    samples = write_records(folder, tmp_path / "records", shards=2)["train"]
    again = read_listing(find_splits(tmp_path / "records")[0])
    plan, augmentation = Plan(len(samples), 8, seed=1), Augmentation(size=32)
    preprocessing = keras_resnext.Preprocessing(size=32)
    both = [training_batches(part, plan, augmentation, preprocessing, range(3)) for part in (samples, again)]
    for (images, labels), (same, same_labels) in zip(*both, strict=True):
        np.testing.assert_array_equal(images, same)
        np.testing.assert_array_equal(labels, same_labels)


def test_the_seed_makes_the_order(folder, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_records(folder, tmp_path / name, seed=seed)
    a, b, c = ((tmp_path / name / "train-00000-of-00001").read_bytes() for name in "abc")
    assert a == b
    assert a != c
    labels = read_listing(find_splits(tmp_path / "a")[0]).labels
    assert labels.tolist() != sorted(labels)


def test_lists_and_records_are_converted_too(folder, tmp_path):
    listing = read_listing(folder / "train")
    rows = [f"{file},{listing.labels[i]}\n" for i, file in enumerate(listing.files)]
    (tmp_path / "list.csv").write_text("".join(rows))
    write_records(tmp_path / "list.csv", tmp_path / "first", shards=2)
    write_records(tmp_path / "first", tmp_path / "second", shards=5)
    assert find_splits(tmp_path / "second")[1] is None
    again = read_listing(tmp_path / "second")
    assert len(set(again.files)) == 5
    assert again.classes == ("0", "1", "2")
    assert [data for data, _ in contents(again)] == [data for data, _ in contents(listing)]


def test_shards_have_a_size_where_no_number_is_given(folder, tmp_path, monkeypatch):
    whole = sum(os.path.getsize(file) for file in read_listing(folder / "train").files)
    monkeypatch.setattr(tf_records, "SHARD_BYTES", whole / 4)
    monkeypatch.setattr(tf_records, "READ_AHEAD", 2)
    write_records(folder, tmp_path / "records")
    sizes = [os.path.getsize(tmp_path / "records" / f"train-{i:05}-of-00004") for i in range(4)]
    assert sum(sizes) > whole


def test_unreadable_images(folder, tmp_path, capsys):
    cut = folder / "train" / "cat" / "cut.jpg"
    cut.write_bytes((folder / "train" / "cat" / "0.jpg").read_bytes()[:300])
    code, out, _ = run("records", folder, tmp_path / "records", capsys=capsys)
    assert code == 0
    assert f"left out: {cut}" in out
    assert len(read_listing(find_splits(tmp_path / "records")[0])) == 17
    for option in (["--strict"], ["--skip-limit", 0]):
        code, _, err = run("records", folder, tmp_path / "strict", *option, capsys=capsys)
        assert (code, err.count("\n")) == (2, 1)
        assert str(cut) in err
        assert not (tmp_path / "strict").exists()


@pytest.mark.parametrize(
    ("data", "output", "options", "message"),
    [
        ("images/train/cat", "records", [], "one class alone, 'more'"),
        ("nothing", "records", [], "there is no such file or folder"),
        ("images", "images", [], "must be a new or an empty folder; it holds 'train'"),
        ("images", "images/train/cat/0.jpg", [], "is a file, not a folder"),
        ("images", "records", ["--shards", 18], "--shards 18 must lie in 1..17"),
        ("images", "records", ["--shards", 0], "shards"),
        ("list.json", "records", [], "class name 'two\\nlines' must be one line"),
        ("tfds:no_such_thing", "records", [], "tensorflow_datasets"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(data, output, options, message, folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "list.json").write_text('{"images/train/owl/0.jpg": "two\\nlines", "images/train/owl/1.jpg": "a"}')
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run("records", data, output, *options, capsys=capsys)
    assert code == 2
    assert (out, err.count("\n")) == ("", 1), err
    assert message in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_leaves_nothing(folder, tmp_path, capsys):
    """The limit of a file's size stands for it: TensorFlow's writer meets it in the same way."""
    (tmp_path / "empty").mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, hard))
    try:
        new = run("records", folder, tmp_path / "above" / "new", "--shards", 1, capsys=capsys)
        old = run("records", folder, tmp_path / "empty", "--shards", 1, capsys=capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    for code, _, err in (new, old):
        assert (code, err.count("\n")) == (2, 1)
        assert "File too large: " in err
    assert not (tmp_path / "above").exists()
    assert os.listdir(tmp_path / "empty") == []


def test_a_image_that_goes_away_meanwhile_leaves_nothing(folder, tmp_path, monkeypatch):
    check = tf_records.leave_out_unreadable

    def lose(listing, name, **options):
        kept = check(listing, name, **options)
        if name == "validation":
            os.remove(listing.files[-1])
        return kept

    monkeypatch.setattr(tf_records, "leave_out_unreadable", lose)
    with pytest.raises(FileNotFoundError):
        write_records(folder, tmp_path / "records", shards=4)
    assert not (tmp_path / "records").exists()


def test_without_tensorflow_datasets_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r"tfds:cifar10.*pip install 'keras_resnext\[tfds\]'"):
        read_listing("tfds:cifar10")


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    """`tfds:tiny_images`, prepared nowhere yet; how often it was made."""
    tfds = pytest.importorskip("tensorflow_datasets")
    made = []

    class TinyImages(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            features = {"image": tfds.features.Image(shape=(9, 8, 3)), "label": tfds.features.ClassLabel(names="bac")}
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            made.append(str(self.version))
            return {name: self._generate_examples(i) for i, name in enumerate(("train", "extra", "test"))}

        def _generate_examples(self, first):
            for i in range(7 - 2 * first):
                yield i, {"image": np.full((9, 8, 3), 50 * first + i, "uint8"), "label": "cab"[i % 3]}

    patch = pytest.MonkeyPatch()
    place = tmp_path_factory.mktemp("tfds")
    patch.setenv("TFDS_DATA_DIR", str(place))
    yield made
    assert (place / "tiny_images").is_dir()
    patch.undo()


def pixels(listing):
    values = [int(np.asarray(Image.open(BytesIO(listing.read(i))))[0, 0, 0]) for i in range(len(listing))]
    return dict(zip(values, (listing.classes[i] for i in listing.labels), strict=True))


def test_data_sets_of_tensorflow_datasets(data_set, tmp_path, capsys):
    training, validation = (read_listing(part) for part in find_splits("tfds:tiny_images:1.2.0"))
    assert training.classes == ("b", "a", "c")
    assert pixels(training) == {i: "cab"[i % 3] for i in range(7)}
    assert pixels(validation) == {100 + i: "cab"[i % 3] for i in range(3)}
    assert pixels(read_listing("tfds:tiny_images")) == pixels(validation)
    assert data_set == ["1.2.0"]  # once
    assert run("records", "tfds:tiny_images", tmp_path / "records", capsys=capsys)[0] == 0
    again = [read_listing(part) for part in find_splits(tmp_path / "records")]
    assert [pixels(part) for part in again] == [pixels(training), pixels(validation)]
    with pytest.raises(ValueError, match=r"'tfds:tiny_images:9.9.9' cannot be had from tensorflow_datasets: "):
        find_splits("tfds:tiny_images:9.9.9")


def test_data_sets_in_other_formats(data_set, tmp_path, monkeypatch):
    import tensorflow_datasets

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    tensorflow_datasets.builder("tiny_images", data_dir=tmp_path).download_and_prepare(file_format="array_record")
    with pytest.raises(ValueError, match=r"is kept as array_record in .*; only tfrecord can be read"):
        find_splits("tfds:tiny_images")
