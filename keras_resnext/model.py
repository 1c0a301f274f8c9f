"""ResNeXt, read top to bottom as in the paper (arXiv 1611.05431); options as in mmcls 0.25.0, and of timm's networks.

Layers carry the names of the PyTorch modules with `_` for `.`: `conv1`, `bn1`, `layer1_0_conv2`,
`layer1_0_downsample_0`, `fc`.
"""

import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import keras
from keras import layers

from .network.architectures import describe_changes, find_architecture, identify
from .network.blocks import bottleneck
from .network.blocks import stem as build_stem
from .network.checks import describe_unknown
from .network.elements import LAST
from .network.images import make_images
from .network.initializers import weights_follow
from .network.input_preprocessing import InputPreprocessing, usual_preprocessing
from .network.structure import Structure
from .weights.sources import load_weights

Tensor = Any


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
    group_size: int | None = None,
    stem: str = "imagenet",
    stem_channels: int = 64,
    base_channels: int = 64,
    num_stages: int = 4,
    strides: Sequence[int] = (1, 2, 2, 2),
    dilations: Sequence[int] = (1, 1, 1, 1),
    output_stride: int = 32,
    out_indices: Sequence[int] | None = None,
    style: str = "pytorch",
    deep_stem: bool = False,
    tiered_stem: bool = False,
    stem_pool: str = "max",
    avg_down: bool = False,
    antialias: bool = False,
    activation: str = "relu",
    frozen_stages: int = -1,
    conv_cfg: Mapping[str, Any] | None = None,
    norm_cfg: Mapping[str, Any] | None = None,
    norm_eval: bool = False,
    with_cp: bool = False,
    zero_init_residual: bool = True,
    drop_path_rate: float = 0.0,
    drop_path_rule: str = "constant",
    se_ratio: int | None = None,
    attention: str | None = None,
    attention_last: bool = True,
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
        group_size: channels per group in every stage, where the number of groups grows with the width instead; the
            3x3 convolutions then have `base_channels * 2**i` channels, whatever `groups` says (timm's ResNeXt-26ts).
        stem: "imagenet", a 7x7 convolution with stride 2 and a max-pool; "cifar", a 3x3 with stride 1 and none, and
            three stages unless `blocks` says otherwise (paper, section 5.3).
        stem_channels, base_channels: channels after the stem; inner channels of the first stage of a ResNet.
        num_stages: 1 to 4. `strides` and `dilations` have one entry a stage.
        strides: of the first block of each stage.
        dilations: of every 3x3 of the stage, the first block's included. Strides are never turned into dilation.
        output_stride: 8, 16 or 32, pixels of the image to one of the last map, as timm and torchvision compute it:
            later strides become dilations, which the first block of a stage takes from the stage before it.
        out_indices: with `include_top=False`, the stages (from 0) whose maps are returned as an ascending list; Keras
            unpacks a list of one.
        style: "pytorch" strides in the 3x3, "caffe" in the first 1x1.
        deep_stem: three 3x3 convolutions for the 7x7 (arXiv 1812.01187).
        tiered_stem: of a deep stem, the first convolution has 3/8 of `stem_channels` instead of half of them.
        stem_pool: "max", 3x3 with padding; "max_ceil", the same as Caffe does it, without; "avg", the mean of 2x2.
        avg_down: average pooling before the 1x1 of strided shortcuts (arXiv 1812.01187).
        antialias: where a 3x3 strides, the mean of 2x2 behind it (timm's `aa_layer`); for sizes that 32 divides.
        activation: "relu" or "silu", everywhere in the network but inside its attention.
        frozen_stages: n >= 0 freezes the stem and stages 1..n, BatchNorm statistics included.
        conv_cfg: None or {"type": "Conv2d" | "ConvWS"}; ConvWS standardises kernels.
        norm_cfg: {"type": "BN" | "SyncBN" | "GN" | "LN", ...}; see `normalization.read_norm_cfg`.
        norm_eval: BatchNorm uses and keeps its moving statistics in training; gamma and beta still learn.
        with_cp: recompute each block in the backward pass to save memory.
        zero_init_residual: the last norm of each block starts with gamma 0.
        drop_path_rate: probability of dropping a block's residual branch (per sample, in training).
        drop_path_rule: "constant", the same for all blocks (mmcls); "linear", rising from 0 to it (timm).
        se_ratio: squeeze-and-excitation (arXiv 1709.01507) with this reduction, usually 16; None for none.
        attention: in its place None, "eca" (arXiv 1910.03151), "gca", global context (arXiv 1904.11492), or "sk",
            selective kernels for the 3x3 (arXiv 1903.06586).
        attention_last: whether attention stands behind the last 1x1 of a block, or before it.

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: an option outside its range; the message names it, its value and the rule.
        FileNotFoundError: `weights` names no file.
        OSError: published weights cannot be downloaded; the message says where to put the file by hand.

    Source: mmcls/models/backbones/{resnet,resnext,seresnext}.py at 0.25.0; timm/models/{resnet,byobnet,sknet,senet}.py
    at 1.0.31.
    """
    image = make_images(input_tensor, input_shape, include_top, stem)
    structure = Structure.of(
        depth,
        blocks=blocks,
        group_size=group_size,
        groups=groups,
        width_per_group=width_per_group,
        in_channels=image.shape[-1],
        stem=stem,
        stem_channels=stem_channels,
        base_channels=base_channels,
        num_stages=num_stages,
        strides=strides,
        dilations=dilations,
        output_stride=output_stride,
        style=style,
        deep_stem=deep_stem,
        tiered_stem=tiered_stem,
        stem_pool=stem_pool,
        avg_down=avg_down,
        antialias=antialias,
        activation=activation,
        conv_cfg=conv_cfg,
        norm_cfg=norm_cfg,
        norm_eval=norm_eval,
        se_ratio=se_ratio,
        attention=attention,
        attention_last=attention_last,
        include_top=include_top,
        classes=classes,
        pooling=pooling,
        out_indices=out_indices,
        frozen_stages=frozen_stages,
        zero_init_residual=zero_init_residual,
        drop_path_rate=drop_path_rate,
        drop_path_rule=drop_path_rule,
        with_cp=with_cp,
    )
    x = image
    usual = usual_preprocessing(image.shape[1:3], structure)
    x = InputPreprocessing(usual, name="preprocessing")(x)
    maps = []
    with weights_follow(weights is not None):
        x = build_stem(x, structure)
        for stage in structure.stages:
            for block in stage:
                x = bottleneck(x, structure, block)
            maps.append(x)
    outputs = _head(x, structure, classifier_activation) if include_top else _features(maps, structure)
    inputs = image if input_tensor is None else keras.utils.get_source_inputs(input_tensor)
    model = keras.Model(inputs, outputs, name=name or structure.variant)
    _freeze(model, structure)
    if weights is not None:
        row = identify(structure)
        given = {"style": style, "conv_cfg": conv_cfg, "norm_cfg": norm_cfg}
        changed = {name: given[name] for name in describe_changes(structure, row)}
        load_weights(model, weights, row.name if row else None, changed)
    return model


def _head(x: Tensor, structure: Structure, activation: str | Callable[[Tensor], Tensor] | None) -> Tensor:
    """Global average pooling and the classifier, in float32 at least: the scores stay exact under mixed precision."""
    dtype = "float64" if keras.config.dtype_policy().compute_dtype == "float64" else "float32"
    x = layers.GlobalAveragePooling2D(LAST, name="avgpool", dtype=dtype)(x)
    return layers.Dense(
        structure.classes,
        activation=activation,
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        dtype=dtype,
        name="fc",
    )(x)


def _features(maps: Sequence[Tensor], structure: Structure) -> Tensor | list[Tensor]:
    """The maps of the wanted stages, pooled where that is asked for: one, or a list where there are `out_indices`."""
    pools = {"avg": layers.GlobalAveragePooling2D, "max": layers.GlobalMaxPooling2D}
    chosen = [maps[stage] for stage in structure.returned]
    if structure.pooling is not None:
        names = ["pool"] if structure.out_indices is None else [f"pool{stage}" for stage in structure.out_indices]
        pool = pools[structure.pooling]
        chosen = [pool(LAST, name=name)(x) for name, x in zip(names, chosen, strict=True)]
    return chosen[0] if structure.out_indices is None else chosen


def _freeze(model: keras.Model, structure: Structure) -> None:
    """Freezes the stem and the first `frozen_stages` stages."""
    last = structure.frozen_stages
    if last < 0:
        return
    stages = rf"|layer[1-{last}]_\d+_.*" if last else ""
    frozen = re.compile(rf"conv1|{structure.norm.prefix}1|stem_\d_.*{stages}")
    for layer in model.layers:
        if frozen.fullmatch(layer.name):
            layer.trainable = False


def _of_depth(builder: Callable[..., keras.Model]) -> Callable[..., keras.Model]:
    """Shows the options of `ResNeXt` but `depth` as those of `builder`, and refuses others."""
    known = dict(inspect.signature(ResNeXt).parameters)
    del known["depth"]

    @wraps(builder)
    def checked(**options: Any) -> keras.Model:
        if problem := describe_unknown(options, tuple(known), builder.__name__):
            raise TypeError(problem)
        return builder(**options)

    keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in known.values()]
    checked.__signature__ = inspect.Signature(keywords, return_annotation=keras.Model)  # type: ignore[attr-defined]
    return checked


@_of_depth
def ResNeXt50(**options: Any) -> keras.Model:
    """ResNeXt-50 32x4d, 25.0 million parameters; `options` are those of `ResNeXt`."""
    return ResNeXt(50, **options)


@_of_depth
def ResNeXt101(**options: Any) -> keras.Model:
    """ResNeXt-101 32x4d, 44.2 million parameters; `options` are those of `ResNeXt`."""
    return ResNeXt(101, **options)


@_of_depth
def ResNeXt152(**options: Any) -> keras.Model:
    """ResNeXt-152 32x4d, 60.0 million parameters; `options` are those of `ResNeXt`."""
    return ResNeXt(152, **options)


def create(name: str, **options: Any) -> keras.Model:
    """Builds the architecture called `name` in `list_architectures()`; `options` of `ResNeXt` override the row's.

    Raises:
        ValueError: no such name, or an option outside its range.
        TypeError: an option that `ResNeXt` does not have.
    """
    row = find_architecture(name)
    if problem := describe_unknown(options, tuple(inspect.signature(ResNeXt).parameters), "ResNeXt"):
        raise TypeError(problem)
    own: dict[str, Any] = {"name": row.name, **row.all_options}
    if options.get("include_top", True) and options.get("input_tensor") is None:
        own["input_shape"] = (row.image_size, row.image_size, 3)
    return ResNeXt(**{**own, **options})
