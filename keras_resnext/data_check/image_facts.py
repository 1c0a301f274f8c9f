"""What one look at an image tells: its size, brightness, sharpness, and a hash of what it shows."""

import hashlib
from functools import cache

import numpy as np
from PIL import Image

from ..preprocessing import to_rgb

SIDE = 256  # pixels of the shorter side at which sharpness is judged: about what a network gets to see
COARSE = 64  # pixels that everything else needs
PLAIN = 6.0  # of 255, deviation of the brightness below which an image shows nothing

THUMB = 16
FACTS = np.dtype([
    ("width", "i4"), ("height", "i4"),
    ("low", "f4"), ("high", "f4"), ("deviation", "f4"), ("blur", "f4"),
    ("digest", "u8"), ("hash", "u8"),
    ("thumb", "u1", (THUMB, THUMB)), ("colour", "u1", 3),
])  # fmt: skip
"""A row an image.

width, height: pixels of the file. low, high: brightness, 0..255, that 1 % of the pixels stay below, and 99 %.
deviation: of the brightness. blur: `blur_of`, NaN where it was not looked at. digest: of the file's content. hash:
`hash_of`. thumb: the image in grey. colour: the mean of red, green and blue.
"""


def facts_of(data: bytes, size: tuple[int, int], image: Image.Image, *, sharpness: bool = True) -> np.ndarray:
    """A row of `FACTS`, of shape ().

    Args:
        data: content of the file.
        size: width and height as stored.
        image: decoded, of a JPEG perhaps smaller.
        sharpness: whether to measure blur, which takes longest.
    """
    rgb = to_rgb(image)
    if min(rgb.size) > (side := SIDE if sharpness else COARSE):
        scale = side / min(rgb.size)
        rgb = rgb.resize((round(rgb.width * scale), round(rgb.height * scale)), Image.Resampling.BOX, reducing_gap=2)
    grey = rgb.convert("L")
    shares = np.cumsum(grey.histogram()) / (grey.width * grey.height)
    pixels = np.asarray(grey)
    row = np.zeros((), FACTS)
    row["width"], row["height"] = size
    row["low"], row["high"] = np.searchsorted(shares, (0.01, 0.99))
    row["deviation"] = pixels.std()
    row["blur"] = blur_of(pixels) if sharpness else np.nan
    row["digest"] = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
    row["hash"] = hash_of(grey)
    row["thumb"] = np.asarray(grey.resize((THUMB, THUMB), Image.Resampling.BOX))
    row["colour"] = np.asarray(rgb.resize((1, 1), Image.Resampling.BOX))[0, 0]
    return row


def hash_of(grey: Image.Image) -> int:
    """The 64 signs of an image's coarsest cosines against their median: like images differ in few of them.

    The 8 x 8 lowest frequencies of the discrete cosine transform of 32 x 32 pixels, as in pHash (Zauner 2010, section
    3.2.1); the mean, which is no pattern, counts as above the median.
    """
    cosines = _cosines()
    found = cosines @ np.asarray(grey.resize((32, 32), Image.Resampling.BOX), "float32") @ cosines.T
    signs = found > np.median(found.flat[1:])
    signs[0, 0] = True
    return int.from_bytes(np.packbits(signs).tobytes(), "big")


@cache
def _cosines() -> np.ndarray:
    """float32 (8, 32): the first rows of the discrete cosine transform."""
    places = (2 * np.arange(32) + 1) * np.pi / 64
    return np.cos(np.arange(8)[:, None] * places).astype("float32")


def blur_of(pixels: np.ndarray, width: int = 9) -> float:
    """How little an image loses where it is blurred again, 0 for a sharp one to 1.

    Differences of neighbours before and after a mean over `width` pixels, in the direction that loses less: Crete et
    al. 2007, "The blur effect".

    Args:
        pixels: grey (height, width).
        width: of the mean.

    Returns:
        0..1, 1 for an image of one colour; NaN for one with a side of less than twice `width`.
    """
    if min(pixels.shape) < 2 * width:
        return float("nan")
    values = pixels.astype("int16")
    return max(_kept(values, width), _kept(values.T, width))


def _kept(pixels: np.ndarray, width: int) -> float:
    """Along the first axis. Means of neighbouring windows differ in the ends alone: no mean has to be computed."""
    middle = width // 2
    before = np.abs(np.diff(pixels[middle : middle + len(pixels) - width + 1], axis=0))
    after = np.abs(pixels[width:] - pixels[:-width])  # times `width`
    whole = int(before.sum(dtype="int64")) * width
    return 1 - int(np.maximum(before * np.int16(width) - after, 0).sum(dtype="int64")) / whole if whole else 1.0
