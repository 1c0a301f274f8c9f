"""Random changes to training images. Each is a function of numbers drawn before, so that any step can be repeated.

What changes one image is Pillow's and means what torchvision.transforms means by the same name. What mixes images
of a batch is Keras's own layers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

POLICIES = ("rand_augment", "trivial_augment")
TRIES = 10
DRAWS = 4 * TRIES + 1  # uniform numbers an image: scale, ratio, top and left of each try, and the flip


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied.

    Attributes:
        size: height and width in pixels of what comes out.
        crop_scale: share of the image's area that a random crop has, from and to (torchvision's RandomResizedCrop);
            (1, 1) with crop_ratio (1, 1) is the largest square, at a random place.
        crop_ratio: width by height of the crop, from and to, before it is resized to a square.
        crop_padding: in place of the above, pad the resized image by so many pixels of zeros and crop it at a
            random place (the CIFAR recipe); None for random resized crops.
        flip: probability of a left-right flip.
        interpolation: "bilinear" or "bicubic".
        antialias: whether shrinking random crops is antialiased, as Pillow's and torchvision's is; without it is faster
            by a quarter, and needs TensorFlow.
        color_jitter: how far brightness, contrast and saturation vary (0.4: factors 0.6..1.4), and the hue (0..0.5).
        policy: None, "rand_augment" (arXiv 1909.13719) or "trivial_augment" (arXiv 2103.10158, wide).
        policy_ops, policy_magnitude: of RandAugment, operations an image and their strength (0..30).
        random_erasing: probability of erasing a random rectangle of an image (arXiv 1708.04896).
        mixup, cutmix: alpha of the Beta distribution of mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899), 0 for
            none; with both, each batch gets one or the other.
        repeats: how many times in a row an image is drawn, with other variations (arXiv 1902.05509); an epoch keeps
            its length.
    """

    size: int = 224
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    crop_padding: int | None = None
    flip: float = 0.5
    interpolation: str = "bilinear"
    antialias: bool = True
    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    policy: str | None = None
    policy_ops: int = 2
    policy_magnitude: int = 9
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    repeats: int = 1

    def __post_init__(self) -> None:
        for name in ("flip", "random_erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must be a probability, 0 to 1")
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop_scale={self.crop_scale!r} must be two shares of the area, 0 < from <= to <= 1")
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise ValueError(f"crop_ratio={self.crop_ratio!r} must be two positive ratios, from <= to")
        if self.policy not in (None, *POLICIES):
            raise ValueError(f"policy={self.policy!r} must be None or one of {', '.join(POLICIES)}")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"interpolation={self.interpolation!r} must be bilinear or bicubic")
        for name in ("size", "policy_ops", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must be at least 1")
        for name in ("mixup", "cutmix", "crop_padding"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name}={getattr(self, name)!r} must not be negative")
        if not 0 <= self.policy_magnitude <= _BINS - 1:
            raise ValueError(f"policy_magnitude={self.policy_magnitude!r} must lie in 0..{_BINS - 1}")
        if min(self.color_jitter) < 0 or self.color_jitter[3] > 0.5:
            raise ValueError(f"color_jitter={self.color_jitter!r} must not be negative, and the hue at most 0.5")

    @property
    def recolours(self) -> bool:
        """Whether single images are changed beyond crop and flip."""
        return any(self.color_jitter) or self.policy is not None

    @property
    def mixes(self) -> bool:
        """Whether batches are changed as a whole."""
        return bool(self.random_erasing or self.mixup or self.cutmix)


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
        image = _apply(image, _TRIVIAL_AUGMENT, int(rng.integers(_BINS)), rng)
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
_BINS = 31  # strengths of an operation, as in torchvision

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
    return operation(image, sign * strongest * level / (_BINS - 1))
