"""Encoded images among a request's inputs: how much memory they will take, and why a network refused them."""

import io
import struct
from collections.abc import Mapping

from PIL import Image

from .responses import BYTES_SUFFIX
from .signature import CLASSIFY, Signature
from .status import invalid
from .tensors import Array

MAX_PIXELS = 178_956_970  # as in the graphs of export.images, which importing would load Keras for
FORMATS = "JPEG, PNG, GIF or BMP"
_MARKS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"RIFF")
# Where the simple formats say how large an image is; Pillow wants more of a file to be right than TensorFlow does.
_HEADERS = ((b"\x89PNG", ">II", 16), (b"GIF8", "<HH", 6), (b"BM", "<ii", 18))
_FEATURE = "image/encoded"  # of a tf.Example


def find_images(signature: Signature, arrays: Mapping[str, Array]) -> list[bytes]:
    """The strings that are images: those of inputs called `…_bytes`, or in the tf.Examples of a classify request."""
    if signature.method_name == CLASSIFY and "inputs" in arrays:
        return [image for data in arrays["inputs"].ravel() for image in _in_example(data)]
    return [
        data
        for name, array in arrays.items()
        if name.endswith(BYTES_SUFFIX) and array.dtype.kind == "O"
        for data in array.ravel()
    ]


def _in_example(data: bytes) -> list[bytes]:
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    try:
        return list(tf.train.Example.FromString(data).features.feature[_FEATURE].bytes_list.value)
    except DecodeError:
        return []


def count_pixels(images: list[bytes]) -> int:
    """How many pixels the headers promise in all.

    Raises:
        RequestError: more than one image may have; a file of some hundred bytes can promise gigabytes.
    """
    total = 0
    for image in images:
        total += _pixels(image)
        if total > MAX_PIXELS:
            raise invalid(f"images of more than {MAX_PIXELS} pixels in a request; expected fewer or smaller ones")
    return total


def _pixels(data: bytes) -> int:
    """0 where nothing says; the network will refuse what is no image."""
    for mark, layout, start in _HEADERS:
        if data.startswith(mark) and len(data) >= start + struct.calcsize(layout):
            width, height = struct.unpack_from(layout, data, start)
            return abs(width * height)
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.width * image.height
    except Image.DecompressionBombError:
        return MAX_PIXELS + 1
    except Exception:  # Pillow raises anything at all on broken files
        return 0


def explain_refusal(images: list[bytes], message: str) -> str:
    """TensorFlow's message; where it says little, because something is no image at all, what it is instead."""
    for number, data in enumerate(images):
        if not data.startswith(_MARKS):
            what = f"{len(data)} bytes that begin with {bytes(data[:12])!r}" if data else "empty"
            return f"image {number} is no image that this model decodes: {what}; expected {FORMATS}"
    return f"{message}; expected images that are whole, in {FORMATS}" if images else message
