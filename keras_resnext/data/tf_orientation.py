"""EXIF's orientation of a JPEG or PNG file, read and applied in TensorFlow's graph."""

from typing import Any

Tensor = Any

_MOST_SEGMENTS = 64  # of a JPEG before its EXIF, each of at most 65,535 bytes
_MOST_CHUNKS = 65536  # of a PNG: 8192 bytes are usual
_MOST_ENTRIES = 64
_BLOCK = 65536  # bytes of EXIF
_EXIF = int.from_bytes(b"eXIf", "big")


def read_orientation(data: Tensor) -> Tensor:
    """The orientation, int32 from 1 to 8, of the file `data`, a string tensor (); 1 where there is none.

    CIPA DC-008 (Exif 2.32), 4.5.4 and 4.6: a JPEG's segment APP1, or a PNG's chunk eXIf, holds a TIFF header, whose
    first directory has the tag 0x0112.
    """
    import tensorflow as tf

    start = tf.case(
        [
            (tf.strings.substr(data, 0, 2) == b"\xff\xd8", lambda: _find_in_jpeg(data)),
            (tf.strings.substr(data, 0, 4) == b"\x89PNG", lambda: _find_in_png(data)),
        ],
        default=lambda: tf.constant(-1),
    )
    return tf.cond(start < 0, lambda: tf.constant(1), lambda: _read_tag(_bytes(data, start, _BLOCK)))


def _bytes(data: Tensor, start: Tensor, count: int) -> Tensor:
    """int32 (count,): the bytes from `start` on; what stands behind the end reads as 0."""
    import tensorflow as tf

    found = tf.io.decode_raw(tf.strings.substr(data, tf.minimum(start, tf.strings.length(data)), count), tf.uint8)
    padded = tf.pad(found, [[0, count - tf.size(found)]])
    return tf.cast(tf.ensure_shape(padded, (count,)), tf.int32)


def _find_in_jpeg(data: Tensor) -> Tensor:
    """Where the TIFF header of the segment APP1 begins; -1 where there is none."""
    import tensorflow as tf

    def is_exif(head: Tensor) -> Tensor:
        return (head[1] == 0xE1) & tf.reduce_all(head[4:8] == tf.constant(list(b"Exif")))

    def goes_on(place: Tensor, head: Tensor) -> Tensor:
        return (head[0] == 0xFF) & (head[1] != 0xDA) & ~is_exif(head)  # 0xDA: the pixels begin

    def next_segment(place: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
        is_fill = head[1] == 0xFF  # a marker may have any number of these before it
        place = place + tf.where(is_fill, 1, 2 + tf.maximum(head[2] * 256 + head[3], 2))
        return place, _bytes(data, place, 8)

    first = tf.constant(2)
    place, head = tf.while_loop(
        goes_on, next_segment, (first, _bytes(data, first, 8)), maximum_iterations=_MOST_SEGMENTS
    )
    return tf.where((head[0] == 0xFF) & is_exif(head), place + 10, -1)


def _find_in_png(data: Tensor) -> Tensor:
    """Where the chunk eXIf has its TIFF header; -1 where there is none."""
    import tensorflow as tf

    size = tf.strings.length(data)
    ended = tf.strings.join([data, b"\0" * 8])

    def head(place: Tensor) -> tuple[Tensor, Tensor]:
        """The length of a chunk's data, and what kind it is of, as a number."""
        raw = tf.strings.substr(ended, tf.minimum(place, size), 8)
        return place, tf.ensure_shape(tf.io.decode_raw(raw, tf.int32, little_endian=False), (2,))

    def goes_on(place: Tensor, head: Tensor) -> Tensor:
        return (head[1] != _EXIF) & (tf.cast(head[0], tf.uint32) < tf.cast(size, tf.uint32)) & (place < size)

    place, last = tf.while_loop(
        goes_on, lambda place, found: head(place + 12 + found[0]), head(tf.constant(8)), maximum_iterations=_MOST_CHUNKS
    )
    return tf.where((last[1] == _EXIF) & (place < size), place + 8, -1)


def _read_tag(tiff: Tensor) -> Tensor:
    import tensorflow as tf

    little = tiff[0] == 0x49  # "II"; "MM" begins with the high byte

    def word(place: Tensor) -> Tensor:
        low, high = (tf.gather(tiff, tf.clip_by_value(at, 0, _BLOCK - 1)) for at in (place, place + 1))
        return tf.where(little, high * 256 + low, low * 256 + high)

    directory = word(tf.where(little, 4, 6))  # of four bytes, two that are not 0: the block is not longer
    entries = directory + 2 + 12 * tf.range(_MOST_ENTRIES)
    wanted = (word(entries) == 0x0112) & (tf.range(_MOST_ENTRIES) < word(directory))
    is_long = word(entries + 2) == 4  # of four bytes, of which the last two count in big-endian files
    value = tf.reduce_max(tf.where(wanted, tf.where(is_long & ~little, word(entries + 10), word(entries + 8)), 0))
    is_tiff = (tiff[0] == tiff[1]) & (little | (tiff[0] == 0x4D)) & (word(2) == 42)
    return tf.where(is_tiff & (value >= 1) & (value <= 8), value, 1)


def turn_upright(pixels: Tensor, orientation: Tensor) -> Tensor:
    """An image (height, width, channels) as it was stored, turned as its orientation says."""
    import tensorflow as tf

    def turn() -> Tensor:
        turned = tf.cond(orientation >= 5, lambda: tf.transpose(pixels, (1, 0, 2)), lambda: pixels)
        for axis, values in ((1, (2, 3, 6, 7)), (0, (3, 4, 7, 8))):
            flips = tf.reduce_any(orientation == tf.constant(values))
            turned = tf.cond(flips, lambda x=turned, a=axis: tf.reverse(x, [a]), lambda x=turned: x)
        return turned

    return tf.cond(orientation == 1, lambda: pixels, turn)
