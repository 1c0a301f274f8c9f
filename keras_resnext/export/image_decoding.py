"""Bytes of an image to the pixels a model sees, in TensorFlow operations: what SavedModels carry inside."""

from typing import Any

from ..data.tf_orientation import read_orientation, turn_upright
from ..preprocessing import MAX_RESIZED

Tensor = Any

MAX_PIXELS = 178_956_970  # Pillow's own bound for what may be a decompression bomb


def decode_image(
    data: Tensor, size: tuple[int, int], resize: int, interpolation: str = "bilinear", exif: bool = True
) -> Tensor:
    """Bytes of one image to float32 (height, width, 3), RGB 0..255, in TensorFlow operations.

    With `exif` a JPEG or PNG is turned upright as its EXIF orientation says. The image is scaled to cover `size` with
    its shorter side `resize` long, then cropped in the centre, with torchvision's rounding. Alpha is dropped, 16 bits
    are cut to 8.
    Fails with InvalidArgumentError on anything else.
    """
    import tensorflow as tf

    def jpeg() -> Tensor:
        return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")  # as Pillow and torchvision decode

    def other() -> Tensor:
        pixels = tf.io.decode_image(data, channels=3, expand_animations=False)
        pixels.set_shape((None, None, 3))
        indexed = (tf.strings.substr(data, 0, 2) == b"BM") & (tf.strings.substr(data, 28, 2) == b"\x08\x00")
        return tf.cond(indexed, lambda: _apply_bmp_palette(data, pixels), lambda: pixels)

    with tf.control_dependencies([_check_pixels(data)]):
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


def _check_pixels(data: Tensor) -> Tensor:
    """Fails where the header promises more than `MAX_PIXELS`, before anything is decoded."""
    import tensorflow as tf

    header = tf.strings.join([data, " " * 40])  # so that there is something to read in what is cut short

    def sides(position: int, kind: Any, little: bool) -> Tensor:
        raw = tf.io.decode_raw(tf.strings.substr(header, position, 2 * kind.size), kind, little_endian=little)
        return tf.abs(tf.cast(raw, tf.int64))

    headers = [  # how each format begins, and where it says how large it is
        (b"\x89PNG", lambda: sides(16, tf.int32, False)),
        (b"GIF8", lambda: sides(6, tf.uint16, True)),
        (b"BM", lambda: sides(18, tf.int32, True)),
    ]
    cases = [(tf.strings.substr(header, 0, len(mark)) == mark, read) for mark, read in headers]
    cases.append((tf.io.is_jpeg(data), lambda: tf.cast(tf.image.extract_jpeg_shape(data)[:2], tf.int64)))
    size = tf.case(cases, default=lambda: tf.constant([0, 0], tf.int64))
    return tf.debugging.assert_less_equal(
        tf.reduce_prod(size), tf.constant(MAX_PIXELS, tf.int64), f"an image of more than {MAX_PIXELS} pixels"
    )


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
