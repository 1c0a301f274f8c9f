"""Random changes to training images. Each is a function of numbers drawn before, so that any step can be repeated.

What changes one image is Pillow's and means what torchvision.transforms means by the same name. What mixes images
of a batch is Keras's own layers.
"""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from .augmentation import BINS, Augmentation, timm_policy
from .rand_augment import apply_policy

TRIES = 10
DRAWS = 4 * TRIES + 1  # uniform numbers an image: scale, ratio, top and left of each try, and the flip


def crop_windows(
    draws: np.ndarray,
    heights: np.ndarray | int,
    widths: np.ndarray | int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> np.ndarray:
    """Where RandomResizedCrop cuts images of these sizes: int64 (…, 4) of top, left, height, width in pixels.

    Ten tries of a random area and shape; where none fits, the largest crop in the middle that has an allowed shape
    (torchvision/transforms/transforms.py, RandomResizedCrop.get_params).

    Args:
        draws: (…, DRAWS) uniform numbers.
        heights, widths: (…,) in pixels.
        scale, ratio: `crop_scale` and `crop_ratio` of `Augmentation`.
    """
    whole_h, whole_w = np.asarray(heights), np.asarray(widths)
    tries = draws[..., : 4 * TRIES].reshape(*draws.shape[:-1], 4, TRIES)
    areas, shapes, tops, lefts = np.moveaxis(tries, -2, 0)
    area = (whole_h * whole_w)[..., None] * (scale[0] + (scale[1] - scale[0]) * areas)
    low, high = np.log(ratio)
    shape = np.exp(low + (high - low) * shapes)
    w, h = np.rint(np.sqrt(area * shape)), np.rint(np.sqrt(area / shape))
    fits = (w > 0) & (w <= whole_w[..., None]) & (h > 0) & (h <= whole_h[..., None])
    first = fits.argmax(-1)[..., None]
    top, left = np.floor(tops * (whole_h[..., None] - h + 1)), np.floor(lefts * (whole_w[..., None] - w + 1))
    found = [np.take_along_axis(values, first, -1)[..., 0] for values in (top, left, h, w)]
    middle_h = np.minimum(whole_h, np.maximum(1, np.rint(whole_w / ratio[0])))  # of images that are too narrow
    middle_w = np.minimum(whole_w, np.maximum(1, np.rint(whole_h * ratio[1])))  # or too wide
    middle = [(whole_h - middle_h) // 2, (whole_w - middle_w) // 2, middle_h, middle_w]
    return np.where(fits.any(-1)[..., None], np.stack(found, -1), np.stack(middle, -1)).astype("int64")


def recolour(image: Image.Image, augmentation: Augmentation, seed: int) -> Image.Image:
    """Colour jitter and the policy, on an RGB image."""
    if not augmentation.recolours:
        return image
    rng = np.random.default_rng(seed)
    if any(augmentation.color_jitter):
        *reaches, hue = augmentation.color_jitter
        factors = [rng.uniform(max(0, 1 - reach), 1 + reach) for reach in reaches]
        shift = rng.uniform(-hue, hue)
        for i in rng.permutation(4):
            if i == 3 and hue:
                image = _shift_hue(image, shift)
            elif i < 3 and reaches[i]:
                image = _JITTERS[i](image).enhance(factors[i])
    if augmentation.policy == "rand_augment":
        for _ in range(augmentation.policy_ops):
            image = _apply(image, _RAND_AUGMENT, augmentation.policy_magnitude, rng)
    elif augmentation.policy == "trivial_augment":
        image = _apply(image, _TRIVIAL_AUGMENT, int(rng.integers(BINS)), rng)
    elif augmentation.policy is not None and (policy := timm_policy(augmentation.policy)):
        image = apply_policy(image, policy, rng)
    return image


def mix(images: Any, labels: Any, augmentation: Augmentation, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random erasing, then mixup or CutMix over one batch.

    Args:
        images: (n, height, width, 3) float32, normalised (erased pixels become 0, the mean).
        labels: (n, classes) float32.
        augmentation: what to do.
        seed: of this batch.

    Returns:
        images and labels of the same shapes.
    """
    draws = np.random.default_rng(seed)
    seeds = keras.random.SeedGenerator(int(draws.integers(1, 2**31)))
    if augmentation.random_erasing:
        p = augmentation.random_erasing
        layer: Any = keras.layers.RandomErasing(factor=(p, p), scale=(0.02, 0.33), fill_value=0.0, value_range=(-9, 9))
        images = layer.transform_images(images, layer.get_random_transformation(images, seed=seeds))
    choices = [(kind, alpha) for kind, alpha in ((_MixUp, augmentation.mixup), (_CutMix, augmentation.cutmix)) if alpha]
    if choices:
        kind, alpha = choices[draws.integers(len(choices))]
        layer = kind(alpha)
        change = layer.get_random_transformation({"images": images, "labels": labels}, seed=seeds)
        images, labels = layer.transform_images(images, change), layer.transform_labels(labels, change)
    return np.asarray(images, "float32"), np.asarray(labels, "float32")


class _MixUp(keras.layers.MixUp):
    """One weight for the whole batch, as torchvision's and mmcls's mixup have it; Keras draws one an image."""

    def get_random_transformation(self, data: Any, training: bool = True, seed: Any = None) -> Any:
        change = super().get_random_transformation(data, training=training, seed=seed)
        weight = change["mix_weight"]
        return change | {"mix_weight": keras.ops.broadcast_to(weight[:1], keras.ops.shape(weight))}


class _CutMix(keras.layers.CutMix):
    """With `alpha` as it is given; Keras draws it from 0 to `factor`."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.factor = (alpha, alpha)


_JITTERS: tuple[Any, ...] = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)

_Operation = Callable[[Image.Image, float], Image.Image]
# Name -> (operation, strength at the last bin (a share of width or height for translations), whether it has two signs)
_Space = dict[str, tuple[_Operation, float, bool]]


def _affine(a: float = 1, b: float = 0, c: float = 0, d: float = 0, e: float = 1, f: float = 0) -> Any:
    return lambda p: p.transform(p.size, Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.NEAREST)


def _enhance(kind: Any) -> _Operation:
    return lambda p, m: kind(p).enhance(1 + m)


def _shift_hue(image: Image.Image, share: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    shifted = (np.asarray(hue, "int16") + int(share * 255)) % 256
    return Image.merge("HSV", (Image.fromarray(shifted.astype("uint8")), saturation, value)).convert("RGB")


# torchvision/transforms/autoaugment.py. Shears are about the corner, as there.
_COMMON: _Space = {
    "Identity": (lambda p, m: p, 0.0, False),
    "AutoContrast": (lambda p, m: ImageOps.autocontrast(p), 0.0, False),
    "Equalize": (lambda p, m: ImageOps.equalize(p), 0.0, False),
    "Solarize": (lambda p, m: ImageOps.solarize(p, math.ceil(255 - m)), 255.0, False),
}
_SHEAR_X: _Operation = lambda p, m: _affine(b=m)(p)  # noqa: E731
_SHEAR_Y: _Operation = lambda p, m: _affine(d=m)(p)  # noqa: E731
_RAND_AUGMENT: _Space = _COMMON | {
    "ShearX": (_SHEAR_X, 0.3, True),
    "ShearY": (_SHEAR_Y, 0.3, True),
    "TranslateX": (lambda p, m: _affine(c=-int(m * p.width))(p), 150 / 331, True),
    "TranslateY": (lambda p, m: _affine(f=-int(m * p.height))(p), 150 / 331, True),
    "Rotate": (lambda p, m: p.rotate(m), 30.0, True),
    "Brightness": (_enhance(ImageEnhance.Brightness), 0.9, True),
    "Color": (_enhance(ImageEnhance.Color), 0.9, True),
    "Contrast": (_enhance(ImageEnhance.Contrast), 0.9, True),
    "Sharpness": (_enhance(ImageEnhance.Sharpness), 0.9, True),
    "Posterize": (lambda p, m: ImageOps.posterize(p, 8 - round(m)), 4.0, False),
}
_TRIVIAL_AUGMENT: _Space = _COMMON | {
    "ShearX": (_SHEAR_X, 0.99, True),
    "ShearY": (_SHEAR_Y, 0.99, True),
    "TranslateX": (lambda p, m: _affine(c=-int(m))(p), 32.0, True),
    "TranslateY": (lambda p, m: _affine(f=-int(m))(p), 32.0, True),
    "Rotate": (lambda p, m: p.rotate(m), 135.0, True),
    "Brightness": (_enhance(ImageEnhance.Brightness), 0.99, True),
    "Color": (_enhance(ImageEnhance.Color), 0.99, True),
    "Contrast": (_enhance(ImageEnhance.Contrast), 0.99, True),
    "Sharpness": (_enhance(ImageEnhance.Sharpness), 0.99, True),
    "Posterize": (lambda p, m: ImageOps.posterize(p, 8 - round(m)), 6.0, False),
}


def _apply(image: Image.Image, space: _Space, level: int, rng: np.random.Generator) -> Image.Image:
    operation, strongest, signed = list(space.values())[rng.integers(len(space))]
    sign = -1 if signed and rng.integers(2) else 1
    return operation(image, sign * strongest * level / (BINS - 1))
