"""Bytes of images in an export become the pixels that Pillow gives."""

import io
import zlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_resnext.export.image_decoding import decode_image
from keras_resnext.export.image_formats import UNLISTED, describe_unlisted
from keras_resnext.preprocessing import load_image
from tests.export.saved_model_material import (
    SIZE,
    classify,
    encoded,
    keras_probabilities,
    make_images,
)


def frames(first: np.ndarray) -> bytes:
    return encoded(first, "GIF", save_all=True, append_images=[Image.fromarray(255 - first)])


SAMPLE = make_images(1)[0]


GREY = np.asarray(Image.fromarray(SAMPLE).convert("L"))


SMOOTH = np.asarray(Image.fromarray(make_images(1, 4, 4)[0]).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


DEEP = (np.random.default_rng(2).integers(0, 65536, (SIZE, SIZE))).astype(np.uint16)


PALETTE = Image.fromarray(SAMPLE).quantize(200)


@pytest.mark.parametrize(
    ("data", "expected", "tolerance"),
    [
        pytest.param(encoded(SAMPLE, "PNG"), SAMPLE, 1e-5, id="png"),
        pytest.param(encoded(GREY, "PNG"), GREY, 1e-5, id="grey png"),
        pytest.param(encoded(np.dstack([SAMPLE, GREY]), "PNG"), SAMPLE, 1e-5, id="png with alpha"),
        pytest.param(encoded(Image.fromarray(DEEP), "PNG"), (DEEP >> 8).astype(np.uint8), 1e-5, id="16-bit png"),
        pytest.param(encoded(PALETTE, "PNG"), PALETTE.convert("RGB"), 1e-5, id="palette png"),
        pytest.param(encoded(SAMPLE, "BMP"), SAMPLE, 1e-5, id="bmp"),
        pytest.param(encoded(GREY, "BMP"), GREY, 1e-5, id="grey bmp"),
        pytest.param(encoded(PALETTE, "BMP"), PALETTE.convert("RGB"), 1e-5, id="palette bmp"),
        pytest.param(encoded(np.dstack([SAMPLE, GREY]), "BMP"), SAMPLE, 1e-5, id="bmp with alpha"),
        pytest.param(encoded(PALETTE, "GIF"), PALETTE.convert("RGB"), 1e-5, id="gif"),
        pytest.param(frames(GREY), GREY, 1e-5, id="moving gif"),
        pytest.param(encoded(SMOOTH, "JPEG", quality=95), None, 1e-5, id="jpeg"),
        pytest.param(encoded(SMOOTH, "JPEG", progressive=True), None, 1e-5, id="progressive jpeg"),
        pytest.param(encoded(Image.fromarray(SMOOTH).convert("L"), "JPEG"), None, 1e-5, id="grey jpeg"),
    ],
)
def test_formats(model: keras.Model, signatures: Any, data: bytes, expected: Any, tolerance: float) -> None:
    image = Image.open(io.BytesIO(data)) if expected is None else expected
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    wanted = keras_probabilities(model, np.asarray(image.convert("RGB"))[None])
    np.testing.assert_allclose(classify(signatures, data)["probabilities"], wanted, atol=tolerance)


@pytest.mark.parametrize("size", [(SIZE, SIZE), (3, 5), (40, 31), (31, 40), (1, 1), (200, 16)])
def test_resizes_as_load_image_does(size: tuple[int, int]) -> None:
    data = encoded(make_images(1, *size)[0], "PNG")
    ours = decode_image(tf.constant(data), (SIZE, SIZE), SIZE).numpy()
    assert np.abs(ours - load_image(data, SIZE)).max() <= 1
    assert np.abs(ours - load_image(data, SIZE)).mean() < 0.4


def test_crops_large_images_as_load_image_does() -> None:
    data = encoded(make_images(1, 301, 403)[0], "PNG")
    ours = decode_image(tf.constant(data), (224, 224), 256).numpy()
    assert np.abs(ours - load_image(data, 224)).max() <= 1
    assert decode_image(tf.constant(data), (64, 200), 73).shape == (64, 200, 3)
    assert decode_image(tf.constant(data), (200, 64), 73).shape == (200, 64, 3)


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"BM", encoded(SAMPLE, "PNG")[:60], b"\xff\xd8\xff", encoded(SMOOTH, "GIF")[:30], b"<svg/>",
     encoded(GREY, "BMP")[:1000], encoded(PALETTE, "BMP")[:60]],
)  # fmt: skip
def test_broken_images_are_errors(signatures: Any, data: bytes) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError):
        classify(signatures, data)
    classify(signatures, encoded(SAMPLE, "PNG"))


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def test_images_too_large_to_decode_are_errors(signatures: Any) -> None:
    """Headers that promise 30,000 x 30,000 pixels: nothing is decoded."""
    png = encoded(SAMPLE, "PNG")
    png = png[:8] + chunk(b"IHDR", (30_000).to_bytes(4, "big") * 2 + png[24:29]) + png[33:]
    jpeg = bytearray(encoded(SMOOTH, "JPEG"))
    start = jpeg.index(b"\xff\xc0") + 5
    jpeg[start : start + 4] = (30_000).to_bytes(2, "big") * 2
    bmp = bytearray(encoded(SAMPLE, "BMP"))
    bmp[18:26] = (30_000).to_bytes(4, "little") * 2
    gif = bytearray(encoded(PALETTE, "GIF"))
    frame = gif.index(b",", 13 + 768)  # whatever the screen's size is, TensorFlow decodes frames
    gif[frame + 5 : frame + 9] = (30_000).to_bytes(2, "little") * 2
    for data in (png, bytes(jpeg), bytes(bmp), bytes(gif)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="an image of more than 178956970 pixels"):
            classify(signatures, data)


def test_only_listed_formats_are_decoded() -> None:
    """TensorFlow 2.21 decodes WebP, which TF Serving 2.19 refuses, and libpng looks for a size behind other chunks."""
    png = encoded(SAMPLE, "PNG")
    hidden = png[:8] + chunk(b"abCd", b"\0\0\0\1\0\0\0\1") + png[8:]
    assert tf.io.decode_image(hidden).shape == SAMPLE.shape
    for data, what in (
        (encoded(SAMPLE, "WEBP"), "it looks like WebP"),
        (encoded(SAMPLE, "TIFF"), "it looks like TIFF"),
        (hidden, "it looks like a PNG that does not begin with its size"),
        (b"RIFF", "it begins with b'RIFF'"),
        (b"", "it is empty"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=UNLISTED):
            decode_image(tf.constant(data), (SIZE, SIZE), SIZE)
        assert describe_unlisted(data) == f"{UNLISTED} ({what})"


@pytest.mark.parametrize("blocks", [b"\xff" + b"x" * 255, b"\1a\2bc"], ids=["long", "short"])
def test_of_a_gif_the_first_frame_counts(blocks: bytes) -> None:
    """Behind comments of any length, and whatever comes after it."""
    gif, head = encoded(PALETTE, "GIF"), 13 + 768
    comment = b"!\xfe" + blocks * 600 + b"\0"
    first = gif[:head] + comment + gif[head:-1]
    frame = first.index(b",\0\0\0\0", head + len(comment))
    second = bytearray(first[frame:])
    second[5:9] = b"\xff\xff\xff\xff"
    expected = decode_image(tf.constant(gif), (SIZE, SIZE), SIZE).numpy()
    assert np.array_equal(expected, np.asarray(PALETTE.convert("RGB")))
    for end in (b";", b"", bytes(second) + b";"):
        assert np.array_equal(decode_image(tf.constant(first + end), (SIZE, SIZE), SIZE), expected)


def test_images_too_narrow_to_resize_are_errors() -> None:
    """One pixel wide and 70,000 high: a small file that would become 256 x 17,920,000."""
    data = encoded(Image.new("L", (1, 70_000)), "PNG")
    with pytest.raises(tf.errors.InvalidArgumentError, match="so narrow that it has over 16777216 pixels"):
        decode_image(tf.constant(data), (224, 224), 256)
    with pytest.raises(ValueError, match="is too narrow: resized it would have"):
        load_image(data, 224)
    assert decode_image(tf.constant(encoded(Image.new("L", (2, 400)), "PNG")), (224, 224), 256).shape == (224, 224, 3)
