"""What a ResNeXt is built of, stem and bottleneck, as layers with their PyTorch names; `attention` has its gates.

Everything is (batch, height, width, channels), whatever Keras's `image_data_format` says.
"""

from typing import Any

from keras import layers

from .attention import attend, select_kernels
from .elements import LAST, activate, convolution, norm
from .layers import CeilAveragePooling2D, ConstantPadding2D, StochasticDepth
from .remat import Recompute
from .stages import ACTIVATIONS, STEM_POOLS, Block
from .structure import Structure

Tensor = Any


def stem(x: Tensor, structure: Structure) -> Tensor:
    """The first convolutions and, for ImageNet, the pooling."""
    prefix = structure.norm.prefix
    for i, (filters, size, stride) in enumerate(structure.stem_convolutions):
        own = f"stem_{i}_" if structure.deep_stem else ""
        x = convolution(x, structure, filters, size, stride, name=f"{own}conv" if own else "conv1")
        x = norm(x, structure, name=f"{own}{prefix}" if own else f"{prefix}1")
        x = activate(x, structure, name=f"{own}relu")
    pool = STEM_POOLS[structure.stem_pool]
    if not structure.stem_pools:
        return x
    if pool.pads is None:
        return layers.AveragePooling2D(2, data_format=LAST, name="avgpool_stem")(x)
    least, pads = ACTIVATIONS[structure.activation].least, (pool.pads, pool.pads)
    if least == 0:  # zeros equal PyTorch's -inf here: everything is behind a ReLU
        x = layers.ZeroPadding2D(pads, LAST, name="maxpool_pad")(x)
    else:
        x = ConstantPadding2D(pads, least, name="maxpool_pad")(x)
    return layers.MaxPooling2D(3, 2, data_format=LAST, name="maxpool")(x)


def bottleneck(x: Tensor, structure: Structure, block: Block) -> Tensor:
    """1x1, grouped 3x3, 1x1, added to the shortcut (arXiv 1611.05431, figure 3c)."""
    name, prefix = block.name, structure.norm.prefix

    y = convolution(x, structure, block.width, 1, block.strides[0], name=f"{name}_conv1")
    y = activate(norm(y, structure, name=f"{name}_{prefix}1"), structure, name=f"{name}_relu1")
    y = (select_kernels if block.attention == "sk" else _grouped)(y, structure, block)
    if block.antialiases:
        _check_even(y)
        y = layers.AveragePooling2D(2, data_format=LAST, name=f"{name}_aa")(y)
    if not structure.attention_last:
        y = attend(y, block)
    y = convolution(y, structure, block.filters, 1, name=f"{name}_conv3")
    y = norm(y, structure, name=f"{name}_{prefix}3", zero=structure.zero_init_residual)
    if structure.attention_last:
        y = attend(y, block)
    if structure.with_cp:
        y = Recompute(name=f"{name}_cp")([x, y])
    if block.drop_path_rate:  # its random numbers are not drawn twice
        y = StochasticDepth(block.drop_path_rate, name=f"{name}_drop_path")(y)
    y = layers.Add(name=f"{name}_add")([y, shortcut(x, structure, block) if block.projects else x])
    return activate(y, structure, name=f"{name}_relu")


def _grouped(x: Tensor, structure: Structure, block: Block) -> Tensor:
    """The 3x3 of a block, with its norm and activation."""
    name, stride = block.name, 1 if block.antialiases else block.strides[1]
    y = convolution(x, structure, block.width, 3, stride, block.dilation, block.groups, name=f"{name}_conv2")
    return activate(norm(y, structure, name=f"{name}_{structure.norm.prefix}2"), structure, name=f"{name}_relu2")


def _check_even(x: Tensor) -> None:
    """The 2x2 mean drops the last row of an odd map, which the shortcut keeps: the sum would be of different maps."""
    sides = [side for side in x.shape[1:3] if side is not None]
    if any(side % 2 for side in sides):
        raise ValueError(
            f"antialias=True halves every map exactly, so input_shape must have sides that 32 divides; a block got a "
            f"map of {'x'.join(map(str, sides))}"
        )


def shortcut(x: Tensor, structure: Structure, block: Block) -> Tensor:
    """A 1x1 convolution, behind average pooling in ResNet-D (arXiv 1812.01187)."""
    pooled, stride, first = x, block.stride, 0  # the convolution's index in PyTorch's Sequential
    if structure.avg_down and stride != 1:
        pooled = CeilAveragePooling2D(stride, name=f"{block.name}_downsample_0")(x)
        stride, first = 1, 1
    elif block.smooths:  # timm's AvgPool2dSame, which counts the zeros behind the far edges
        pooled = layers.ZeroPadding2D(((0, 1), (0, 1)), LAST, name=f"{block.name}_downsample_pad")(x)
        pooled = layers.AveragePooling2D(2, 1, data_format=LAST, name=f"{block.name}_downsample_0")(pooled)
        first = 1
    y = convolution(pooled, structure, block.filters, 1, stride, name=f"{block.name}_downsample_{first}")
    y = norm(y, structure, name=f"{block.name}_downsample_{first + 1}")
    return Recompute(name=f"{block.name}_downsample_cp")([x, y]) if structure.with_cp else y
