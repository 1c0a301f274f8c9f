"""timm's RandAugment, by Pillow: a table of operations and of what a strength means for each.

Source: timm 1.0.31, data/auto_augment.py. What an operation leaves empty is ImageNet's mean, as there.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from .augmentation import TimmPolicy

FILL = (124, 116, 104)
LEVELS = 10.0  # the strength at which an operation is what its row says
RESAMPLING = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)  # one of them by chance


class Operation(NamedTuple):
    """One row.

    Attributes:
        apply: (image, argument, resampling) to image.
        argument: strength as a share of `LEVELS`, 0..1, to the operation's argument.
        signed: whether the argument has either sign; of an `around` one, what is away from 1.
        around: whether the argument is a factor around 1, at least 0.1.
    """

    apply: Callable[[Image.Image, Any, Image.Resampling], Image.Image]
    argument: Callable[[float], Any] = lambda share: share
    signed: bool = False
    around: bool = False


def _affine(image: Image.Image, matrix: tuple[float, ...], kind: Image.Resampling) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=kind, fillcolor=FILL)


def _enhance(enhancer: Any) -> Callable[..., Image.Image]:
    return lambda image, factor, _: enhancer(image).enhance(factor)


def _posterize(image: Image.Image, bits: int, _: Image.Resampling) -> Image.Image:
    """Of 0 bits black remains, which new versions of Pillow refuse and timm therefore stops at."""
    return image.point([value & (256 - 2 ** (8 - bits)) for value in range(256)] * 3)


def _solarize_add(image: Image.Image, add: int, _: Image.Resampling) -> Image.Image:
    return image.point([min(255, value + add) if value < 128 else value for value in range(256)] * 3)


_ENHANCERS = {
    "Color": ImageEnhance.Color, "Contrast": ImageEnhance.Contrast, "Brightness": ImageEnhance.Brightness,
    "Sharpness": ImageEnhance.Sharpness,
}  # fmt: skip


@functools.cache
def operations(increasing: bool) -> dict[str, Operation]:
    """The rows of timm's `_RAND_INCREASING_TRANSFORMS` or `_RAND_TRANSFORMS`, in their order."""
    enhance = (lambda share: 0.9 * share) if increasing else (lambda share: 1.8 * share + 0.1)
    rows = {
        "AutoContrast": Operation(lambda image, *_: ImageOps.autocontrast(image)),
        "Equalize": Operation(lambda image, *_: ImageOps.equalize(image)),
        "Invert": Operation(lambda image, *_: ImageOps.invert(image)),
        "Rotate": Operation(
            lambda image, degrees, kind: image.rotate(degrees, resample=kind, fillcolor=FILL),
            lambda share: share * 30.0,
            signed=True,
        ),
        "Posterize": Operation(_posterize, lambda share: 4 - int(share * 4) if increasing else int(share * 4)),
        "Solarize": Operation(
            lambda image, threshold, _: ImageOps.solarize(image, threshold),
            lambda share: 256 - min(256, int(share * 256)) if increasing else min(256, int(share * 256)),
        ),
        "SolarizeAdd": Operation(_solarize_add, lambda share: min(128, int(share * 110))),
        **{
            name: Operation(_enhance(enhancer), enhance, signed=increasing, around=increasing)
            for name, enhancer in _ENHANCERS.items()
        },
    }
    moves: dict[str, tuple[float, Callable[[Image.Image, float], tuple[float, ...]]]] = {
        "ShearX": (0.3, lambda image, by: (1, by, 0, 0, 1, 0)),
        "ShearY": (0.3, lambda image, by: (1, 0, 0, by, 1, 0)),
        "TranslateXRel": (0.45, lambda image, by: (1, 0, by * image.width, 0, 1, 0)),
        "TranslateYRel": (0.45, lambda image, by: (1, 0, 0, 0, 1, by * image.height)),
    }

    def move(most: float, matrix: Callable[[Image.Image, float], tuple[float, ...]]) -> Operation:
        return Operation(
            lambda image, by, kind: _affine(image, matrix(image, by), kind), lambda share: share * most, signed=True
        )

    return rows | {name: move(*row) for name, row in moves.items()}


def apply_operation(
    image: Image.Image, row: Operation, strength: float, negative: bool, kind: Image.Resampling
) -> Image.Image:
    """One operation at a strength on 0..10 or more."""
    argument = row.argument(strength / LEVELS)
    if row.signed and negative:
        argument = -argument
    return row.apply(image, max(0.1, 1.0 + argument) if row.around else argument, kind)


def apply_policy(image: Image.Image, policy: TimmPolicy, rng: np.random.Generator) -> Image.Image:
    """`policy.n` operations of the table, the same one twice too, each with probability `policy.p`."""
    rows = list(operations(policy.inc).values())
    for place in rng.integers(len(rows), size=policy.n):
        skip, negative, kind = rng.random() > policy.p, rng.random() > 0.5, RESAMPLING[rng.integers(2)]
        strength = rng.uniform(0, policy.m) if policy.mstd > 100 else rng.normal(policy.m, policy.mstd)
        if not skip:
            image = apply_operation(image, rows[place], min(max(0.0, strength), policy.mmax), negative, kind)
    return image
