"""The published ResNeXt architectures as a table; a variant is a row."""

from dataclasses import dataclass, field
from typing import Any

from .structure import Structure


@dataclass(frozen=True)
class Architecture:
    """One row: the options of `ResNeXt` that make it, and what identifies the result.

    Attributes:
        name: public name, as timm writes it.
        depth, groups, width_per_group: the positional arguments of `ResNeXt`.
        parameters: trainable parameters with a head of `classes`.
        source: where the architecture comes from.
        image_size: height and width in pixels that it was made for.
        options: further keyword options of `ResNeXt`.
    """

    name: str
    depth: int
    groups: int
    width_per_group: int
    parameters: int
    source: str
    classes: int = 1000
    image_size: int = 224
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def all_options(self) -> dict[str, Any]:
        """Every option of `ResNeXt` that makes this row."""
        numbers = {"depth": self.depth, "groups": self.groups, "width_per_group": self.width_per_group}
        return {**numbers, "classes": self.classes, **self.options}

    @property
    def structure(self) -> Structure:
        return Structure.of(**self.all_options)


_PAPER = "arXiv 1611.05431"
_SE = "arXiv 1709.01507"
_WSL = "arXiv 1805.00932"
_CIFAR: dict[str, Any] = {"stem": "cifar"}
_D: dict[str, Any] = {"deep_stem": True, "avg_down": True}

ARCHITECTURES: dict[str, Architecture] = {
    row.name: row
    for row in (
        Architecture("resnext26_32x4d", 26, 32, 4, 15_389_480, _PAPER, options={"blocks": (2, 2, 2, 2)}),
        Architecture("resnext50_32x4d", 50, 32, 4, 25_028_904, _PAPER),
        Architecture("resnext50d_32x4d", 50, 32, 4, 25_048_136, "arXiv 1812.01187, timm", options=_D),
        Architecture("resnext101_32x4d", 101, 32, 4, 44_177_704, _PAPER),
        Architecture("resnext101_32x8d", 101, 32, 8, 88_791_336, "torchvision, mmcls"),
        Architecture("resnext101_64x4d", 101, 64, 4, 83_455_272, _PAPER),
        Architecture("resnext101_32x16d", 101, 32, 16, 194_026_792, _WSL),
        Architecture("resnext101_32x32d", 101, 32, 32, 468_530_472, _WSL),
        Architecture("resnext101_32x48d", 101, 32, 48, 828_411_176, _WSL),
        Architecture("resnext152_32x4d", 152, 32, 4, 59_951_400, "mmcls"),
        Architecture("seresnext50_32x4d", 50, 32, 4, 27_559_896, _SE, options={"se_ratio": 16}),
        Architecture("seresnext101_32x4d", 101, 32, 4, 48_955_416, _SE, options={"se_ratio": 16}),
        Architecture("resnext29_8x64d", 29, 8, 64, 34_426_698, _PAPER, classes=10, image_size=32, options=_CIFAR),
        Architecture("resnext29_16x64d", 29, 16, 64, 68_155_210, _PAPER, classes=10, image_size=32, options=_CIFAR),
    )
}


def list_architectures() -> list[str]:
    """Names that `create` accepts, in the table's order."""
    return list(ARCHITECTURES)


def find_architecture(name: str) -> Architecture:
    """The row called `name`.

    Raises:
        ValueError: no row has that name; the message lists those that do.
    """
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ValueError(f"name={name!r} is no known architecture; choose one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def identify(structure: Structure) -> Architecture | None:
    """The row whose weights fit `structure` or the network that it is the first stages of; None for none."""
    return next((row for row in ARCHITECTURES.values() if row.structure.weights_key == structure.weights_key), None)
