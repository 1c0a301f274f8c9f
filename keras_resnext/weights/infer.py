"""Reads the structure of a ResNeXt off its weights, and off its layers what weights do not show."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..network.checks import check_per_stage
from ..network.layer_cfg import BATCH_NORM, NORM_TYPES, Norm, read_norm_cfg
from ..network.stages import (
    DILATIONS,
    EXPANSION,
    OUTPUT_STRIDES,
    STEM_POOLS,
    STRIDES,
    Steps,
    squeeze_width,
    stage_steps,
)
from ..network.structure import Structure
from .adapt import Shape
from .names import canonical_names, options_by_names

MAX_RATIO = 1024  # of squeeze-and-excitation; 16 is usual
MAX_BLOCKS = 400  # of all stages; the deepest ResNet of the papers, of 1001 layers, has 333
_CONV1 = re.compile(r"^layer(\d+)\.(\d+)\.conv1\.weight$")


def infer_from_names(shapes: Mapping[str, Shape], norm: Norm | None = None) -> Structure:
    """`infer_structure` by a checkpoint's own names."""
    canonical = {name: tuple(shapes[original]) for original, name in canonical_names(shapes).items()}
    return infer_structure(canonical, options_by_names(shapes), norm)


def infer_structure(shapes: Mapping[str, Shape], named: Mapping[str, Any], norm: Norm | None = None) -> Structure:
    """What the weights show: depth, groups, widths, stem, attention, norm, classes, head.

    Args:
        shapes: canonical name (`names.py`) to PyTorch shape.
        named: what the checkpoint's own names speak of, `names.options_by_names`.
        norm: where it is known; else it must be BatchNorm, whose statistics show it.

    Returns:
        The structure; what leaves no trace is the default or `named`: see `shown_by_weights`.

    Raises:
        ValueError: the entries are not those of a ResNeXt with bottleneck blocks; the message says what does not fit.
    """
    blocks = _blocks(shapes)
    stem = _stem(shapes)
    grouped = "conv2.paths.0.conv" if "layer1.0.conv2.paths.0.conv.weight" in shapes else "conv2"
    width = _shape(shapes, "layer1.0.conv1.weight")[0]
    per_group = [_shape(shapes, f"layer{stage + 1}.0.{grouped}.weight")[1] for stage in range(len(blocks))]
    channels, expanded = per_group[0], _shape(shapes, "layer1.0.conv3.weight")[0]
    if expanded % EXPANSION or width % channels:
        raise ValueError(
            f"the checkpoint is no ResNeXt: layer1.0 has {width} inner, {channels} grouped, {expanded} outer channels"
        )
    groups, base_channels = width // channels, expanded // EXPANSION
    group_size = channels if groups > 1 and len(blocks) > 1 and len(set(per_group)) == 1 else None
    if (groups == 1 or group_size) and width != base_channels:
        raise ValueError(
            f"the checkpoint is a wide ResNet, no ResNeXt: with {groups} groups of {channels} layer1 has "
            f"{base_channels} inner channels, here {width}"
        )
    if groups == 1 and "activation" in named:
        raise ValueError("the checkpoint is one of timm's ResNets with SiLU, whose stems differ, and no ResNeXt")
    include_top = "fc.weight" in shapes
    structure = Structure.of(
        blocks=blocks,
        num_stages=len(blocks),
        strides=STRIDES[: len(blocks)],
        dilations=DILATIONS[: len(blocks)],
        groups=groups,
        # With one group mmcls ignores width_per_group; 64 is what a plain ResNet is called.
        width_per_group=channels if groups > 1 else 64,
        group_size=group_size,
        base_channels=base_channels,
        include_top=include_top,
        classes=_shape(shapes, "fc.weight")[0] if include_top else Structure.classes,
        **{**stem, **named, **_attention(shapes, blocks, width, expanded, named)},
    )
    return replace(structure, norm=norm or _norm(shapes))


def infer_built(structure: Structure, layers: Mapping[str, Mapping[str, Any]]) -> Structure:
    """`structure` with what the layers tell and their weights do not: see `shown_by_weights`.

    Args:
        structure: as inferred from the weights.
        layers: every layer by its name, as .keras files have them: {"class_name": …, "config": {…}}.

    Raises:
        KeyError: a layer is missing or configured as no layer of a ResNeXt.
        ValueError: strides or dilations that are no positive integers, or a padding of the stem that no ResNeXt has.
    """
    stages = range(1, len(structure.blocks) + 1)
    grouped = "conv2_paths_0_conv" if structure.attention == "sk" else "conv2"
    firsts = [[layers[f"layer{stage}_0_{name}"]["config"] for name in ("conv1", grouped)] for stage in stages]
    strides = [[convolution["strides"][0] for convolution in pair] for pair in firsts]
    check_per_stage(len(stages), **{f"strides of convolution {i + 1}": [pair[i] for pair in strides] for i in (0, 1)})
    check_per_stage(len(stages), dilations=[second["dilation_rate"][0] for _, second in firsts])
    halved = [f"layer{stage}_0_aa" in layers for stage in stages]
    steps = [
        Steps(
            2 if half else max(pair),
            second["dilation_rate"][0],
            layers.get(f"layer{stage}_1_{grouped}", {"config": second})["config"]["dilation_rate"][0],
        )
        for stage, half, pair, (_, second) in zip(stages, halved, strides, firsts, strict=True)
    ]
    activation = layers["layer1_0_relu1"]
    last = [name for name in layers if re.fullmatch(r"layer1_0_(conv3|(se_layer|eca)_scale|gc_add)", name)]
    return replace(
        structure,
        style="caffe" if any(first > 1 for first, _ in strides) else "pytorch",
        **_reach(steps, any(f"layer{stage}_0_downsample_pad" in layers for stage in stages)),
        conv="ConvWS" if layers["layer1_0_conv1"]["class_name"] == "WSConv2D" else "Conv2d",
        norm=infer_norm(layers),
        stem_pool=_stem_pool(layers) if structure.stem_pools else structure.stem_pool,
        antialias=any(halved),
        activation=activation["config"].get("activation", "relu") if activation["class_name"] != "ReLU" else "relu",
        attention_last=last[-1] != "layer1_0_conv3" or len(last) == 1,
    )


def _reach(steps: list[Steps], smooths: bool) -> dict[str, Any]:
    """The options that give stages these steps; `smooths`: whether their shortcuts do what `output_stride` alone makes.

    KeyError where no options do.
    """
    count, whole = len(steps), max(OUTPUT_STRIDES)
    own = {"strides": tuple(step.stride for step in steps), "dilations": tuple(step.dilation for step in steps)}
    if not smooths and all(step.first_dilation == step.dilation for step in steps):
        return {**own, "output_stride": whole}
    usual = {"strides": STRIDES[:count], "dilations": DILATIONS[:count]}
    for output_stride in OUTPUT_STRIDES:
        made = stage_steps(**usual, output_stride=output_stride)
        # A stage of one block does not show its own dilation.
        pairs = zip(steps, made, strict=True)
        if all(step in (known, known._replace(dilation=known.first_dilation)) for step, known in pairs):
            return {**usual, "output_stride": output_stride}
    raise KeyError(f"layer{count}_0_conv2")


def _stem_pool(layers: Mapping[str, Mapping[str, Any]]) -> str:
    """The key of `STEM_POOLS` that the stem's pooling is."""
    padding = layers["maxpool_pad"]["config"]["padding"] if "maxpool_pad" in layers else None
    pads = None if padding is None else tuple(padding[0])
    found = [name for name, pool in STEM_POOLS.items() if pool.pads == pads]
    if not found:
        raise ValueError(f"maxpool_pad pads by {padding!r}, as no stem of a ResNeXt")
    return found[0]


def shown_by_weights(structure: Structure, names: Iterable[str] = ()) -> Structure:
    """`structure` as its weights and their `names` alone show it: the defaults for what leaves no trace there."""
    stages = len(structure.blocks)
    named = {**{name: getattr(Structure, name) for name in _TRACELESS}, **options_by_names(names)}
    if structure.attention != "eca" and structure.widths[0] != structure.outputs[0]:  # its kernels show where it is
        named["attention_last"] = structure.attention_last
    return replace(
        structure,
        strides=STRIDES[:stages],
        dilations=DILATIONS[:stages],
        output_stride=Structure.output_stride,
        conv=Structure.conv,
        norm=Structure.norm,
        **{**named, "avg_down": structure.avg_down},
    )


_TRACELESS = ("style", "stem_pool", "antialias", "activation", "attention_last")


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
        tiered = first[0] * 8 == last[0] * 3
        sizes = {"stem_channels": last[0], "in_channels": first[1]}
        return {"stem": "imagenet", "deep_stem": True, "tiered_stem": tiered, **sizes}
    filters, channels, height, _ = _shape(shapes, "conv1.weight")
    stems = {7: "imagenet", 3: "cifar"}
    if height not in stems:
        raise ValueError(
            f"the checkpoint is no ResNeXt: conv1 has a {height}x{height} kernel; known are 7x7 and 3x3 (CIFAR)"
        )
    return {"stem": stems[height], "deep_stem": False, "stem_channels": filters, "in_channels": channels}


def _attention(
    shapes: Mapping[str, Shape], blocks: tuple[int, ...], width: int, expanded: int, named: Mapping[str, Any]
) -> dict[str, Any]:
    """The options of the attention whose entries there are; {} for none."""
    marks = {"se": "se.conv1", "gca": "gc.fc1", "eca": "eca.conv", "sk": "conv2.attn.reduce"}
    kind = next((kind for kind, mark in marks.items() if f"layer1.0.{mark}.weight" in shapes), None)
    if kind is None:
        return {"attention_last": True}
    if kind in ("eca", "sk"):  # what ECA weighs leaves no trace
        return {"attention": kind}
    weighed = _shape(shapes, f"layer1.0.{marks[kind]}.weight")[1]
    last = named.get("attention_last", True) if width == expanded else weighed == expanded
    if kind == "gca":
        return {"attention": kind, "attention_last": last}
    first = expanded if last else width
    wanted = [(first * 2**i, _shape(shapes, f"layer{i + 1}.0.se.conv1.weight")[0]) for i in range(len(blocks))]
    return {"se_ratio": _se_ratio(wanted), "attention_last": last}


def _se_ratio(wanted: Sequence[tuple[int, int]]) -> int:
    """The ratio that gives every stage's squeeze width: 16 where it does, else the smallest."""
    for ratio in (16, *range(1, min(wanted[0][0], MAX_RATIO) + 1)):
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
