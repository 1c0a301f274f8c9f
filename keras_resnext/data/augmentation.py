"""How training images are varied, as data. Imports neither Keras nor NumPy: the command line is made from it."""

import re
from dataclasses import dataclass, field

POLICIES = ("rand_augment", "trivial_augment")
BINS = 31  # strengths of an operation, as in torchvision

_PANEL = "Image variations"


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
        policy: None, "rand_augment" (arXiv 1909.13719) or "trivial_augment" (arXiv 2103.10158, wide), both as in
            torchvision; or timm's RandAugment by timm's name, such as "rand-m7-mstd0.5-inc1".
        policy_ops, policy_magnitude: of RandAugment, operations an image and their strength (0..30).
        random_erasing: probability of erasing a random rectangle of an image (arXiv 1708.04896).
        mixup, cutmix: alpha of the Beta distribution of mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899), 0 for
            none; with both, each batch gets one or the other.
        repeats: how many times in a row an image is drawn, with other variations (arXiv 1902.05509); an epoch keeps
            its length.
    """

    size: int = field(
        default=224,
        metadata={
            "panel": "Images", "name": "--image-size", "min": 1, "help": "Side of the training images in pixels.",
        },
    )  # fmt: skip
    crop_scale: tuple[float, float] = field(
        default=(0.08, 1.0),
        metadata={
            "panel": _PANEL, "type": float, "read": lambda smallest: (smallest, 1.0),
            "help": "Smallest share of the image's area that a random crop has.",
        },
    )  # fmt: skip
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    crop_padding: int | None = field(
        default=None,
        metadata={"panel": _PANEL, "min": 0, "help": "Shift by up to N pixels, instead of random crops."},
    )
    flip: float = field(
        default=0.5, metadata={"panel": _PANEL, "help": "Probability of a left-right flip; 0 for text and digits."}
    )
    interpolation: str = "bilinear"
    antialias: bool = True
    color_jitter: tuple[float, float, float, float] = field(
        default=(0.0, 0.0, 0.0, 0.0),
        metadata={
            "panel": _PANEL, "type": float, "read": lambda reach: (reach, reach, reach, 0.0),
            "help": "How far brightness, contrast and saturation vary, such as 0.4.",
        },
    )  # fmt: skip
    policy: str | None = field(
        default=None,
        metadata={
            "panel": _PANEL, "read": lambda name: None if name == "none" else name,
            "help": "rand_augment, trivial_augment, none, or timm's RandAugment such as rand-m7-mstd0.5-inc1.",
        },
    )  # fmt: skip
    policy_ops: int = 2
    policy_magnitude: int = 9
    random_erasing: float = field(
        default=0.0, metadata={"panel": _PANEL, "help": "Probability of erasing a random rectangle."}
    )
    mixup: float = field(default=0.0, metadata={"panel": _PANEL, "help": "Alpha of mixup; 0 for none."})
    cutmix: float = field(default=0.0, metadata={"panel": _PANEL, "help": "Alpha of CutMix; 0 for none."})
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
        if self.policy not in (None, *POLICIES) and timm_policy(self.policy) is None:
            raise ValueError(
                f"policy={self.policy!r} must be {', '.join(POLICIES)}, none or a name of timm's RandAugment such as "
                "rand-m7-mstd0.5-inc1"
            )
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"interpolation={self.interpolation!r} must be bilinear or bicubic")
        for name in ("size", "policy_ops", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must be at least 1")
        for name in ("mixup", "cutmix", "crop_padding"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name}={getattr(self, name)!r} must not be negative")
        if not 0 <= self.policy_magnitude <= BINS - 1:
            raise ValueError(f"policy_magnitude={self.policy_magnitude!r} must lie in 0..{BINS - 1}")
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


@dataclass(frozen=True)
class TimmPolicy:
    """timm's RandAugment (data/auto_augment.py, `rand_augment_transform`).

    Attributes:
        m: strength, of 10.
        n: operations an image.
        p: probability of each.
        mstd: standard deviation of the strength; above 100 it is uniform from 0 to `m`.
        mmax: largest strength.
        inc: whether all operations change more with a larger strength.
    """

    m: int = 10
    n: int = 2
    p: float = 0.5
    mstd: float = 0.0
    mmax: int = 10
    inc: bool = False


def timm_policy(name: str) -> TimmPolicy | None:
    """What a name such as "rand-m7-mstd0.5-inc1" means; None for any other name."""
    first, *parts = name.split("-")
    kinds = {"m": int, "n": int, "p": float, "mstd": float, "mmax": int, "inc": lambda text: bool(int(text))}
    found = [re.fullmatch(r"(m|n|p|mstd|mmax|inc)(\d+(?:\.\d+)?)", part) for part in parts]
    if first != "rand" or not all(found):
        return None
    try:
        return TimmPolicy(**{part[1]: kinds[part[1]](part[2]) for part in found if part})  # type: ignore[operator]
    except ValueError:  # such as m7.5
        return None
