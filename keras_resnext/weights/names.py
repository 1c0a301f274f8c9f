"""Names of entries in PyTorch checkpoints, as tables.

Whatever the library, an entry gets one *canonical* name: `conv1`, `norm1`, `stem.0.conv`, `stem.0.norm`,
`layer1.0.conv2`, `layer1.0.norm2`, `layer1.0.downsample.conv`, `layer1.0.downsample.norm`, `fc`, in attention
`layer1.0.se.conv1`, `layer1.0.eca.conv`, `layer1.0.gc.attn`, `layer1.0.gc.fc1`, `layer1.0.gc.norm`,
`layer1.0.conv2.paths.0.conv`, `layer1.0.conv2.paths.0.norm`, `layer1.0.conv2.attn.reduce`, `layer1.0.conv2.attn.norm`
and `layer1.0.conv2.attn.select`, each with `.weight`, `.bias`, `.running_mean` or `.running_var`.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

# Prefixes that training wrappers put before every name.
_WRAPPERS = re.compile(r"(?:(?:module|_orig_mod|model)\.)*")

# Counters and the like that carry nothing a model needs: of BatchNorm, averaging, and profilers (thop).
IGNORED = re.compile(r"((^|\.)(num_batches_tracked|n_averaged|total_ops|total_params))$")

# mmcv's EMAHook keeps a second copy of every parameter beside the model's own, under its name with `_` for `.`.
EMA_PREFIX = "ema_"


def _stage(match: re.Match[str]) -> str:
    """timm's byobnet counts stages from 0, and calls convolutions by their size."""
    return f"layer{int(match[1]) + 1}.{match[2]}."


# (pattern, replacement), applied in order to every name; mmcls, torchvision and timm at once: none contradicts another.
RULES: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^backbone\.", ""),  # mmcls
        (r"^head\.fc\.", "fc."),  # mmcls
        (r"^conv1\.([036])\.", lambda m: f"stem.{int(m[1]) // 3}.conv."),  # timm's deep stem is a Sequential
        (r"^conv1\.([14])\.", lambda m: f"stem.{int(m[1]) // 3}.norm."),
        (r"^stem\.conv([123])\.", lambda m: f"stem.{int(m[1]) - 1}."),  # timm's byobnet
        (r"^stages\.(\d)\.(\d+)\.", _stage),
        (r"^(layer\d\.\d+\.conv[123])_(?:1x1|kxk)\.", r"\1."),
        (r"^(layer\d\.\d+)\.shortcut\.conv\.", r"\1.downsample.conv."),
        (r"^(layer\d\.\d+)\.shortcut\.bn\.", r"\1.downsample.norm."),
        (r"^(layer\d\.\d+)\.attn\.(fc[12]|conv)\.", r"\1.se.\2."),
        (r"^(layer\d\.\d+)\.attn\.conv_attn\.", r"\1.gc.attn."),
        (r"^(layer\d\.\d+)\.attn\.mlp_add\.", r"\1.gc."),
        (r"^(layer\d\.\d+)\.conv([123])\.conv\.", r"\1.conv\2."),  # there and in timm's sknet
        (r"^(layer\d\.\d+)\.conv([123])\.(?:bn|gn|ln)\.", r"\1.norm\2."),
        (r"\.conv2\.attn\.fc_", ".conv2.attn."),
        (r"^layer0\.(conv|bn)1\.", r"\g<1>1."),  # timm's and Cadene's senet
        (r"^last_linear\.", "fc."),
        (r"\.se_module\.", ".se."),
        (r"^(stem\.\d)\.(?:bn|gn|ln)\.", r"\1.norm."),  # mmcls's ConvModule
        (r"(\.conv2\.(?:paths\.\d|attn))\.(?:bn|gn|ln)\.", r"\1.norm."),
        (r"(^|\.)(?:bn|gn|ln)(\d)\.", r"\1norm\2."),
        (r"\.se_layer\.conv([12])\.conv\.", r".se.conv\1."),  # mmcls
        (r"\.se\.fc([12])\.", r".se.conv\1."),  # timm
        (r"\.se\.conv\.", r".eca.conv."),
    )
)
_DOWNSAMPLE = re.compile(r"^(layer\d+\.\d+\.downsample)\.(\d+)\.")

# Everything that a ResNeXt can have, by canonical name.
PART = re.compile(
    r"(conv1|norm1|fc|stem\.[0-2]\.(conv|norm)|layer\d\.\d+\.(conv[123]|norm[123]|downsample\.(conv|norm)"
    r"|se\.conv[12]|eca\.conv|gc\.(attn|fc[12]|norm)|conv2\.paths\.[01]\.(conv|norm)|conv2\.attn\.(reduce|norm|select)))"
    r"\.(weight|bias|running_mean|running_var)"
)


def strip_prefixes(names: Iterable[str]) -> dict[str, str]:
    """Maps each name to itself without the wrapper prefixes that all of them share (counters apart), in one pass."""
    names = list(names)
    runs = [_WRAPPERS.match(name)[0] for name in names if not IGNORED.search(name)]  # type: ignore[index]
    # What the first and the last in order share, all share.
    pairs = zip(min(runs, default=""), max(runs, default=""), strict=False)
    shared = "".join(a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    shared = shared[: shared.rfind(".") + 1]
    return {name: name.removeprefix(shared) for name in names}


def canonical_names(names: Iterable[str]) -> dict[str, str]:
    """Maps each entry's name to its canonical name; what is no part of a ResNeXt keeps its own.

    A name is never dropped. Counters (`IGNORED`) should be taken out before.
    """
    canonical: dict[str, str] = {}
    for original, name in strip_prefixes(names).items():
        for pattern, replacement in RULES:
            name = pattern.sub(replacement, name)
        canonical[original] = name
    # In timm's deep stem the third norm is called bn1.
    if any(n.startswith("stem.2.conv.") for n in canonical.values()):
        canonical = {o: re.sub(r"^norm1\.", "stem.2.norm.", n) for o, n in canonical.items()}
    return _name_shortcuts(canonical)


def _name_shortcuts(canonical: Mapping[str, str]) -> dict[str, str]:
    """`downsample.<index>` becomes `.conv` or `.norm`: the Sequential starts with a pooling layer or does not."""
    first: dict[str, int] = {}
    for name in canonical.values():
        if match := _DOWNSAMPLE.match(name):
            first[match[1]] = min(first.get(match[1], 99), int(match[2]))

    def rename(name: str) -> str:
        if not (match := _DOWNSAMPLE.match(name)):
            return name
        part = {0: "conv", 1: "norm"}.get(int(match[2]) - first[match[1]])
        return name if part is None else f"{match[1]}.{part}.{name[match.end() :]}"

    return {original: rename(name) for original, name in canonical.items()}


def module_name(layer_name: str) -> str:
    """mmcls's name for the module that a layer of `ResNeXt` is: "layer1.0.se_layer.conv1.conv", "fc"."""
    return layer_name.replace("_", ".").replace("se.layer", "se_layer")


# Names of a library whose networks have what no weight shows: a pattern, and the options that go with it.
_FAMILIES: tuple[tuple[re.Pattern[str], dict[str, Any]], ...] = (
    (re.compile(r"(^|\.)stages\.0\.0\.conv1_1x1\."), {"activation": "silu", "attention_last": False}),
    (re.compile(r"(^|\.)layer1\.0\.se_module\."), {"stem_pool": "max_ceil"}),
)


def options_by_names(names: Iterable[str]) -> dict[str, Any]:
    """Options of `ResNeXt` that a checkpoint's names speak of and its shapes do not.

    timm's byobnet builds ResNeXts with SiLU and attention before the last 1x1 alone; the SE-ResNeXts of senet have
    Caffe's max-pool; shortcuts that start with a pooling layer count on from there.
    """
    names = list(names)
    found: dict[str, Any] = {"avg_down": 1 in shortcut_indices(names).values()}
    for pattern, options in _FAMILIES:
        if any(map(pattern.search, names)):
            found |= options
    return found


def shortcut_indices(names: Iterable[str]) -> dict[str, int]:
    """Block ("layer2.0") to the index at which its shortcut's Sequential has the convolution: 1 behind a pooling layer.

    timm's `avg_down` starts at 1 in the first stage too, where the pooling is an identity.
    """
    indices: dict[str, int] = {}
    for name in strip_prefixes(names).values():
        if match := _DOWNSAMPLE.match(name.removeprefix("backbone.")):
            block = match[1].removesuffix(".downsample")
            indices[block] = min(indices.get(block, 99), int(match[2]))
    return indices
