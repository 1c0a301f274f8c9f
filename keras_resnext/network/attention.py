"""Attention to channels, as a table: each gate takes a map, (batch, height, width, channels), and gives one like it."""

from collections.abc import Callable
from typing import Any

from keras import layers

from .elements import LAST, activate, convolution, norm
from .initializers import KaimingNormal
from .layers import MeanOverMap, MixedPaths
from .normalization import LayerNorm
from .stages import SK_DILATIONS, Block
from .structure import Structure

Tensor = Any


def attend(x: Tensor, block: Block) -> Tensor:
    """The map with the block's attention; the same map where it has none, or one that is elsewhere."""
    gate = GATES.get(block.attention or "")
    return x if gate is None or block.squeezed is None else gate(x, block.squeezed, block.name)


def _squeeze_excite(x: Tensor, squeezed: int, name: str) -> Tensor:
    """Scales channels by a gate computed from their means (arXiv 1709.01507, section 3)."""
    name = f"{name}_se_layer"
    gate = layers.GlobalAveragePooling2D(LAST, keepdims=True, name=f"{name}_global_avgpool")(x)
    gate = _dense(gate, squeezed, f"{name}_conv1_conv", "relu")
    gate = _dense(gate, x.shape[-1], f"{name}_conv2_conv", "sigmoid")
    return layers.Multiply(name=f"{name}_scale")([x, gate])


def _efficient_channel(x: Tensor, size: int, name: str) -> Tensor:
    """Scales channels by a gate computed from the means of `size` neighbours each (arXiv 1910.03151)."""
    name, channels = f"{name}_eca", x.shape[-1]
    gate = layers.GlobalAveragePooling2D(LAST, name=f"{name}_global_avgpool")(x)
    gate = layers.Reshape((channels, 1), name=f"{name}_in_a_row")(gate)
    gate = layers.Conv1D(
        1,
        size,
        padding="same",
        data_format=LAST,
        use_bias=False,
        activation="sigmoid",
        kernel_initializer=KaimingNormal(),
        name=f"{name}_conv",
    )(gate)
    gate = layers.Reshape((1, 1, channels), name=f"{name}_by_channel")(gate)
    return layers.Multiply(name=f"{name}_scale")([x, gate])


def _global_context(x: Tensor, squeezed: int, name: str) -> Tensor:
    """Adds to every place what all places give together (GCNet, arXiv 1904.11492); timm's "gca"."""
    name = f"{name}_gc"
    context = MeanOverMap(name=f"{name}_context")([x, _dense(x, 1, f"{name}_attn")])
    context = _dense(context, squeezed, f"{name}_fc1")
    context = LayerNorm(epsilon=1e-6, name=f"{name}_norm")(context)
    context = _dense(layers.ReLU(name=f"{name}_relu")(context), x.shape[-1], f"{name}_fc2", kernel_initializer="zeros")
    return layers.Add(name=f"{name}_add")([x, context])


GATES: dict[str, Callable[[Tensor, int, str], Tensor]] = {
    "se": _squeeze_excite,
    "eca": _efficient_channel,
    "gca": _global_context,
}


def select_kernels(x: Tensor, structure: Structure, block: Block) -> Tensor:
    """For a block's 3x3, two of other dilations, mixed channel by channel (arXiv 1903.06586, in timm's form)."""
    name, prefix, stride = f"{block.name}_conv2", structure.norm.prefix, 1 if block.antialiases else block.strides[1]
    paths = []
    for i, dilation in enumerate(SK_DILATIONS):
        path = f"{name}_paths_{i}"
        y = convolution(
            x, structure, block.width, 3, stride, block.dilation * dilation, block.groups, name=f"{path}_conv"
        )
        paths.append(activate(norm(y, structure, name=f"{path}_{prefix}"), structure, name=f"{path}_relu"))
    both = layers.Add(name=f"{name}_attn_sum")(paths)
    means = layers.GlobalAveragePooling2D(LAST, keepdims=True, name=f"{name}_attn_global_avgpool")(both)
    squeezed = convolution(means, structure, block.squeezed or 1, 1, name=f"{name}_attn_reduce")
    squeezed = layers.ReLU(name=f"{name}_attn_relu")(norm(squeezed, structure, name=f"{name}_attn_{prefix}"))
    scores = convolution(squeezed, structure, block.width * len(paths), 1, name=f"{name}_attn_select")
    return MixedPaths(name=f"{name}_attn_mix")([scores, *paths])


def _dense(x: Tensor, width: int, name: str, activation: str | None = None, **options: Any) -> Tensor:
    """A 1x1 convolution with a bias."""
    options = {"kernel_initializer": KaimingNormal(), **options}
    return layers.Conv2D(width, 1, data_format=LAST, activation=activation, name=name, **options)(x)
