"""EXIF's orientation of a JPEG file, read and applied in TensorFlow's graph."""

from typing import Any

Tensor = Any

_READ = 1 << 17  # bytes from the beginning: EXIF stands in one of the first segments, each of at most 65,535 bytes
_MOST_SEGMENTS, _MOST_ENTRIES = 64, 64


def read_orientation(data: Tensor) -> Tensor:
    """The orientation, int32 from 1 to 8, of the JPEG file `data`, a string tensor (); 1 where there is none.

    CIPA DC-008 (Exif 2.32), 4.5.4 and 4.6: in segment APP1 a TIFF header, in its first directory the tag 0x0112.
    """
    import tensorflow as tf

    head = tf.cast(tf.io.decode_raw(tf.strings.substr(data, 0, _READ), tf.uint8), tf.int32)
    head = tf.pad(head, [[0, 16]])  # what stands behind the end reads as 0
    last = tf.size(head) - 1

    def word(place: Tensor, little: Any = False) -> Tensor:
        high, low = (tf.gather(head, tf.clip_by_value(at, 0, last)) for at in (place, place + 1))
        return tf.where(little, low * 256 + high, high * 256 + low)

    def is_exif(place: Tensor) -> Tensor:
        return (word(place) == 0xFFE1) & (word(place + 4) == 0x4578) & (word(place + 6) == 0x6966)  # "Exif"

    def goes_on(place: Tensor) -> Tensor:
        marker = word(place)
        return (marker > 0xFF00) & (marker != 0xFFDA) & ~is_exif(place) & (place < last)

    def following(place: Tensor) -> list[Tensor]:
        is_fill = word(place) == 0xFFFF  # a marker may have any number of these before it
        return [tf.where(is_fill, place + 1, place + 2 + tf.maximum(word(place + 2), 2))]

    place = tf.while_loop(goes_on, following, [tf.constant(2)], maximum_iterations=_MOST_SEGMENTS)[0]
    tiff = place + 10
    little = word(tiff) == 0x4949  # "II"; "MM" begins with the high byte
    is_tiff = (little | (word(tiff) == 0x4D4D)) & (word(tiff + 2, little) == 42)
    directory = tiff + word(tiff + tf.where(little, 4, 6), little)
    count = tf.minimum(word(directory, little), _MOST_ENTRIES)
    entries = directory + 2 + 12 * tf.range(_MOST_ENTRIES)
    wanted = (word(entries, little) == 0x0112) & (tf.range(_MOST_ENTRIES) < count) & is_exif(place) & is_tiff
    is_long = word(entries + 2, little) == 4  # of four bytes, the last two of which count in big-endian files
    values = tf.where(is_long & ~little, word(entries + 10, little), word(entries + 8, little))
    value = tf.reduce_max(tf.where(wanted, values, 0))
    return tf.where((word(tf.constant(0)) == 0xFFD8) & (value >= 1) & (value <= 8), value, 1)


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
