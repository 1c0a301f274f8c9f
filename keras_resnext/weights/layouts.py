"""Names that each library's own code gives the entries of a state_dict: the way back from Keras."""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..network.structure import Structure
from .names import shortcut_indices, strip_prefixes

# Layout -> (pattern, replacement), applied in order to mmcls's names of a backbone with its head as `fc`.
Rule = tuple[str, str | Callable[[re.Match[str]], str]]
LAYOUTS = ("torchvision", "mmcls", "timm", "open-mmlab")
_BN: Rule = (r"(^|\.)(?:gn|ln)(\d)\.", r"\1bn\2.")  # torchvision and timm call every norm bn
_EVERY_BN: tuple[Rule, ...] = (_BN, (r"\.(?:gn|ln)\.", ".bn."))
_STEM: tuple[Rule, ...] = (
    (r"^stem\.(\d)\.conv\.", lambda m: f"conv1.{3 * int(m[1])}."),
    (r"^stem\.([01])\.\w+\.", lambda m: f"conv1.{3 * int(m[1]) + 1}."),
    (r"^stem\.2\.\w+\.", "bn1."),
)
_TIMM: tuple[Rule, ...] = (
    _BN,
    *_STEM,
    (r"\.se_layer\.conv([12])\.conv\.", r".se.fc\1."),
    (r"\.eca\.", ".se."),
)


def _byobnet_block(match: re.Match[str]) -> str:
    size = "kxk" if match[4] == "2" else "1x1"
    return f"stages.{int(match[1]) - 1}.{match[2]}.conv{match[4]}_{size}.{match[3]}."


_FAMILIES: dict[str, tuple[Rule, ...]] = {
    "torchvision": (_BN,),
    "mmcls": ((r"^fc\.", "head.fc."), (r"^(?!head\.)", "backbone.")),
    "open-mmlab": (),  # what the backbones of mmcls, mmdet and mmseg read on their own
    "timm": _TIMM,
    "timm, senet": (
        *_TIMM,
        (r"^(conv|bn)1\.", r"layer0.\g<1>1."),
        (r"^fc\.", "last_linear."),
        (r"\.se\.", ".se_module."),
    ),
    "timm, sknet": (
        *_EVERY_BN,
        *_STEM,
        (r"^(layer\d\.\d+)\.(conv)([13])\.", r"\1.conv\3.\2."),
        (r"^(layer\d\.\d+)\.(bn)([13])\.", r"\1.conv\3.\2."),
        (r"\.(reduce|select)\.", r".fc_\1."),
    ),
    "timm, byobnet": (
        *_EVERY_BN,
        (r"^stem\.(\d)\.", lambda m: f"stem.conv{int(m[1]) + 1}."),
        (r"^layer(\d)\.(\d+)\.(conv|bn)([123])\.", _byobnet_block),
        (r"^layer(\d)\.(\d+)\.downsample\.0\.", lambda m: f"stages.{int(m[1]) - 1}.{m[2]}.shortcut.conv."),
        (r"^layer(\d)\.(\d+)\.downsample\.1\.", lambda m: f"stages.{int(m[1]) - 1}.{m[2]}.shortcut.bn."),
        (r"^layer(\d)\.(\d+)\.", lambda m: f"stages.{int(m[1]) - 1}.{m[2]}."),
        (r"\.se_layer\.conv([12])\.conv\.", r".attn.fc\1."),
        (r"\.eca\.", ".attn."),
        (r"\.gc\.attn\.", ".attn.conv_attn."),
        (r"\.gc\.(fc[12]|norm)\.", r".attn.mlp_add.\1."),
        (r"^fc\.", "head.fc."),
    ),
}


class _Part(NamedTuple):
    """What some networks have, in words, whether this one has it, and whose networks may."""

    words: str
    present: bool
    families: tuple[str, ...]


_RESNETS = ("timm", "timm, sknet")
_OPENMMLAB = ("mmcls", "open-mmlab")


def _parts(structure: Structure) -> tuple[_Part, ...]:
    se = structure.se_ratio is not None
    byob = "timm, byobnet"
    return (
        _Part("deep stem", structure.deep_stem, (*_OPENMMLAB, *_RESNETS, byob)),
        _Part("tiered stem", structure.tiered_stem, (*_RESNETS, byob)),
        _Part("plain stem", not structure.deep_stem, ("torchvision", *_OPENMMLAB, *_RESNETS, "timm, senet")),
        _Part("squeeze-and-excitation", se, (*_OPENMMLAB, *_RESNETS, "timm, senet", byob)),
        _Part("network without squeeze-and-excitation", not se, ("torchvision", *_OPENMMLAB, *_RESNETS, byob)),
        _Part("average pooling in shortcuts", structure.avg_down, (*_OPENMMLAB, *_RESNETS)),
        _Part("antialiasing", structure.antialias, _RESNETS),
        _Part("activation but ReLU", structure.activation != "relu", (*_RESNETS, byob)),
        _Part("attention='eca'", structure.attention == "eca", ("timm", byob)),
        _Part("attention='gca'", structure.attention == "gca", (byob,)),
        _Part("attention='sk'", structure.attention == "sk", ("timm, sknet",)),
        _Part("attention before the last 1x1", not structure.attention_last, (byob,)),
        _Part("group_size", structure.group_size is not None, (byob,)),
        _Part("stem_pool='max_ceil'", structure.stem_pool == "max_ceil", ("timm, senet",)),
        _Part("stem_pool='avg'", structure.stem_pool == "avg", _RESNETS),
    )


def family(structure: Structure, layout: str) -> str:
    """Whose code of `layout` builds this network: timm has one for each of some kinds."""
    if layout != "timm":
        return layout
    if structure.group_size is not None or structure.attention == "gca" or not structure.attention_last:
        return "timm, byobnet"
    if structure.stem_pool == "max_ceil":
        return "timm, senet"
    return "timm, sknet" if structure.attention == "sk" else "timm"


def layout_names(names: Iterable[str], layout: str, structure: Structure) -> dict[str, str]:
    """Maps entries' names to those of `layout`.

    Args:
        names: mmcls's names without `backbone.`, the head as `fc`.
        layout: "torchvision", "mmcls", "timm" or "open-mmlab".
        structure: of the network.

    Raises:
        ValueError: an unknown layout, or one whose library has no such network.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r} must be one of {', '.join(LAYOUTS)}")
    names = list(names)
    first = shortcut_indices(names)
    owner = family(structure, layout)
    if absent := [part.words for part in _parts(structure) if part.present and owner not in part.families]:
        others = [
            other
            for other in LAYOUTS
            if all(family(structure, other) in part.families for part in _parts(structure) if part.present)
        ]
        advice = f"choose {' or '.join(others)}" if others else "no library has this network; .keras files hold it"
        raise ValueError(f"layout={layout!r} has no {' and '.join(absent)}; {advice}")

    def shift(match: re.Match[str]) -> str:
        """timm's shortcuts start with a pooling layer, an identity where nothing strides, in every stage or in none."""
        return f"{match[1]}.downsample.{int(match[2]) + 1 - first[match[1]]}."

    result = {}
    for name in names:
        new = name
        if layout == "timm" and any(first.values()):
            new = re.sub(r"^(layer\d+\.\d+)\.downsample\.(\d)\.", shift, new)
        for pattern, replacement in _FAMILIES[owner]:
            new = re.sub(pattern, replacement, new)
        result[name] = new
    return result


_TIMM_ALONE = re.compile(r"^conv1\.\d|\.se\.(fc\d|conv)\.|^stages\.|\.se_module\.|\.paths\.\d\.")


def detect_layout(names: Iterable[str]) -> str:
    """Which library's names these are: "mmcls", "timm", or "torchvision", whose names timm shares where it can."""
    names = list(strip_prefixes(names).values())
    first = shortcut_indices(names)
    if first.get("layer1.0") == 1 or any(map(_TIMM_ALONE.search, names)):
        return "timm"
    if any(re.search(r"^(backbone|head\.fc|stem\.\d)\.|\.se_layer\.", name) for name in names):
        return "mmcls"
    return "mmcls" if any(first.values()) else "torchvision"
