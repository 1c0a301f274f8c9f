"""Names that each library's own code gives the entries of a state_dict: the way back from Keras."""

import re
from collections.abc import Callable, Iterable, Mapping

from ..network.structure import Structure
from .names import shortcut_indices, strip_prefixes

# Layout -> (pattern, replacement), applied in order to mmcls's names of a backbone with its head as `fc`.
Rule = tuple[str, str | Callable[[re.Match[str]], str]]
_BN: Rule = (r"(^|\.)(?:gn|ln)(\d)\.", r"\1bn\2.")  # torchvision and timm call every norm bn
LAYOUTS: Mapping[str, tuple[Rule, ...]] = {
    "torchvision": (_BN,),
    "mmcls": ((r"^fc\.", "head.fc."), (r"^(?!head\.)", "backbone.")),
    "timm": (
        _BN,
        (r"^stem\.(\d)\.conv\.", lambda m: f"conv1.{3 * int(m[1])}."),
        (r"^stem\.([01])\.\w+\.", lambda m: f"conv1.{3 * int(m[1]) + 1}."),
        (r"^stem\.2\.\w+\.", "bn1."),
        (r"\.se_layer\.conv([12])\.conv\.", r".se.fc\1."),
    ),
}


def layout_names(names: Iterable[str], layout: str, structure: Structure) -> dict[str, str]:
    """Maps entries' names to those of `layout`.

    Args:
        names: mmcls's names without `backbone.`, the head as `fc`.
        layout: "torchvision", "mmcls" or "timm".
        structure: of the network.

    Raises:
        ValueError: an unknown layout, or one whose library has no such network.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r} must be one of {', '.join(LAYOUTS)}")
    names = list(names)
    first = shortcut_indices(names)
    if layout == "torchvision":
        parts = {
            "deep stem": structure.deep_stem,
            "squeeze-and-excitation": structure.se_ratio is not None,
            "average pooling in shortcuts": structure.avg_down,
        }
        if any(parts.values()):
            absent = " and ".join(part for part, present in parts.items() if present)
            raise ValueError(f"layout='torchvision' has no {absent}; choose mmcls or timm")

    def shift(match: re.Match[str]) -> str:
        """timm's shortcuts start with a pooling layer, an identity where nothing strides, in every stage or in none."""
        return f"{match[1]}.downsample.{int(match[2]) + 1 - first[match[1]]}."

    result = {}
    for name in names:
        new = name
        if layout == "timm" and any(first.values()):
            new = re.sub(r"^(layer\d+\.\d+)\.downsample\.(\d)\.", shift, new)
        for pattern, replacement in LAYOUTS[layout]:
            new = re.sub(pattern, replacement, new)
        result[name] = new
    return result


def detect_layout(names: Iterable[str]) -> str:
    """Which library's names these are: "mmcls", "timm", or "torchvision", whose names timm shares where it can."""
    names = list(strip_prefixes(names).values())
    first = shortcut_indices(names)
    if any(re.search(r"^(backbone|head\.fc|stem\.\d)\.|\.se_layer\.", name) for name in names):
        return "mmcls"
    if first.get("layer1.0") == 1 or any(re.search(r"^conv1\.\d|\.se\.fc\d", name) for name in names):
        return "timm"
    return "mmcls" if any(first.values()) else "torchvision"
