"""Encoded images among a request's inputs: how much memory they will take, and why a network refused them."""

import re
import struct
from collections.abc import Mapping

from ...export.image_formats import FORMATS, MAX_PIXELS, PNG, describe_unlisted, is_listed
from .responses import BYTES_SUFFIX
from .signature import CLASSIFY, Signature
from .status import invalid
from .tensors import Array
from .wire import Schema, message_class

EXPORTED = ("serving_bytes", "classify")  # signatures of this project's exports, which decode FORMATS and no others
MOST_PARTS = 65536  # of a file before its size
_HEADERS = ((PNG, ">II", 16), (b"BM", "<ii", 18))  # where the simple formats say how large an image is
_NOT_FILL = re.compile(rb"[^\xff]")
_FRAMES = {0xC0 + kind for kind in range(16)} - {0xC4, 0xC8, 0xCC}  # JPEG's markers SOF
_BARE = {0x01, *range(0xD0, 0xD8)}  # JPEG's markers without a length
_FEATURE = "image/encoded"  # of a tf.Example


def find_images(signature: Signature, arrays: Mapping[str, Array], example: Schema) -> list[bytes]:
    """The strings that are images: those of inputs called `…_bytes`, or in the tf.Examples of a classify request."""
    if signature.method_name == CLASSIFY and "inputs" in arrays:
        return [image for data in arrays["inputs"].ravel() for image in _in_example(data, example)]
    return [
        data
        for name, array in arrays.items()
        if name.endswith(BYTES_SUFFIX) and array.dtype.kind == "O"
        for data in array.ravel()
    ]


def _in_example(data: bytes, example: Schema) -> list[bytes]:
    from google.protobuf.message import DecodeError

    try:
        return list(message_class(example).FromString(data).features.feature[_FEATURE].bytes_list.value)
    except DecodeError:
        return []


def check_images(signature: Signature, arrays: Mapping[str, Array], example: Schema) -> int:
    """How many pixels the images of a request have in all, by their headers alone: no decoder sees them.

    Raises:
        RequestError: more than one image may have, for a file of some hundred bytes can promise gigabytes; or another
            format than an export decodes.
    """
    total = 0
    for number, data in enumerate(find_images(signature, arrays, example)):
        if not is_listed(data) and (signature.name in EXPORTED or data.startswith(PNG)):
            raise invalid(f"image {number} is {describe_unlisted(data)}")
        total += _pixels(data)
        if total > MAX_PIXELS:
            raise invalid(f"images of more than {MAX_PIXELS} pixels in a request; expected fewer or smaller ones")
    return total


def check_image(data: bytes) -> None:
    """Raises RequestError unless an image is of a format that exports decode, and says that it is not too large."""
    if not is_listed(data):
        raise invalid(f"the image is {describe_unlisted(data)}")
    if not 0 < _pixels(data) <= MAX_PIXELS:
        raise invalid(f"the image must have 1 to {MAX_PIXELS} pixels; expected one that is whole, in {FORMATS}")


def _pixels(data: bytes) -> int:
    """0 where nothing says; the network will refuse what is not an image."""
    for mark, layout, start in _HEADERS:
        if data.startswith(mark) and len(data) >= start + struct.calcsize(layout):
            width, height = struct.unpack_from(layout, data, start)
            return abs(width * height)
    if data.startswith(b"\xff\xd8\xff"):
        return _in_jpeg(data)
    return _in_gif(data) if data.startswith(b"GIF8") else 0


def _in_jpeg(data: bytes) -> int:
    """As libjpeg looks for it: between segments any bytes may stand, and before a marker any number of 0xFF."""
    at = 2
    for _ in range(MOST_PARTS):
        at = data.find(b"\xff", at)
        marker = _NOT_FILL.search(data, at, at + MOST_PARTS) if at >= 0 else None
        if marker is None and 0 <= at < len(data) - MOST_PARTS:
            raise invalid(f"a JPEG with {MOST_PARTS} bytes of filling")
        if marker is None or data[marker.start()] in (0xD9, 0xDA):  # the end, or the pixels
            return 0
        at, kind = marker.end(), data[marker.start()]
        if kind in _FRAMES and len(data) >= at + 7:
            height, width = struct.unpack_from(">HH", data, at + 3)
            return int(height * width)
        if kind and kind not in _BARE:
            at += max(int.from_bytes(data[at : at + 2], "big"), 2)
    raise invalid(f"a JPEG with over {MOST_PARTS} segments before its size")


def _in_gif(data: bytes) -> int:
    """Of the first frame, behind any number of extensions."""
    at, parts = 13 + (_colours(data[10]) if len(data) > 12 else 0), 0
    while data[at : at + 1] == b"!":
        at += 2
        while length := int.from_bytes(data[at : at + 1], "big"):
            at, parts = at + 1 + length, parts + 1
            if parts > MOST_PARTS:
                raise invalid(f"a GIF with over {MOST_PARTS} blocks before its size")
        at, parts = at + 1, parts + 1
    if data[at : at + 1] != b"," or len(data) < at + 9:
        return 0
    width, height = struct.unpack_from("<HH", data, at + 5)
    return int(width * height)


def _colours(flags: int) -> int:
    return 6 << flags % 8 if flags >= 128 else 0


def explain_refusal(images: list[bytes], message: str) -> str:
    """TensorFlow's message; where it says little, because something is not an image at all, what it is instead."""
    for number, data in enumerate(images):
        if not is_listed(data):
            return f"image {number} is {describe_unlisted(data)}"
    return f"{message}; expected images that are whole, in {FORMATS}" if images else message
