"""Bytes of an image to the pixels a model sees, in TensorFlow operations: what SavedModels carry inside."""

from typing import Any

from ..data.tf_orientation import read_orientation, turn_upright
from ..preprocessing import MAX_RESIZED
from .image_formats import MARKS, MAX_PIXELS, UNLISTED

Tensor = Any

_MOST_RUNS = 16384  # of blocks of one length, in a GIF up to the end of its first frame
_RUN = 256
_START, _EXTENSION, _FRAME, _DONE, _WRONG = range(5)  # where in a GIF


def decode_image(
    data: Tensor, size: tuple[int, int], resize: int, interpolation: str = "bilinear", exif: bool = True
) -> Tensor:
    """Bytes of one image to float32 (height, width, 3), RGB 0..255, in TensorFlow operations.

    With `exif` a JPEG or PNG is turned upright as its EXIF orientation says. The image is scaled to cover `size` with
    its shorter side `resize` long, then cropped in the centre, with torchvision's rounding. Alpha is dropped, 16 bits
    are cut to 8. Of a GIF only the first frame is looked at.
    Fails with InvalidArgumentError on anything but the formats of `image_formats`, told by their first bytes.
    """
    import tensorflow as tf

    def jpeg() -> Tensor:
        return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")  # as Pillow and torchvision decode

    def other() -> Tensor:
        pixels = tf.io.decode_image(data, channels=3, expand_animations=False)
        pixels.set_shape((None, None, 3))
        indexed = (tf.strings.substr(data, 0, 2) == b"BM") & (tf.strings.substr(data, 28, 2) == b"\x08\x00")
        return tf.cond(indexed, lambda: _apply_bmp_palette(data, pixels), lambda: pixels)

    data = _checked(data)
    with tf.control_dependencies([data]):
        pixels = tf.cond(tf.io.is_jpeg(data), jpeg, other)
    pixels.set_shape((None, None, 3))
    # Read in 0.1 ms. Turned once it is small: of 12 megapixels the turning alone would take 80 ms.
    orientation = read_orientation(data) if exif else tf.constant(1)
    lies = orientation >= 5
    stored = tf.cast(tf.shape(pixels)[:2], tf.int64)
    height, width = tf.unstack(tf.where(lies, stored[::-1], stored))
    new_height, new_width = max(resize, size[0]), max(resize, size[1])
    tall = height * new_width >= width * new_height
    target = tf.where(
        tall, [new_width * height // width, tf.constant(new_width, tf.int64)],
        [tf.constant(new_height, tf.int64), new_height * width // height],
    )  # fmt: skip
    narrow = tf.debugging.assert_less_equal(
        tf.reduce_prod(target),
        tf.constant(MAX_RESIZED, tf.int64),
        f"an image so narrow that it has over {MAX_RESIZED} pixels",
    )
    with tf.control_dependencies([narrow]):
        target = tf.cast(target, tf.int32)
    resized = tf.image.resize(pixels, tf.where(lies, target[::-1], target), interpolation, antialias=True)
    # Images have whole values: rounding makes four pixels of five equal to Pillow's, and nearly none differs by more
    # than 1. Pillow rounds between rows and columns too: that made 99 % equal here, and took up to five times as long.
    resized = turn_upright(tf.clip_by_value(tf.round(resized), 0.0, 255.0), orientation)
    top, left = tf.unstack(tf.cast(tf.round(tf.cast(target - size, tf.float32) / 2), tf.int32))
    return tf.ensure_shape(resized[top : top + size[0], left : left + size[1]], (*size, 3))


def _checked(data: Tensor) -> Tensor:
    """The image, of a GIF its first frame, unless it is of another format or has more than `MAX_PIXELS`.

    Fails before anything is decoded, by what the decoder will read too.
    """
    import tensorflow as tf

    begins = {
        name: tf.reduce_any([tf.strings.substr(data, 0, len(mark)) == mark for mark in marks])
        for name, marks in MARKS.items()
    }
    listed = tf.debugging.Assert(tf.reduce_any(list(begins.values())), [UNLISTED])
    with tf.control_dependencies([listed] if listed is not None else []):
        data = tf.identity(data)
    nothing = tf.constant([0, 0], tf.int64)
    data, frame = tf.cond(begins["GIF"], lambda: _cut_gif(data), lambda: (data, nothing))
    header = tf.strings.join([data, " " * 40])  # so that there is something to read in what is cut short

    def sides(position: int, little: bool) -> Tensor:
        raw = tf.io.decode_raw(tf.strings.substr(header, position, 8), tf.int32, little_endian=little)
        return tf.abs(tf.cast(raw, tf.int64))

    size = tf.case(
        [
            (begins["JPEG"], lambda: tf.cast(tf.image.extract_jpeg_shape(data)[:2], tf.int64)),
            (begins["PNG"], lambda: sides(16, False)),
            (begins["BMP"], lambda: sides(18, True)),
        ],
        default=lambda: frame,
    )
    small = tf.debugging.assert_less_equal(
        tf.reduce_prod(size), tf.constant(MAX_PIXELS, tf.int64), f"an image of more than {MAX_PIXELS} pixels"
    )
    with tf.control_dependencies([small] if small is not None else []):
        return tf.identity(data)


def _cut_gif(data: Tensor) -> tuple[Tensor, Tensor]:
    """A GIF that ends behind its first frame, and that frame's sides, int64 (2,).

    TensorFlow decodes all frames, and makes the image as large as the largest of them, whatever the header says
    (core/lib/gif/gif_io.cc). Extensions and frames are rows of blocks, each behind a byte with its length.
    """
    import tensorflow as tf

    raw = tf.cast(tf.pad(tf.io.decode_raw(data, tf.uint8), [[0, 16]]), tf.int32)
    size = tf.strings.length(data)

    def colours(flags: Tensor) -> Tensor:
        """Bytes of the table of colours that may follow."""
        return tf.where(flags >= 128, 6 * tf.bitwise.left_shift(1, flags % 8), 0)

    def goes_on(place: Tensor, where: Tensor, frame: Tensor) -> Tensor:
        return (place < size) & (where < _DONE)

    def step(place: Tensor, where: Tensor, frame: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        byte = raw[place]
        at_start, ends = where == _START, byte == 0
        is_frame, is_extension = at_start & (byte == 0x2C), at_start & (byte == 0x21)
        behind_head = place + 11 + colours(raw[tf.minimum(place + 9, size)])
        ahead = tf.gather(raw, tf.minimum(place + (byte + 1) * tf.range(_RUN), size))  # nearly all are of one length
        run = tf.where(ends, 1, tf.reduce_sum(tf.math.cumprod(tf.cast(ahead == byte, tf.int32))))
        behind = place + (byte + 1) * run
        new_place = tf.where(is_frame, behind_head, tf.where(is_extension, place + 2, behind))
        opened = tf.where(is_frame, _FRAME, tf.where(is_extension, _EXTENSION, _WRONG))
        closed = tf.where(where == _FRAME, _DONE, _START)
        new_where = tf.where(at_start, opened, tf.where(ends, closed, where))
        return new_place, new_where, tf.where(is_frame, place, frame)

    first = (13 + colours(raw[10]), tf.constant(_START), tf.constant(0))
    place, where, frame = tf.while_loop(goes_on, step, first, maximum_iterations=_MOST_RUNS)
    found = tf.debugging.Assert((where == _DONE) | ((where == _FRAME) & (place >= size)), ["a GIF without a frame"])
    with tf.control_dependencies([found] if found is not None else []):
        sides = [raw[tf.minimum(frame + at, size)] + 256 * raw[tf.minimum(frame + at + 1, size)] for at in (5, 7)]
        return tf.strings.join([tf.strings.substr(data, 0, place), ";"]), tf.cast(tf.stack(sides), tf.int64)


def _apply_bmp_palette(data: Tensor, indices: Tensor) -> Tensor:
    """TensorFlow gives the indices of an 8-bit BMP as if they were grey values; this looks the colours up."""
    import tensorflow as tf

    header = tf.io.decode_raw(tf.strings.substr(data, 14, 36), tf.int32)
    used = header[8]  # 0 stands for all
    length = 4 * tf.where((used > 0) & (used <= 256), used, 256)
    palette = tf.reshape(tf.io.decode_raw(tf.strings.substr(data, 14 + header[0], length), tf.uint8), (-1, 4))
    index = tf.cast(indices[..., 0], tf.int32)
    tf.debugging.assert_less(tf.reduce_max(index), tf.shape(palette)[0], "BMP with an index outside its palette")
    return tf.gather(palette[:, 2::-1], index)
