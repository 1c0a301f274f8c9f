"""Reads the options of `ResNeXt` off the shapes of a checkpoint's entries."""

import re
from collections.abc import Mapping
from typing import Any

from ..network.architectures import BLOCKS_BY_DEPTH
from ..network.options import squeeze_width
from .names import canonical_names, shortcut_indices

Shape = tuple[int, ...]
_CONV1 = re.compile(r"^layer(\d+)\.(\d+)\.conv1\.weight$")


def infer_from_names(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """`infer_options` of a checkpoint's own names."""
    canonical = {name: tuple(shapes[original]) for original, name in canonical_names(shapes).items()}
    return infer_options(canonical, 1 in shortcut_indices(shapes).values())


def expected_names(options: Mapping[str, Any]) -> set[str]:
    """Canonical names of all entries of the ResNeXt that `infer_options` describes."""
    layers = [f"stem.{i}" for i in range(3)] if options["deep_stem"] else [""]
    convolutions = [f"{layer}.conv" for layer in layers] if options["deep_stem"] else ["conv1"]
    norms = [f"{layer}.norm" for layer in layers] if options["deep_stem"] else ["norm1"]
    biased = ["fc"] if options["include_top"] else []
    for stage, count in enumerate(options["blocks"], start=1):
        for block in (f"layer{stage}.{i}" for i in range(count)):
            convolutions += [f"{block}.conv{i}" for i in (1, 2, 3)]
            norms += [f"{block}.norm{i}" for i in (1, 2, 3)]
            biased += [f"{block}.se.conv{i}" for i in (1, 2)] if options["se_ratio"] else []
        if stage > 1 or options["stem_channels"] != 4 * options["base_channels"]:
            convolutions.append(f"layer{stage}.0.downsample.conv")
            norms.append(f"layer{stage}.0.downsample.norm")
    statistics = ("weight", "bias", "running_mean", "running_var")
    return {
        *(f"{name}.weight" for name in convolutions),
        *(f"{name}.{kind}" for name in norms for kind in statistics),
        *(f"{name}.{kind}" for name in biased for kind in ("weight", "bias")),
    }


def infer_options(shapes: Mapping[str, Shape], avg_down: bool) -> dict[str, Any]:
    """Options that the weights show: depth, groups, widths, stem, squeeze-and-excitation, norm, classes, head.

    Args:
        shapes: canonical name (`names.py`) to PyTorch shape.
        avg_down: whether the shortcuts' names speak of average pooling.

    Returns:
        Keyword options of `ResNeXt`. Style, dilations, strides and weight standardisation leave no trace in weights.

    Raises:
        ValueError: the entries are not those of a ResNeXt with bottleneck blocks; the message says what does not fit.
    """
    blocks = _blocks(shapes)
    stem = _stem(shapes)
    width, channels = _shape(shapes, "layer1.0.conv1.weight")[0], _shape(shapes, "layer1.0.conv2.weight")[1]
    expanded = _shape(shapes, "layer1.0.conv3.weight")[0]
    if expanded % 4 or width % channels:
        raise ValueError(
            f"the checkpoint is no ResNeXt: layer1.0 has {width} inner, {channels} grouped, {expanded} outer channels"
        )
    groups, base_channels = width // channels, expanded // 4
    if groups == 1 and width != base_channels:
        raise ValueError(
            f"the checkpoint is a wide ResNet, no ResNeXt: with groups=1 layer1 has {base_channels} inner channels, "
            f"here {width}"
        )
    options: dict[str, Any] = {
        "depth": next((d for d, b in BLOCKS_BY_DEPTH.items() if b[: len(blocks)] == blocks), 2 + 3 * sum(blocks)),
        "blocks": blocks,
        "num_stages": len(blocks),
        "groups": groups,
        # With one group mmcls ignores width_per_group; 64 is what a plain ResNet is called.
        "width_per_group": channels if groups > 1 else 64,
        "base_channels": base_channels,
        "avg_down": avg_down,
        "se_ratio": _se_ratio(shapes, blocks, expanded),
        "norm_cfg": _norm_cfg(shapes),
        "include_top": "fc.weight" in shapes,
        **stem,
    }
    if options["include_top"]:
        options["classes"] = _shape(shapes, "fc.weight")[0]
    strides, dilations = ((1, 2, 2, 2), (1, 1, 1, 1))
    return {**options, "strides": strides[: len(blocks)], "dilations": dilations[: len(blocks)]}


def _shape(shapes: Mapping[str, Shape], name: str) -> Shape:
    if name not in shapes:
        raise ValueError(f"the checkpoint is no ResNeXt: it has no {name}")
    shape = shapes[name]
    if len(shape) != (2 if name == "fc.weight" else 4) or 0 in shape:
        raise ValueError(f"the checkpoint is no ResNeXt: {name} has shape {shape}")
    return shape


def _blocks(shapes: Mapping[str, Shape]) -> tuple[int, ...]:
    found: dict[int, set[int]] = {}
    for match in filter(None, map(_CONV1.match, shapes)):
        found.setdefault(int(match[1]), set()).add(int(match[2]))
    blocks = tuple(len(found[stage]) for stage in sorted(found))
    whole = all(members == set(range(len(members))) for members in found.values())
    if not found or sorted(found) != list(range(1, len(found) + 1)) or len(found) > 4 or not whole:
        stages = {stage: sorted(members) for stage, members in sorted(found.items())}
        raise ValueError(
            f"the checkpoint is no ResNeXt: expected blocks layer1.0, layer1.1, … in 1 to 4 stages, found {stages}"
        )
    return blocks


def _stem(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    if "stem.0.conv.weight" in shapes:
        first, last = _shape(shapes, "stem.0.conv.weight"), _shape(shapes, "stem.2.conv.weight")
        return {"stem": "imagenet", "deep_stem": True, "stem_channels": last[0], "in_channels": first[1]}
    filters, channels, height, _ = _shape(shapes, "conv1.weight")
    stems = {7: "imagenet", 3: "cifar"}
    if height not in stems:
        raise ValueError(
            f"the checkpoint is no ResNeXt: conv1 has a {height}x{height} kernel; known are 7x7 and 3x3 (CIFAR)"
        )
    return {"stem": stems[height], "deep_stem": False, "stem_channels": filters, "in_channels": channels}


def _se_ratio(shapes: Mapping[str, Shape], blocks: tuple[int, ...], expanded: int) -> int | None:
    """The ratio that gives every stage's squeeze width: 16 where it does, else the smallest."""
    if "layer1.0.se.conv1.weight" not in shapes:
        return None
    wanted = [(expanded * 2**i, _shape(shapes, f"layer{i + 1}.0.se.conv1.weight")[0]) for i in range(len(blocks))]
    for ratio in (16, *range(1, expanded + 1)):
        if all(squeeze_width(channels, ratio) == width for channels, width in wanted):
            return ratio
    raise ValueError(f"the checkpoint's squeeze-and-excitation widths follow no se_ratio: (channels, width) {wanted}")


def _norm_cfg(shapes: Mapping[str, Shape]) -> dict[str, Any]:
    if "layer1.0.norm1.running_mean" in shapes:
        return {"type": "BN"}
    raise ValueError(
        "the checkpoint's norms carry no running statistics, so they are no BatchNorm, and their kind leaves no other "
        "trace: pass norm_cfg={'type': 'GN', 'num_groups': …} or {'type': 'LN'}"
    )
