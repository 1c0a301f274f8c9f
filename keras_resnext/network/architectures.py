"""The published ResNeXt architectures as a table; a variant is a row."""

from dataclasses import dataclass, field
from typing import Any

from .checks import describe_choices, match_names
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
_BAGS = "arXiv 1812.01187"
_26: dict[str, Any] = {"blocks": (2, 2, 2, 2)}
_201: dict[str, Any] = {"blocks": (3, 24, 36, 4)}
_CIFAR: dict[str, Any] = {"stem": "cifar"}
_D: dict[str, Any] = {"deep_stem": True, "avg_down": True}
_T: dict[str, Any] = {**_D, "tiered_stem": True}
_TS: dict[str, Any] = {
    "group_size": 32, "deep_stem": True, "tiered_stem": True, "activation": "silu", "attention_last": False,
}  # fmt: skip
_R16: dict[str, Any] = {"se_ratio": 16}
_LEGACY: dict[str, Any] = {**_R16, "stem_pool": "max_ceil"}
_AA: dict[str, Any] = {**_R16, **_D, "antialias": True, "stem_pool": "avg"}
_GN: dict[str, Any] = {"norm_cfg": {"type": "GN", "num_groups": 32}}
_GN_WS: dict[str, Any] = {**_GN, "conv_cfg": {"type": "ConvWS"}}

# name, depth, groups, width per group, parameters, source, further options
_ROWS: tuple[tuple[str, int, int, int, int, str, dict[str, Any]], ...] = (
    ("resnext26_32x4d", 26, 32, 4, 15_389_480, _PAPER, _26),
    ("resnext50_32x4d", 50, 32, 4, 25_028_904, _PAPER, {}),
    ("resnext50d_32x4d", 50, 32, 4, 25_048_136, f"{_BAGS}, timm", _D),
    ("resnext50_32x4d_gn", 50, 32, 4, 25_028_904, "arXiv 1803.08494", _GN),
    ("resnext50_32x4d_gn_ws", 50, 32, 4, 25_028_904, "arXiv 1903.10520", _GN_WS),
    ("resnext50_64x4d", 50, 64, 4, 45_192_488, "PaddleClas", {}),
    ("resnext50d_64x4d", 50, 64, 4, 45_211_720, "PaddleClas", _D),
    ("resnext101_32x4d", 101, 32, 4, 44_177_704, _PAPER, {}),
    ("resnext101d_32x4d", 101, 32, 4, 44_196_936, "PaddleClas", _D),
    ("resnext101_32x4d_gn", 101, 32, 4, 44_177_704, "arXiv 1803.08494", _GN),
    ("resnext101_32x4d_gn_ws", 101, 32, 4, 44_177_704, "arXiv 1903.10520", _GN_WS),
    ("resnext101_32x8d", 101, 32, 8, 88_791_336, "torchvision, mmcls", {}),
    ("resnext101_64x4d", 101, 64, 4, 83_455_272, _PAPER, {}),
    ("resnext101d_64x4d", 101, 64, 4, 83_474_504, "PaddleClas", _D),
    ("resnext101_32x16d", 101, 32, 16, 194_026_792, _WSL, {}),
    ("resnext101_32x32d", 101, 32, 32, 468_530_472, _WSL, {}),
    ("resnext101_32x48d", 101, 32, 48, 828_411_176, _WSL, {}),
    ("resnext152_32x4d", 152, 32, 4, 59_951_400, "mmcls", {}),
    ("resnext152d_32x4d", 152, 32, 4, 59_970_632, "PaddleClas", _D),
    ("resnext152_64x4d", 152, 64, 4, 114_971_944, "PaddleClas", {}),
    ("resnext152d_64x4d", 152, 64, 4, 114_991_176, "PaddleClas", _D),
    ("seresnext26d_32x4d", 26, 32, 4, 16_809_512, "timm", {**_26, **_D, **_R16}),
    ("seresnext26t_32x4d", 26, 32, 4, 16_806_976, "timm", {**_26, **_T, **_R16}),
    ("seresnext50_32x4d", 50, 32, 4, 27_559_896, _SE, _R16),
    ("seresnext50d_32x4d", 50, 32, 4, 27_579_128, "PaddleClas", {**_D, **_R16}),
    ("seresnext101_32x4d", 101, 32, 4, 48_955_416, _SE, _R16),
    ("seresnext101_32x8d", 101, 32, 8, 93_569_048, "timm", _R16),
    ("seresnext101d_32x8d", 101, 32, 8, 93_588_280, "timm", {**_D, **_R16}),
    ("seresnext101_64x4d", 101, 64, 4, 88_232_984, "timm", _R16),
    ("seresnextaa101d_32x8d", 101, 32, 8, 93_588_280, "timm", _AA),
    ("seresnextaa201d_32x8d", 201, 32, 8, 149_394_904, "timm", {**_201, **_AA, "stem_channels": 128}),
    ("legacy_seresnext26_32x4d", 26, 32, 4, 16_790_280, f"{_SE}, timm", {**_26, **_LEGACY}),
    ("legacy_seresnext50_32x4d", 50, 32, 4, 27_559_896, _SE, _LEGACY),
    ("legacy_seresnext101_32x4d", 101, 32, 4, 48_955_416, _SE, _LEGACY),
    ("ecaresnext26t_32x4d", 26, 32, 4, 15_406_220, "timm", {**_26, **_T, "attention": "eca"}),
    ("ecaresnext50t_32x4d", 50, 32, 4, 25_045_686, "timm", {**_T, "attention": "eca"}),
    ("skresnext50_32x4d", 50, 32, 4, 27_479_784, "arXiv 1903.06586, timm", {"attention": "sk"}),
    ("resnext26ts", 26, 2, 32, 10_297_952, "timm", {**_26, **_TS, "attention_last": True}),
    ("seresnext26ts", 26, 2, 32, 10_388_064, "timm", {**_26, **_TS, **_R16}),
    ("eca_resnext26ts", 26, 2, 32, 10_297_988, "timm", {**_26, **_TS, "attention": "eca"}),
    ("gcresnext26ts", 26, 2, 32, 10_476_600, "timm", {**_26, **_TS, "attention": "gca"}),
    ("gcresnext50ts", 50, 2, 32, 15_667_320, "timm", {**_TS, "attention": "gca"}),
    ("resnext29_8x64d", 29, 8, 64, 34_426_698, _PAPER, _CIFAR),
    ("resnext29_16x64d", 29, 16, 64, 68_155_210, _PAPER, _CIFAR),
)


def _architecture(
    name: str, depth: int, groups: int, width: int, parameters: int, source: str, options: dict[str, Any]
) -> Architecture:
    """A row, with the classes and the image size that its kind is made for: timm designed its ts-networks at 256."""
    classes, size = (10, 32) if options is _CIFAR else (1000, 256 if name.endswith("ts") else 224)
    return Architecture(name, depth, groups, width, parameters, source, classes, size, options)


ARCHITECTURES: dict[str, Architecture] = {row[0]: _architecture(*row) for row in _ROWS}


def list_architectures(pattern: str | None = None) -> list[str]:
    """Names that `create` accepts, in the table's order; those that fit a pattern such as `"*d_32x4d"`."""
    return match_names(pattern, {name: (name,) for name in ARCHITECTURES})


def find_architecture(name: str) -> Architecture:
    """The row called `name`.

    Raises:
        ValueError: no row has that name; the message lists those that do.
    """
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ValueError(f"name={name!r} is no known architecture; {describe_choices(name, ARCHITECTURES)}")
    return ARCHITECTURES[name]


def identify(structure: Structure) -> Architecture | None:
    """The row whose weights fit `structure` or the network that it is the first stages of; None for none.

    Of several, which differ in norms or standardised kernels alone, the one that has them like `structure`.
    """
    fitting = [row for row in ARCHITECTURES.values() if row.structure.weights_key == structure.weights_key]
    return min(fitting, key=lambda row: len(describe_changes(structure, row)), default=None)


def describe_changes(structure: Structure, row: Architecture | None) -> tuple[str, ...]:
    """The options with which `structure` computes something else from the weights of `row`."""
    if row is None:
        return ()
    own, usual = structure, row.structure
    differs = {
        "style": own.style != usual.style,
        "conv_cfg": own.conv != usual.conv,
        "norm_cfg": (own.norm.prefix, own.norm.num_groups) != (usual.norm.prefix, usual.norm.num_groups),
    }
    return tuple(name for name, different in differs.items() if different)
