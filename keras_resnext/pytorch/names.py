"""Names of entries in PyTorch checkpoints, as tables.

Whatever the library, an entry gets one *canonical* name: `conv1`, `norm1`, `stem.0.conv`, `stem.0.norm`,
`layer1.0.conv2`, `layer1.0.norm2`, `layer1.0.se.conv1`, `layer1.0.downsample.conv`, `layer1.0.downsample.norm`, `fc`,
each with `.weight`, `.bias`, `.running_mean` or `.running_var`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

# Prefixes that training wrappers put before every name.
WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.")

# Keys under which training code keeps the weights, in the order of preference.
WRAPPER_KEYS = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema")

# Counters and the like that carry nothing a model needs.
IGNORED = re.compile(r"(\.num_batches_tracked|^n_averaged)$")

# mmcls's EMAHook keeps a flat second copy of every entry beside the model's own.
EMA_PREFIX = "ema_"

# (pattern, replacement), applied in order to every name; mmcls, torchvision and timm at once: none contradicts another.
RULES: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^backbone\.", ""),  # mmcls
        (r"^head\.fc\.", "fc."),  # mmcls
        (r"^conv1\.([036])\.", lambda m: f"stem.{int(m[1]) // 3}.conv."),  # timm's deep stem is a Sequential
        (r"^conv1\.([14])\.", lambda m: f"stem.{int(m[1]) // 3}.norm."),
        (r"^(stem\.\d)\.(?:bn|gn|ln)\.", r"\1.norm."),  # mmcls's ConvModule
        (r"(^|\.)(?:bn|gn|ln)(\d)\.", r"\1norm\2."),
        (r"\.se_layer\.conv([12])\.conv\.", r".se.conv\1."),  # mmcls
        (r"\.se\.fc([12])\.", r".se.conv\1."),  # timm
    )
)
_DOWNSAMPLE = re.compile(r"^(layer\d+\.\d+\.downsample)\.(\d+)\.")

# Keras layer name -> canonical name; a shortcut's norm is told from its convolution by the layer's variables.
LAYER_RULES: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^(conv1|fc)$", r"\1"),
        (r"^(?:bn|gn|ln)1$", "norm1"),
        (r"^stem_(\d)_conv$", r"stem.\1.conv"),
        (r"^stem_(\d)_(?:bn|gn|ln)$", r"stem.\1.norm"),
        (r"^layer(\d)_(\d+)_conv(\d)$", r"layer\1.\2.conv\3"),
        (r"^layer(\d)_(\d+)_(?:bn|gn|ln)(\d)$", r"layer\1.\2.norm\3"),
        (r"^layer(\d)_(\d+)_se_layer_conv(\d)_conv$", r"layer\1.\2.se.conv\3"),
        (r"^layer(\d)_(\d+)_downsample_\d$", r"layer\1.\2.downsample"),
    )
)


def strip_prefixes(names: Iterable[str]) -> dict[str, str]:
    """Maps each name to itself without the wrapper prefixes that all of them share (counters apart)."""
    stripped = {name: name for name in names}
    while True:
        shared = [p for p in WRAPPER_PREFIXES if all(n.startswith(p) or IGNORED.search(n) for n in stripped.values())]
        if not stripped or not shared:
            return stripped
        stripped = {original: name.removeprefix(shared[0]) for original, name in stripped.items()}


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


def canonical_layer_name(layer_name: str, is_norm: bool) -> str | None:
    """Canonical name of a Keras layer of `ResNeXt`, None for a layer that it does not have."""
    for pattern, replacement in LAYER_RULES:
        if pattern.match(layer_name):
            name = pattern.sub(replacement, layer_name)
            return f"{name}.{'norm' if is_norm else 'conv'}" if name.endswith("downsample") else name
    return None


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


def find_state_dict(data: Any, depth: int = 3) -> tuple[str, dict[str, Any]]:
    """The weights inside a loaded checkpoint: (the wrapper's key or "", {name: array}).

    Wrappers are looked through first, `depth` of them at most: they may hold a tensor or themselves beside the weights.

    Raises:
        ValueError: nothing in `data` looks like a state_dict.
    """
    if isinstance(data, Mapping):
        for key in WRAPPER_KEYS if depth else ():
            if isinstance(data.get(key), Mapping):
                inner, weights = find_state_dict(data[key], depth - 1)
                return (f"{key}.{inner}" if inner else key), weights
        if any(hasattr(value, "shape") for value in data.values()):
            return "", {str(k): v for k, v in data.items() if hasattr(v, "shape")}
    found = f"a dict with {sorted(map(str, data))[:8]}" if isinstance(data, Mapping) else type(data).__name__
    raise ValueError(
        f"no state_dict in the checkpoint: expected weights or one of {', '.join(WRAPPER_KEYS)}, found {found}"
    )
