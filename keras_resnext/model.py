"""ResNeXt, read top to bottom as in the paper (arXiv 1611.05431); every option as in mmcls 0.25.0.

Layers carry the names of the PyTorch modules with `_` for `.`: `conv1`, `bn1`, `layer1_0_conv2`,
`layer1_0_downsample_0`, `fc`.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import keras
from keras import layers

from .network.architectures import find_architecture, identify
from .network.input_preprocessing import InputPreprocessing
from .network.layers import CeilAveragePooling2D, GroupedConv2D, StochasticDepth, WSConv2D
from .network.normalization import NormFactory, check_norm_groups, read_norm_cfg
from .network.options import (
    check_choice,
    check_out_indices,
    check_per_stage,
    check_positive,
    check_range,
    check_sequence,
    check_share,
    read_blocks,
    read_conv_cfg,
    squeeze_width,
)
from .network.remat import Recompute
from .preprocessing import Preprocessing
from .weights.sources import load_weights

Tensor = Any
EXPANSION = 4

CONV_TYPES: dict[str, type[GroupedConv2D]] = {"Conv2d": GroupedConv2D, "ConvWS": WSConv2D}
STYLES = ("pytorch", "caffe")
PREPROCESSING = {"imagenet": Preprocessing(), "cifar": Preprocessing(size=32)}
POOLINGS: dict[str | None, type[layers.Layer] | None] = {
    None: None,
    "avg": layers.GlobalAveragePooling2D,
    "max": layers.GlobalMaxPooling2D,
}


def ResNeXt(
    depth: int = 50,
    groups: int = 32,
    width_per_group: int = 4,
    *,
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_tensor: Tensor | None = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: str | Callable[[Tensor], Tensor] | None = "softmax",
    name: str | None = None,
    blocks: Sequence[int] | None = None,
    stem: str = "imagenet",
    stem_channels: int = 64,
    base_channels: int = 64,
    num_stages: int = 4,
    strides: Sequence[int] = (1, 2, 2, 2),
    dilations: Sequence[int] = (1, 1, 1, 1),
    out_indices: Sequence[int] | None = None,
    style: str = "pytorch",
    deep_stem: bool = False,
    avg_down: bool = False,
    frozen_stages: int = -1,
    conv_cfg: Mapping[str, Any] | None = None,
    norm_cfg: Mapping[str, Any] | None = None,
    norm_eval: bool = False,
    with_cp: bool = False,
    zero_init_residual: bool = True,
    drop_path_rate: float = 0.0,
    se_ratio: int | None = None,
) -> keras.Model:
    """Builds a ResNeXt: images (batch, height, width, channels) to class scores (batch, classes) or feature maps.

    Stage i (from 0) ends in `base_channels * 4 * 2**i` channels; its grouped 3x3 convolutions have
    `groups * width_per_group * 2**i` channels, or `base_channels * 2**i` with groups=1 (a ResNet).

    Args:
        depth: 50, 101 or 152; with `stem="cifar"` 9n + 2, such as 29; anything when `blocks` is given.
        groups: cardinality, the groups of every 3x3 convolution.
        width_per_group: channels per group in the first stage.
        include_top: whether to end in global average pooling and the dense layer `fc`.
        weights: None for random ones; published ones by name, such as "imagenet" for the most accurate of this
            architecture that may be used commercially, "torchvision", "mmcls" or "timm" for that source's, or one of
            `list_pretrained()`; or a file: .keras, .weights.h5, .pth, .pt or .safetensors. Other `classes` than the
            weights' start with a random head, other input channels adapt the first convolution; a warning says so.
        input_tensor: Keras tensor to build on.
        input_shape: (height, width, channels) without the batch. Default: with the head (224, 224, 3), for the CIFAR
            stem (32, 32, 3); without it (None, None, 3).
        pooling: without the head, None for maps, "avg" or "max" for (batch, channels).
        classes: outputs of `fc`.
        classifier_activation: of `fc`; None gives logits.
        name: of the model; default such as "resnext50_32x4d".
        blocks: bottlenecks per stage, one number a stage; overrides `depth`.
        stem: "imagenet", a 7x7 convolution with stride 2 and a max-pool; "cifar", a 3x3 with stride 1 and none, and
            three stages unless `blocks` says otherwise (paper, section 5.3).
        stem_channels, base_channels: channels after the stem; inner channels of the first stage of a ResNet.
        num_stages: 1 to 4. `strides` and `dilations` have one entry a stage.
        strides: of the first block of each stage.
        dilations: of every 3x3 of the stage, the first block's included. Strides are never turned into dilation.
        out_indices: with `include_top=False`, the stages (from 0) whose maps are returned as an ascending list; Keras
            unpacks a list of one.
        style: "pytorch" strides in the 3x3, "caffe" in the first 1x1.
        deep_stem: three 3x3 convolutions for the 7x7 (arXiv 1812.01187).
        avg_down: average pooling before the 1x1 of strided shortcuts (arXiv 1812.01187).
        frozen_stages: n >= 0 freezes the stem and stages 1..n, BatchNorm statistics included.
        conv_cfg: None or {"type": "Conv2d" | "ConvWS"}; ConvWS standardises kernels.
        norm_cfg: {"type": "BN" | "SyncBN" | "GN" | "LN", ...}; see `normalization.read_norm_cfg`.
        norm_eval: BatchNorm uses and keeps its moving statistics in training; gamma and beta still learn.
        with_cp: recompute each block in the backward pass to save memory.
        zero_init_residual: the last norm of each block starts with gamma 0.
        drop_path_rate: probability of dropping a block's residual branch (per sample, in training, the same for all).
        se_ratio: squeeze-and-excitation (arXiv 1709.01507) with this reduction, usually 16; None for none.

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: an option outside its range; the message names it, its value and the rule.
        FileNotFoundError: `weights` names no file.
        OSError: published weights cannot be downloaded; the message says where to put the file by hand.

    Source: mmcls/models/backbones/{resnet,resnext,seresnext}.py at 0.25.0.
    """
    for option, sequence in (("strides", strides), ("dilations", dilations), ("blocks", blocks or ())):
        check_sequence(option, sequence)
    if stem == "cifar" and num_stages == 4 and (blocks is None or len(blocks) == 3):
        # The defaults of strides and dilations are for four stages; the CIFAR network has three.
        num_stages = 3
        strides = strides[:3] if tuple(strides) == (1, 2, 2, 2) else strides
        dilations = dilations[:3] if tuple(dilations) == (1, 1, 1, 1) else dilations
    check_choice("stem", stem, tuple(PREPROCESSING))
    check_choice("style", style, STYLES)
    check_choice("pooling", pooling, tuple(POOLINGS))
    check_positive(
        groups=groups,
        width_per_group=width_per_group,
        classes=classes,
        stem_channels=stem_channels,
        base_channels=base_channels,
        se_ratio=1 if se_ratio is None else se_ratio,
    )
    groups, width_per_group, classes = int(groups), int(width_per_group), int(classes)  # NumPy's integers are welcome
    stage_blocks = read_blocks(depth, blocks, stem, num_stages)
    check_per_stage(num_stages, strides=strides, dilations=dilations)
    check_out_indices(out_indices, include_top, num_stages)
    check_range("frozen_stages", frozen_stages, -1, num_stages)
    check_share("drop_path_rate", drop_path_rate, one=False)
    if deep_stem and (stem != "imagenet" or stem_channels % 2):
        raise ValueError(
            f"deep_stem=True needs stem='imagenet' ({stem!r} given) and even stem_channels ({stem_channels})"
        )
    conv_type = CONV_TYPES[read_conv_cfg(conv_cfg, tuple(CONV_TYPES))]
    prefix, make_norm = read_norm_cfg(norm_cfg, norm_eval)
    widths = [(groups * width_per_group if groups > 1 else base_channels) * 2**stage for stage in range(num_stages)]
    outputs_per_stage = [base_channels * EXPANSION * 2**stage for stage in range(num_stages)]
    check_norm_groups(norm_cfg, [stem_channels // 2] * deep_stem + [stem_channels, *widths, *outputs_per_stage])

    conv = partial(_conv, conv_type)
    norm = partial(_norm, make_norm)
    image = _image(input_tensor, input_shape, include_top, stem)
    x = InputPreprocessing(PREPROCESSING[stem], name="preprocessing")(image) if image.shape[-1] == 3 else image

    if stem == "cifar":
        x = conv(x, stem_channels, 3, name="conv1")
        x = layers.ReLU(name="relu")(norm(x, name=f"{prefix}1"))
    elif deep_stem:
        for i, (filters, stride) in enumerate([(stem_channels // 2, 2), (stem_channels // 2, 1), (stem_channels, 1)]):
            x = conv(x, filters, 3, stride, name=f"stem_{i}_conv")
            x = layers.ReLU(name=f"stem_{i}_relu")(norm(x, name=f"stem_{i}_{prefix}"))
    else:
        x = conv(x, stem_channels, 7, 2, name="conv1")
        x = layers.ReLU(name="relu")(norm(x, name=f"{prefix}1"))
    if stem == "imagenet":
        # Zeros equal PyTorch's -inf here: everything is behind a ReLU.
        x = layers.ZeroPadding2D(1, name="maxpool_pad")(x)
        x = layers.MaxPooling2D(3, 2, name="maxpool")(x)

    maps = []
    for stage, count in enumerate(stage_blocks):
        for block in range(count):
            x = _bottleneck(
                x,
                conv,
                norm,
                prefix,
                name=f"layer{stage + 1}_{block}",
                filters=outputs_per_stage[stage],
                width=widths[stage],
                groups=groups,
                stride=strides[stage] if block == 0 else 1,
                dilation=dilations[stage],
                style=style,
                avg_down=avg_down,
                zero_init_residual=zero_init_residual,
                drop_path_rate=drop_path_rate,
                se_ratio=se_ratio,
                with_cp=with_cp,
            )
        maps.append(x)

    if include_top:
        x = layers.GlobalAveragePooling2D(name="avgpool", dtype="float32")(x)
        outputs = layers.Dense(
            classes,
            activation=classifier_activation,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
            dtype="float32",  # the scores stay exact under mixed precision
            name="fc",
        )(x)
    else:
        chosen = maps[-1:] if out_indices is None else [maps[i] for i in sorted(set(out_indices))]
        if pool := POOLINGS[pooling]:
            names = ["pool"] if out_indices is None else [f"pool{i}" for i in sorted(set(out_indices))]
            chosen = [pool(name=n)(x) for n, x in zip(names, chosen, strict=True)]
        outputs = chosen[0] if out_indices is None else chosen

    inputs = image if input_tensor is None else keras.utils.get_source_inputs(input_tensor)
    depth = 2 + 3 * sum(stage_blocks) if blocks is not None else depth  # what it is, for the name
    variant = f"{'se' if se_ratio else ''}resnext{depth}_{groups}x{width_per_group}d"
    model = keras.Model(inputs, outputs, name=name or variant)
    if frozen_stages >= 0:
        stages = rf"|layer[1-{frozen_stages}]_\d+_.*" if frozen_stages else ""
        frozen = re.compile(rf"conv1|{prefix}1|stem_\d_.*{stages}")
        for layer in model.layers:
            if frozen.fullmatch(layer.name):
                layer.trainable = False
    if weights is not None:
        # Published weights compute the same only in the network that they were trained in.
        whole = stage_blocks if blocks is not None else read_blocks(depth, None, stem, 3 if stem == "cifar" else 4)
        parts = {"stem": stem, "stem_channels": stem_channels, "base_channels": base_channels}
        parts |= {"deep_stem": deep_stem, "avg_down": avg_down, "se_ratio": se_ratio}
        row = identify(whole, groups, width_per_group, **parts)
        changed: dict[str, Any] = {"style": style} if style != "pytorch" else {}
        changed |= {"conv_cfg": conv_cfg} if conv_type is not GroupedConv2D else {}
        changed |= {"norm_cfg": norm_cfg} if prefix != "bn" else {}
        load_weights(model, weights, row.name if row else None, changed)
    return model


def ResNeXt50(**options: Any) -> keras.Model:
    """ResNeXt-50 32x4d, 25.0 million parameters; `options` are those of `ResNeXt`."""
    return ResNeXt(50, **options)


def ResNeXt101(**options: Any) -> keras.Model:
    """ResNeXt-101 32x4d, 44.2 million parameters; `options` are those of `ResNeXt`."""
    return ResNeXt(101, **options)


def ResNeXt152(**options: Any) -> keras.Model:
    """ResNeXt-152 32x4d, 60.0 million parameters; `options` are those of `ResNeXt`."""
    return ResNeXt(152, **options)


def create(name: str, **options: Any) -> keras.Model:
    """Builds the architecture called `name` in `list_architectures()`; `options` of `ResNeXt` override the row's.

    Raises:
        ValueError: no such name, or an option outside its range.
    """
    row = find_architecture(name)
    defaults: dict[str, Any] = {
        "depth": row.depth,
        "groups": row.groups,
        "width_per_group": row.width_per_group,
        "classes": row.classes,
        "name": row.name,
    }
    return ResNeXt(**{**defaults, **row.options, **options})


def _conv(
    conv_type: type[GroupedConv2D],
    x: Tensor,
    filters: int,
    size: int,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    *,
    name: str,
) -> Tensor:
    """A convolution without bias that pads as PyTorch does: `dilation * (size - 1) / 2` zeros on every side."""
    pad = dilation * (size - 1) // 2
    if stride > 1 and pad:  # "same" would pad strided convolutions on the far side alone
        x = layers.ZeroPadding2D(pad, name=f"{name}_pad")(x)
    return conv_type(
        filters,
        size,
        strides=stride,
        padding="valid" if stride > 1 else "same",
        dilation_rate=dilation,
        groups=groups,
        use_bias=False,
        kernel_initializer=_kaiming(),
        name=name,
    )(x)


def _norm(make_norm: NormFactory, x: Tensor, *, name: str, zero: bool = False) -> Tensor:
    return make_norm(gamma_initializer="zeros" if zero else "ones", name=name)(x)


def _bottleneck(
    x: Tensor,
    conv: Callable[..., Tensor],
    norm: Callable[..., Tensor],
    prefix: str,
    *,
    name: str,
    filters: int,
    width: int,
    groups: int,
    stride: int,
    dilation: int,
    style: str,
    avg_down: bool,
    zero_init_residual: bool,
    drop_path_rate: float,
    se_ratio: int | None,
    with_cp: bool,
) -> Tensor:
    """1x1, grouped 3x3, 1x1, added to the shortcut (paper, figure 3c)."""
    stride1, stride2 = (1, stride) if style == "pytorch" else (stride, 1)

    y = conv(x, width, 1, stride1, name=f"{name}_conv1")
    y = layers.ReLU(name=f"{name}_relu1")(norm(y, name=f"{name}_{prefix}1"))
    y = conv(y, width, 3, stride2, dilation, groups, name=f"{name}_conv2")
    y = layers.ReLU(name=f"{name}_relu2")(norm(y, name=f"{name}_{prefix}2"))
    y = conv(y, filters, 1, name=f"{name}_conv3")
    y = norm(y, name=f"{name}_{prefix}3", zero=zero_init_residual)
    if se_ratio is not None:
        y = _squeeze_excite(y, filters, se_ratio, name=f"{name}_se_layer")
    if with_cp:
        y = Recompute(name=f"{name}_cp")([x, y])
    if drop_path_rate:  # its random numbers are not drawn twice
        y = StochasticDepth(drop_path_rate, name=f"{name}_drop_path")(y)

    shortcut = x
    if stride != 1 or x.shape[-1] != filters:
        first = 0  # the index in PyTorch's Sequential
        if avg_down and stride != 1:
            shortcut = CeilAveragePooling2D(stride, name=f"{name}_downsample_0")(shortcut)
            stride, first = 1, 1
        shortcut = conv(shortcut, filters, 1, stride, name=f"{name}_downsample_{first}")
        shortcut = norm(shortcut, name=f"{name}_downsample_{first + 1}")
        if with_cp:
            shortcut = Recompute(name=f"{name}_downsample_cp")([x, shortcut])

    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([y, shortcut]))


def _squeeze_excite(x: Tensor, filters: int, ratio: int, *, name: str) -> Tensor:
    """Scales channels by a gate computed from their means (arXiv 1709.01507, section 3)."""
    gate = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_global_avgpool")(x)
    for i, (width, activation) in enumerate([(squeeze_width(filters, ratio), "relu"), (filters, "sigmoid")], start=1):
        gate = layers.Conv2D(
            width, 1, activation=activation, kernel_initializer=_kaiming(), name=f"{name}_conv{i}_conv"
        )(gate)
    return layers.Multiply(name=f"{name}_scale")([x, gate])


def _kaiming() -> keras.initializers.Initializer:
    """He initialisation over the fan out, as mmcls. PyTorch's fan out of a grouped kernel is not divided by groups."""
    return keras.initializers.VarianceScaling(2.0, mode="fan_out", distribution="untruncated_normal")


def _image(
    input_tensor: Tensor | None,
    input_shape: tuple[int | None, int | None, int] | None,
    include_top: bool,
    stem: str,
) -> Tensor:
    if input_tensor is not None:
        if input_shape is not None and tuple(input_tensor.shape[1:]) != tuple(input_shape):
            raise ValueError(f"input_shape={input_shape!r} differs from that of input_tensor, {input_tensor.shape[1:]}")
        return input_tensor
    if input_shape is None:
        size = PREPROCESSING[stem].size if include_top else None
        input_shape = (size, size, 3)
    if not isinstance(input_shape, (list, tuple)) or len(input_shape) != 3:
        raise ValueError(f"input_shape={input_shape!r} must be (height, width, channels)")
    height, width, channels = input_shape
    sides = {f"input_shape[{i}]": side for i, side in enumerate((height, width)) if side is not None}
    check_positive(**sides, **{"input_shape[2]": channels})
    return keras.Input(tuple(input_shape), name="images")
