"""One training image out of an encoded one, by Pillow."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from ..multichannel import centre_crop, read_bands, resize_bands
from ..preprocessing import FILTERS, open_image, read_orientation, resize_shorter_side, to_rgb
from .augmentation import Augmentation
from .transforms import crop_windows, recolour

# A JPEG decoder can shrink by these while it decodes, in a fraction of the time.
REDUCTIONS = (8, 4, 2)
GAP = 2  # pixels that are then left for one of the result, so that it is the resizing that smooths


# EXIF's orientation -> whether upright height and width change places, and rows and columns run the other way.
_UPRIGHT = {
    2: (False, (0, 1)), 3: (False, (1, 1)), 4: (False, (1, 0)),
    5: (True, (0, 0)), 6: (True, (0, 1)), 7: (True, (1, 1)), 8: (True, (1, 0)),
}  # fmt: skip


class Crop(NamedTuple):
    """Pixels, and which part of them is shown: left, top, right, bottom, in fractions of pixels too."""

    image: Image.Image
    box: tuple[float, float, float, float]


def shrink_windows(windows: np.ndarray, sizes: ArrayLike, result: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crops out of images that are shrunk while they are decoded, where that leaves enough pixels.

    On photographs the result is half a grey level off on average from what all pixels give.

    Args:
        windows: top, left, height and width of each crop in the whole image, integers (n, 4).
        sizes: height and width of each image, integers (n, 2).
        result: side in pixels that the crops are resized to.

    Returns:
        (1, 2, 4 or 8 for each image; windows of whole pixels in the shrunk images; the box of each within its window).
    """
    least = windows[:, 2:].min(1)
    by = np.select([least >= GAP * result * factor for factor in REDUCTIONS], REDUCTIONS, 1)[:, None]
    start, end = windows[:, :2], windows[:, :2] + windows[:, 2:]
    first, last = start // by, np.minimum(-(-end // by), -(-np.asarray(sizes) // by))
    box = np.concatenate([start / by - first, np.minimum(end / by, last) - first], 1)
    return by[:, 0], np.concatenate([first, last - first], 1), box[:, [1, 0, 3, 2]]


def antialiased(augmentation: Augmentation) -> bool:
    """Whether Pillow resizes the images: all but random resized crops without antialiasing."""
    return augmentation.antialias or augmentation.crop_padding is not None


def make_image(
    data: bytes, draws: np.ndarray, seed: int, augmentation: Augmentation, exif: bool = True, bands: int = 3
) -> np.ndarray:
    """One training image by Pillow: uint8 (size, size, 3); of other channels float32 (size, size, bands)."""
    if bands != 3:
        return _vary_bands(read_bands(data, bands, exif=exif), draws, augmentation)
    return finish_crop(crop_image(data, draws, augmentation, exif), draws, seed, augmentation)


def _vary_bands(values: np.ndarray, draws: np.ndarray, augmentation: Augmentation) -> np.ndarray:
    """As `crop_image` and `finish_crop`, of any number of channels, whose values stay as they are."""
    size, pad = augmentation.size, augmentation.crop_padding
    if pad is not None:
        middle = centre_crop(values, size, (size, size), augmentation.interpolation)
        top, left = (int(draw * (2 * pad + 1)) for draw in draws[:2])
        values = np.pad(middle, ((pad, pad), (pad, pad), (0, 0)))[top : top + size, left : left + size]
    else:
        scale, ratio = augmentation.crop_scale, augmentation.crop_ratio
        rows, columns = values.shape[:2]
        top, left, height, width = crop_windows(draws, rows, columns, scale, ratio).tolist()
        values = resize_bands(values[top : top + height, left : left + width], (size, size), augmentation.interpolation)
    return values[:, ::-1] if draws[-1] < augmentation.flip else values


def crop_image(data: bytes, draws: np.ndarray, augmentation: Augmentation, exif: bool = True) -> Crop:
    """The part of an image that is shown, in RGB; `exif` as of `load_image`."""
    with open_image(data) as opened:
        place = _draft(opened, draws, augmentation, exif)
        image = to_rgb(opened, exif)
    if augmentation.crop_padding is not None:
        size, pad = augmentation.size, augmentation.crop_padding
        image = square(image, size, FILTERS[augmentation.interpolation])
        top, left = (int(draw * (2 * pad + 1)) for draw in draws[:2])
        shifted = (1, 0, left - pad, 0, 1, top - pad)
        image = image.transform((size, size), Image.Transform.AFFINE, shifted, Image.Resampling.NEAREST)
        return Crop(image, (0, 0, size, size))
    if place is None:
        window = crop_windows(draws, image.height, image.width, augmentation.crop_scale, augmentation.crop_ratio)
        place = window, np.array([0, 0, *window[:1:-1]])
    top, left, height, width = place[0].tolist()
    return Crop(image.crop((left, top, left + width, top + height)), tuple(place[1].tolist()))


def _draft(
    opened: Image.Image, draws: np.ndarray, augmentation: Augmentation, exif: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """Has a JPEG image shrunk while it is decoded: the window and box of its crop then. None for what stays whole."""
    if not isinstance(opened, JpegImageFile) or augmentation.crop_padding is not None or not augmentation.antialias:
        return None
    swapped, reversed_ = _UPRIGHT.get(read_orientation(opened) if exif else 1, (False, (0, 0)))
    sizes = np.array([opened.size if swapped else opened.size[::-1]])
    window = crop_windows(draws, sizes[0, 0], sizes[0, 1], augmentation.crop_scale, augmentation.crop_ratio)
    by = int(shrink_windows(window[None], sizes, augmentation.size)[0][0])
    # The last row or column stands for fewer pixels than the others. Where it comes first, all is further on by those.
    ahead = -sizes % by * reversed_
    _, windows, boxes = shrink_windows(window + np.pad(ahead, ((0, 0), (0, 2))), sizes + ahead, augmentation.size)
    opened.draft(None, (opened.width // by, opened.height // by))
    return windows[0], boxes[0]


def finish_crop(crop: Crop, draws: np.ndarray, seed: int, augmentation: Augmentation) -> np.ndarray:
    """What follows the crop, by Pillow: uint8 (size, size, 3)."""
    image = crop.image.resize((augmentation.size, augmentation.size), FILTERS[augmentation.interpolation], crop.box)
    if draws[-1] < augmentation.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(recolour(image, augmentation, seed))


def square(image: Image.Image, size: int, kind: Image.Resampling) -> Image.Image:
    """Shorter side to `size`, and the middle of the longer one."""
    if image.size == (size, size):
        return image
    image = resize_shorter_side(image, size, kind)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))
