"""One training image out of an encoded one, by Pillow."""

import numpy as np
from PIL import Image

from ..preprocessing import FILTERS, open_image, resize_shorter_side, to_rgb
from .augmentation import Augmentation
from .transforms import crop_windows, recolour


def antialiased(augmentation: Augmentation) -> bool:
    """Whether Pillow resizes the images: all but random resized crops without antialiasing."""
    return augmentation.antialias or augmentation.crop_padding is not None


def make_image(data: bytes, draws: np.ndarray, seed: int, augmentation: Augmentation, exif: bool = True) -> np.ndarray:
    """One training image by Pillow: uint8 (size, size, 3)."""
    return finish_crop(crop_image(data, draws, augmentation, exif), draws, seed, augmentation)


def crop_image(data: bytes, draws: np.ndarray, augmentation: Augmentation, exif: bool = True) -> Image.Image:
    """The part of an image that is shown, in RGB; `exif` as of `load_image`."""
    with open_image(data) as opened:
        image = to_rgb(opened, exif)
    if augmentation.crop_padding is not None:
        size, pad = augmentation.size, augmentation.crop_padding
        image = square(image, size, FILTERS[augmentation.interpolation])
        top, left = (int(draw * (2 * pad + 1)) for draw in draws[:2])
        shifted = (1, 0, left - pad, 0, 1, top - pad)
        return image.transform((size, size), Image.Transform.AFFINE, shifted, Image.Resampling.NEAREST)
    windows = crop_windows(draws, image.height, image.width, augmentation.crop_scale, augmentation.crop_ratio)
    top, left, height, width = windows.tolist()
    return image.crop((left, top, left + width, top + height))


def finish_crop(crop: Image.Image, draws: np.ndarray, seed: int, augmentation: Augmentation) -> np.ndarray:
    """What follows the crop, by Pillow: uint8 (size, size, 3)."""
    image = crop.resize((augmentation.size, augmentation.size), FILTERS[augmentation.interpolation])
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
