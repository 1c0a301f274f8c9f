"""The layers that every part of a network is made of: convolution, norm and activation, as the structure wants them.

Everything is (batch, height, width, channels), whatever Keras's `image_data_format` says.
"""

from typing import Any

from keras import layers

from .initializers import KaimingNormal
from .layers import GroupedConv2D, WSConv2D
from .normalization import norm_layer
from .stages import ACTIVATIONS
from .structure import Structure

Tensor = Any

CONVOLUTIONS: dict[str, type[GroupedConv2D]] = {"Conv2d": GroupedConv2D, "ConvWS": WSConv2D}
LAST = "channels_last"


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
        kernel_initializer=KaimingNormal(),
        name=name,
    )(x)


def norm(x: Tensor, structure: Structure, *, name: str, zero: bool = False) -> Tensor:
    gamma = "zeros" if zero else "ones"
    return norm_layer(structure.norm, structure.norm_eval, gamma_initializer=gamma, name=name)(x)


def activate(x: Tensor, structure: Structure, *, name: str) -> Tensor:
    activation = ACTIVATIONS[structure.activation].keras
    return (layers.ReLU(name=name) if activation == "relu" else layers.Activation(activation, name=name))(x)
