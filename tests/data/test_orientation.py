"""Images stand upright as EXIF says, whoever decodes them."""

import io
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from keras_resnext import Preprocessing, ResNeXt, get_preprocessing, set_preprocessing
from keras_resnext.classifier import open_classifier
from keras_resnext.data import Plan, ValidationBatches, read_listing, training_batches
from keras_resnext.data.augmentation import Augmentation
from keras_resnext.data.crops import crop_image
from keras_resnext.data.tf_orientation import read_orientation
from keras_resnext.data.transforms import DRAWS
from keras_resnext.export import export_saved_model
from keras_resnext.export.image_decoding import decode_image
from keras_resnext.preprocessing import load_image

ORIENTATIONS = range(1, 9)


def encoded(orientation, kind="JPEG", width=60, height=40, **options):
    """A file whose quarters have colours of their own, with an orientation."""
    pixels = np.zeros((height, width, 3), "uint8")
    pixels[: height // 2, : width // 2] = 250, 0, 0
    pixels[: height // 2, width // 2 :] = 0, 250, 0
    pixels[height // 2 :, : width // 2] = 0, 0, 250
    exif = Image.Exif()
    exif[0x010F] = "a camera's maker"
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, exif=exif, **options)
    return stream.getvalue()


def upright(data):
    """By Pillow's own function."""
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "MPO"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_loaded_images(kind, orientation):
    data = encoded(orientation, kind)
    expected = upright(data)
    size = (expected.height, expected.width)
    assert np.array_equal(load_image(data, size, resize=min(size)), np.asarray(expected))
    assert size == ((40, 60) if orientation < 5 else (60, 40))


def test_torchvision_ignores_it():
    data = encoded(6)
    stored = Image.open(io.BytesIO(data)).convert("RGB")
    assert np.array_equal(load_image(data, (40, 60), resize=40, exif=False), np.asarray(stored))


def test_damaged_exif_is_ignored():
    data = encoded(6)
    start = data.index(b"Exif") + 6
    damaged = data[:start] + b"MM\0*\xff\xff\xff\xff" + data[start + 8 :]
    stored = Image.open(io.BytesIO(encoded(1))).convert("RGB")
    assert np.array_equal(load_image(damaged, (40, 60), resize=40), np.asarray(stored))
    assert read_orientation(tf.constant(damaged)) == 1


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_training_crops(orientation):
    data = encoded(orientation)
    whole = Augmentation(crop_scale=(1.0, 1.0), crop_ratio=(0.5, 2.0))
    crop = np.asarray(crop_image(data, np.full(DRAWS, 0.5), whole).image)
    corner = np.asarray(upright(data))[2, 2]
    assert np.abs(crop[2, 2].astype(int) - corner).max() < 30


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"comment": b"x" * 60_000}, {"icc_profile": b"x" * 70_000}]
)
def test_exported_graphs(orientation, options):
    data = encoded(orientation, **options)
    assert read_orientation(tf.constant(data)) == orientation
    run = tf.function(lambda data: decode_image(data, (24, 32), 32))
    assert np.abs(run(tf.constant(data)).numpy() - load_image(data, (24, 32), resize=32)).mean() < 1


def with_exif(tiff, before=b""):
    """A JPEG file with these bytes as its EXIF, behind other segments."""
    exif = b"Exif\0\0" + tiff
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    plain = io.BytesIO()
    Image.new("RGB", (60, 40)).save(plain, "JPEG")
    return b"\xff\xd8" + before + segment + plain.getvalue()[2:]


def directory(order, kind, value, mark=None, magic=42):
    number = {"II": "little", "MM": "big"}[order]
    entry = (0x0112).to_bytes(2, number) + kind.to_bytes(2, number) + (1).to_bytes(4, number)
    entry += value.to_bytes(2, number) + b"\0\0" if kind == 3 else value.to_bytes(4, number)
    head = (mark or order).encode() + magic.to_bytes(2, number) + (8).to_bytes(4, number)
    return head + (1).to_bytes(2, number) + entry + bytes(4)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        *((with_exif(directory(order, kind, 6)), 6) for order in ("II", "MM") for kind in (3, 4)),
        (with_exif(directory("MM", 3, 6), b"\xff\xff\xff"), 6),
        (with_exif(directory("MM", 3, 6), b"\xff\xfe\0\x04xx" * 20), 6),
        (with_exif(directory("II", 3, 6, mark="XX")), 1),
        (with_exif(directory("II", 3, 6, magic=7)), 1),
        (with_exif(directory("II", 3, 9)), 1),
        (with_exif(directory("II", 3, 0)), 1),
    ],
)
def test_headers_are_read_as_pillow_reads_them(data, expected):
    assert read_orientation(tf.constant(data)) == expected
    assert load_image(data, 40, resize=40).shape == (40, 40, 3)
    assert upright(data).size == ((40, 60) if expected == 6 else (60, 40))


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xe1", b"\xff\xd8\xff\xe1\0\x20Exif\0\0II*\0", b"no image"]
)
def test_what_is_cut_short_has_none(data):
    assert read_orientation(tf.constant(data)) == 1


def test_damaged_files_are_read_within_bounds():
    rng = np.random.default_rng(0)
    run = tf.function(read_orientation, input_signature=[tf.TensorSpec((), tf.string)])
    whole = np.frombuffer(encoded(6), "uint8")
    for _ in range(200):
        data = whole.copy()
        data[rng.integers(2, 120, 6)] = rng.integers(0, 256, 6)
        assert 1 <= run(tf.constant(data[: rng.integers(0, len(data))].tobytes())) <= 8


def with_exif_last(png):
    """The chunk eXIf behind the pixels, as exiftool puts it."""
    chunks, start = [], 8
    while start < len(png):
        end = start + 12 + int.from_bytes(png[start : start + 4], "big")
        chunks.append(png[start:end])
        start = end
    exif = next(chunk for chunk in chunks if chunk[4:8] == b"eXIf")
    return b"".join([png[:8], *(chunk for chunk in chunks[:-1] if chunk is not exif), exif, chunks[-1]])


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("change", [bytes, with_exif_last], ids=["first", "last"])
def test_exported_graphs_of_png(orientation, change):
    data = change(encoded(orientation, "PNG"))
    assert read_orientation(tf.constant(data)) == orientation
    graph = decode_image(tf.constant(data), (24, 32), 32).numpy()
    assert np.abs(graph - load_image(data, (24, 32), resize=32)).max() <= 1


@pytest.mark.parametrize("start", [8, 16, 33, 45])
def test_damaged_png_files_are_read_within_bounds(start):
    rng = np.random.default_rng(start)
    run = tf.function(read_orientation, input_signature=[tf.TensorSpec((), tf.string)])
    whole = np.frombuffer(encoded(6, "PNG"), "uint8")
    for _ in range(50):
        data = whole.copy()
        data[start : start + 20] = rng.integers(0, 256, 20)
        assert 1 <= run(tf.constant(data[: rng.integers(0, len(data))].tobytes())) <= 8


def test_what_xmp_says_counts_nowhere():
    """Browsers and exported graphs do not read it: an image must not be turned in one place alone."""
    stream = io.BytesIO()
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    stored = Image.open(io.BytesIO(encoded(1))).convert("RGB")
    stored.save(stream, "JPEG", xmp=xmp, quality=100)
    assert (
        np.abs(load_image(stream.getvalue(), (40, 60), resize=40).astype(int) - np.asarray(stored)).mean() < 5
    )  # JPEG's own loss
    assert read_orientation(tf.constant(stream.getvalue())) == 1


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for orientation in ORIENTATIONS:
        for name, kind in (("a", "JPEG"), ("b", "PNG")):
            (root / name).mkdir(exist_ok=True)
            (root / name / f"{orientation}.{kind.lower()}").write_bytes(encoded(orientation, kind))
    return read_listing(root)


@pytest.mark.parametrize("exif", [True, False])
@pytest.mark.parametrize("antialias", [True, False])
def test_training_and_validation_batches(photos, exif, antialias):
    """A corner of whole images has the colour of that corner of the image, upright or as it is stored."""
    how = Preprocessing(size=32, exif=exif)
    plan = Plan(16, 16, seed=0)
    whole = Augmentation(size=32, crop_scale=(1.0, 1.0), crop_ratio=(0.5, 2.0), flip=0.0, antialias=antialias)
    ((images, _),) = training_batches(photos, plan, whole, how, range(1), engine="tf.data")
    if antialias:
        python = training_batches(photos, plan, whole, how, range(1), engine="python")[0][0]
        np.testing.assert_allclose(images, python, atol=1e-4)
    validation = ValidationBatches(photos, how, size=32, batch_size=16)[0][0]
    for shown in (images.numpy()[np.argsort(plan.step(0).indices)], validation):
        corners = shown[:, 4, 4] * how.std + how.mean
        for index, file in enumerate(photos.files):
            with Image.open(file) as image:
                expected = np.asarray((ImageOps.exif_transpose(image) if exif else image).convert("RGB"))[6, 6]
            assert np.abs(corners[index] - expected).max() < 90, file


def test_a_model_that_ignores_it_does_so_everywhere(tmp_path):
    model = ResNeXt(blocks=(1, 1, 1, 1), groups=2, base_channels=8, classes=3, input_shape=(32, 32, 3))
    data, stored = encoded(6, "PNG"), encoded(1, "PNG")
    assert not np.array_equal(load_image(data, 32), load_image(stored, 32))
    assert np.array_equal(open_classifier(model, exif=False).read(data), load_image(stored, 32))
    set_preprocessing(model, replace(get_preprocessing(model), exif=False))
    export = export_saved_model(model, tmp_path, warmup=False)
    for classifier in (open_classifier(model), open_classifier(export)):
        assert np.array_equal(classifier.read(data), load_image(stored, 32))
    signature = tf.saved_model.load(str(export)).signatures["serving_bytes"]
    scores = signature(image_bytes=tf.constant([data, stored]))["probabilities"].numpy()
    assert np.array_equal(scores[0], scores[1])
