"""What a ResNeXt is built of: stem, bottleneck and squeeze-and-excitation as layers with their PyTorch names.

Everything is (batch, height, width, channels), whatever Keras's `image_data_format` says.
"""

from typing import Any

import keras
from keras import layers

from .layers import CeilAveragePooling2D, GroupedConv2D, StochasticDepth, WSConv2D
from .normalization import norm_layer
from .remat import Recompute
from .structure import Block, Structure

Tensor = Any

CONVOLUTIONS: dict[str, type[GroupedConv2D]] = {"Conv2d": GroupedConv2D, "ConvWS": WSConv2D}
LAST = "channels_last"


def stem(x: Tensor, structure: Structure) -> Tensor:
    """The first convolutions and, for ImageNet, the max-pool."""
    prefix = structure.norm.prefix
    for i, (filters, size, stride) in enumerate(structure.stem_convolutions):
        own = f"stem_{i}_" if structure.deep_stem else ""
        x = convolution(x, structure, filters, size, stride, name=f"{own}conv" if own else "conv1")
        x = norm(x, structure, name=f"{own}{prefix}" if own else f"{prefix}1")
        x = layers.ReLU(name=f"{own}relu")(x)
    if structure.stem_pools:
        # Zeros equal PyTorch's -inf here: everything is behind a ReLU.
        x = layers.ZeroPadding2D(1, LAST, name="maxpool_pad")(x)
        x = layers.MaxPooling2D(3, 2, data_format=LAST, name="maxpool")(x)
    return x


def bottleneck(x: Tensor, structure: Structure, block: Block) -> Tensor:
    """1x1, grouped 3x3, 1x1, added to the shortcut (arXiv 1611.05431, figure 3c)."""
    name, prefix = block.name, structure.norm.prefix
    first, second = block.strides

    y = convolution(x, structure, block.width, 1, first, name=f"{name}_conv1")
    y = layers.ReLU(name=f"{name}_relu1")(norm(y, structure, name=f"{name}_{prefix}1"))
    y = convolution(y, structure, block.width, 3, second, block.dilation, block.groups, name=f"{name}_conv2")
    y = layers.ReLU(name=f"{name}_relu2")(norm(y, structure, name=f"{name}_{prefix}2"))
    y = convolution(y, structure, block.filters, 1, name=f"{name}_conv3")
    y = norm(y, structure, name=f"{name}_{prefix}3", zero=structure.zero_init_residual)
    if block.squeezed is not None:
        y = squeeze_excite(y, block.squeezed, name=f"{name}_se_layer")
    if structure.with_cp:
        y = Recompute(name=f"{name}_cp")([x, y])
    if structure.drop_path_rate:  # its random numbers are not drawn twice
        y = StochasticDepth(structure.drop_path_rate, name=f"{name}_drop_path")(y)
    y = layers.Add(name=f"{name}_add")([y, shortcut(x, structure, block) if block.projects else x])
    return layers.ReLU(name=f"{name}_relu")(y)


def shortcut(x: Tensor, structure: Structure, block: Block) -> Tensor:
    """A 1x1 convolution, behind average pooling in ResNet-D (arXiv 1812.01187)."""
    pooled, stride, first = x, block.stride, 0  # the convolution's index in PyTorch's Sequential
    if structure.avg_down and stride != 1:
        pooled = CeilAveragePooling2D(stride, name=f"{block.name}_downsample_0")(x)
        stride, first = 1, 1
    y = convolution(pooled, structure, block.filters, 1, stride, name=f"{block.name}_downsample_{first}")
    y = norm(y, structure, name=f"{block.name}_downsample_{first + 1}")
    return Recompute(name=f"{block.name}_downsample_cp")([x, y]) if structure.with_cp else y


def squeeze_excite(x: Tensor, squeezed: int, *, name: str) -> Tensor:
    """Scales channels by a gate computed from their means (arXiv 1709.01507, section 3)."""
    gate = layers.GlobalAveragePooling2D(LAST, keepdims=True, name=f"{name}_global_avgpool")(x)
    for i, (width, activation) in enumerate([(squeezed, "relu"), (x.shape[-1], "sigmoid")], start=1):
        gate = layers.Conv2D(
            width,
            1,
            data_format=LAST,
            activation=activation,
            kernel_initializer=_kaiming(),
            name=f"{name}_conv{i}_conv",
        )(gate)
    return layers.Multiply(name=f"{name}_scale")([x, gate])


def convolution(
    x: Tensor,
    structure: Structure,
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
        x = layers.ZeroPadding2D(pad, LAST, name=f"{name}_pad")(x)
    return CONVOLUTIONS[structure.conv](
        filters,
        size,
        strides=stride,
        padding="valid" if stride > 1 else "same",
        data_format=LAST,
        dilation_rate=dilation,
        groups=groups,
        use_bias=False,
        kernel_initializer=_kaiming(),
        name=name,
    )(x)


def norm(x: Tensor, structure: Structure, *, name: str, zero: bool = False) -> Tensor:
    gamma = "zeros" if zero else "ones"
    return norm_layer(structure.norm, structure.norm_eval, gamma_initializer=gamma, name=name)(x)


def _kaiming() -> keras.initializers.Initializer:
    """He initialisation over the fan out, as mmcls. PyTorch's fan out of a grouped kernel is not divided by groups."""
    return keras.initializers.VarianceScaling(2.0, mode="fan_out", distribution="untruncated_normal")
