"""Reads the structure of a ResNeXt off its weights, and off its layers what weights do not show."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..network.checks import check_per_stage
from ..network.layer_cfg import BATCH_NORM, NORM_TYPES, Norm, read_norm_cfg
from ..network.structure import DILATIONS, EXPANSION, STRIDES, Structure, squeeze_width
from .names import canonical_names, shortcut_indices

Shape = tuple[int, ...]
MAX_RATIO = 1024  # of squeeze-and-excitation; 16 is usual
MAX_BLOCKS = 400  # of all stages; the deepest ResNet of the papers, of 1001 layers, has 333
_CONV1 = re.compile(r"^layer(\d+)\.(\d+)\.conv1\.weight$")


def infer_from_names(shapes: Mapping[str, Shape], norm: Norm | None = None) -> Structure:
    """`infer_structure` by a checkpoint's own names."""
    canonical = {name: tuple(shapes[original]) for original, name in canonical_names(shapes).items()}
    return infer_structure(canonical, 1 in shortcut_indices(shapes).values(), norm)


def expected_shapes(structure: Structure) -> dict[str, Shape]:
    """Canonical name to PyTorch shape of every entry of a ResNeXt."""
    shapes: dict[str, Shape] = {}
    statistics = ("running_mean", "running_var") if structure.norm.has_statistics else ()

    def convolution(name: str, norm: str, filters: int, channels: int, size: int = 1) -> None:
        shapes[f"{name}.weight"] = filters, channels, size, size
        shapes.update({f"{norm}.{kind}": (filters,) for kind in ("weight", "bias", *statistics)})

    def biased(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    channels = structure.in_channels
    for i, (filters, size, _) in enumerate(structure.stem_convolutions):
        parts = (f"stem.{i}.conv", f"stem.{i}.norm") if structure.deep_stem else ("conv1", "norm1")
        convolution(*parts, filters, channels, size)
        channels = filters
    for block in (block for stage in structure.stages for block in stage):
        name, width = block.name.replace("_", "."), block.width
        convolution(f"{name}.conv1", f"{name}.norm1", width, block.channels)
        convolution(f"{name}.conv2", f"{name}.norm2", width, width // block.groups, 3)
        convolution(f"{name}.conv3", f"{name}.norm3", block.filters, width)
        if block.projects:
            convolution(f"{name}.downsample.conv", f"{name}.downsample.norm", block.filters, block.channels)
        if block.squeezed is not None:
            biased(f"{name}.se.conv1", block.squeezed, block.filters, 1, 1)
            biased(f"{name}.se.conv2", block.filters, block.squeezed, 1, 1)
        channels = block.filters
    if structure.include_top:
        biased("fc", structure.classes, channels)
    return shapes


def infer_structure(shapes: Mapping[str, Shape], avg_down: bool, norm: Norm | None = None) -> Structure:
    """What the weights show: depth, groups, widths, stem, squeeze-and-excitation, norm, classes, head.

    Args:
        shapes: canonical name (`names.py`) to PyTorch shape.
        avg_down: whether the shortcuts' names speak of average pooling.
        norm: where it is known; else it must be BatchNorm, whose statistics show it.

    Returns:
        The structure; style, dilations, strides and weight standardisation leave no trace and are the defaults.

    Raises:
        ValueError: the entries are not those of a ResNeXt with bottleneck blocks; the message says what does not fit.
    """
    blocks = _blocks(shapes)
    stem = _stem(shapes)
    width, channels = _shape(shapes, "layer1.0.conv1.weight")[0], _shape(shapes, "layer1.0.conv2.weight")[1]
    expanded = _shape(shapes, "layer1.0.conv3.weight")[0]
    if expanded % EXPANSION or width % channels:
        raise ValueError(
            f"the checkpoint is no ResNeXt: layer1.0 has {width} inner, {channels} grouped, {expanded} outer channels"
        )
    groups, base_channels = width // channels, expanded // EXPANSION
    if groups == 1 and width != base_channels:
        raise ValueError(
            f"the checkpoint is a wide ResNet, no ResNeXt: with groups=1 layer1 has {base_channels} inner channels, "
            f"here {width}"
        )
    include_top = "fc.weight" in shapes
    structure = Structure.of(
        blocks=blocks,
        num_stages=len(blocks),
        strides=STRIDES[: len(blocks)],
        dilations=DILATIONS[: len(blocks)],
        groups=groups,
        # With one group mmcls ignores width_per_group; 64 is what a plain ResNet is called.
        width_per_group=channels if groups > 1 else 64,
        base_channels=base_channels,
        avg_down=avg_down,
        se_ratio=_se_ratio(shapes, blocks, expanded),
        include_top=include_top,
        classes=_shape(shapes, "fc.weight")[0] if include_top else Structure.classes,
        **stem,
    )
    return replace(structure, norm=norm or _norm(shapes))


def infer_built(structure: Structure, layers: Mapping[str, Mapping[str, Any]]) -> Structure:
    """`structure` with what the layers tell and their weights do not: style, strides, dilations, convolution, norm.

    Args:
        structure: as inferred from the weights.
        layers: every layer by its name, as .keras files have them: {"class_name": …, "config": {…}}.

    Raises:
        KeyError: a layer is missing or configured as no layer of a ResNeXt.
        ValueError: strides or dilations that are no positive integers.
    """
    stages = range(1, len(structure.blocks) + 1)
    firsts = [[layers[f"layer{stage}_0_conv{i}"]["config"] for i in (1, 2)] for stage in stages]
    strides = [[convolution["strides"][0] for convolution in pair] for pair in firsts]
    check_per_stage(len(stages), **{f"strides of convolution {i + 1}": [pair[i] for pair in strides] for i in (0, 1)})
    check_per_stage(len(stages), dilations=[second["dilation_rate"][0] for _, second in firsts])
    return replace(
        structure,
        style="caffe" if any(first > 1 for first, _ in strides) else "pytorch",
        strides=tuple(max(pair) for pair in strides),
        dilations=tuple(second["dilation_rate"][0] for _, second in firsts),
        conv="ConvWS" if layers["layer1_0_conv1"]["class_name"] == "WSConv2D" else "Conv2d",
        norm=infer_norm(layers),
    )


def shown_by_weights(structure: Structure) -> Structure:
    """`structure` as its weights alone show it: the defaults for all that `infer_built` reads off the layers."""
    stages = len(structure.blocks)
    return replace(
        structure,
        style=Structure.style,
        strides=STRIDES[:stages],
        dilations=DILATIONS[:stages],
        conv=Structure.conv,
        norm=Structure.norm,
    )


def infer_norm(layers: Mapping[str, Mapping[str, Any]]) -> Norm:
    """The norm of a network by its layers, given as to `infer_built`; KeyError where there is none."""
    prefix = next((p for p, _ in NORM_TYPES.values() if f"layer1_0_{p}1" in layers), "bn")
    config = layers[f"layer1_0_{prefix}1"]["config"]
    kind = next(kind for kind, (p, _) in NORM_TYPES.items() if p == prefix)
    groups = {"num_groups": config["groups"]} if kind == "GN" else {}
    return read_norm_cfg({"type": kind, "eps": config["epsilon"], **groups})


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
    if sum(blocks) > MAX_BLOCKS:
        raise ValueError(f"the checkpoint is no ResNeXt: it has {sum(blocks)} blocks, more than {MAX_BLOCKS}")
    if not found or sorted(found) != list(range(1, len(found) + 1)) or len(found) > 4 or not whole:
        stages = {stage: sorted(members)[:40] for stage, members in sorted(found.items())[:8]}
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
    for ratio in (16, *range(1, min(expanded, MAX_RATIO) + 1)):
        if all(squeeze_width(channels, ratio) == width for channels, width in wanted):
            return ratio
    raise ValueError(f"the checkpoint's squeeze-and-excitation widths follow no se_ratio: (channels, width) {wanted}")


def _norm(shapes: Mapping[str, Shape]) -> Norm:
    if "layer1.0.norm1.running_mean" in shapes:
        return BATCH_NORM
    raise ValueError(
        "the checkpoint's norms carry no running statistics, so they are no BatchNorm, and their kind leaves no other "
        "trace: pass norm_cfg={'type': 'GN', 'num_groups': …} or {'type': 'LN'}"
    )
