"""The parts of a network as values: convolutions of the stem, blocks of the stages, and the tables behind them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .checks import check_range, is_integer

# Bottleneck blocks per stage by depth (arXiv 1512.03385, table 1; mmcls/models/backbones/resnext.py `arch_settings`).
BLOCKS_BY_DEPTH: dict[int, tuple[int, ...]] = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
EXPANSION = 4
STRIDES, DILATIONS = (1, 2, 2, 2), (1, 1, 1, 1)
OUTPUT_STRIDES = (8, 16, 32)

# Height and width in pixels that each stem is made for.
USUAL_SIZES = {"imagenet": 224, "cifar": 32}
STYLES = ("pytorch", "caffe")
POOLINGS = (None, "avg", "max")
DROP_PATH_RULES = ("constant", "linear")


class StemPool(NamedTuple):
    """The pooling that ends the stem, halving the map: a 3x3 maximum or, without padding, a 2x2 mean.

    Attributes:
        pads: zeros before and behind each side; None for the mean.
        ceil: whether an odd side is rounded up when it is halved, else down.
    """

    pads: tuple[int, int] | None
    ceil: bool


STEM_POOLS = {
    "max": StemPool((1, 1), True),
    "max_ceil": StemPool((0, 1), False),  # Caffe's: no padding, and the incomplete window at the far side counts
    "avg": StemPool(None, False),
}


class Activation(NamedTuple):
    """An activation: its name in Keras, and a number that no output of it is below."""

    keras: str
    least: float


ACTIVATIONS = {"relu": Activation("relu", 0.0), "silu": Activation("silu", -0.2785)}


def divisible(value: float, divisor: int, least_share: float) -> int:
    """`value` as the nearest multiple of `divisor`, at least one, never below `least_share` of the value."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < least_share * value else rounded


def squeeze_width(channels: int, ratio: int) -> int:
    """Inner channels of squeeze-and-excitation: `channels // ratio` rounded to a multiple of 8, at least 8.

    Never below 0.9 of the value (mmcls/models/utils/make_divisible.py).
    """
    return divisible(channels // ratio, 8, 0.9)


def eca_size(channels: int) -> int:
    """Length of ECA's kernel: the odd number at (log2(channels) + 1) / 2, at least 3 (arXiv 1910.03151)."""
    size = int(abs(math.log2(channels) + 1) / 2)
    return max(size if size % 2 else size + 1, 3)


# attention -> its inner channels (of "eca" its kernel's length) by the channels that it weighs; timm 1.0.31's layers.
ATTENTIONS: dict[str, Callable[[int], int]] = {
    "eca": eca_size,
    "gca": lambda channels: divisible(channels / 8, 1, 0.0),
    "sk": lambda channels: divisible(channels / 16, 32, 0.9),
}
SK_DILATIONS = (1, 2)  # of the two paths of a selective kernel, times the stage's own


class Steps(NamedTuple):
    """How far the 3x3 convolutions of a stage reach: the stride and dilation of its first block, and of the others."""

    stride: int
    first_dilation: int
    dilation: int


def stage_steps(strides: Sequence[int], dilations: Sequence[int], output_stride: int) -> list[Steps]:
    """The steps of every stage; from `output_stride` on, strides become dilations.

    The first block of a dilated stage takes the dilation of the stage before, as in timm's `make_blocks` and
    torchvision's `_make_layer`; with mmcls's `dilations` it takes its own stage's.
    """
    if output_stride == max(OUTPUT_STRIDES):
        return [Steps(stride, own, own) for stride, own in zip(strides, dilations, strict=True)]
    steps: list[Steps] = []
    reached, dilation = 4, 1  # of the stem: pixels of the image to one of its map
    for stride in strides:
        before, dilates = dilation, reached * stride > output_stride
        dilation, stride = (dilation * stride, 1) if dilates else (dilation, stride)
        reached *= stride
        steps.append(Steps(stride, before, dilation))
    return steps


class StemConvolution(NamedTuple):
    """A convolution of the stem, with a norm and an activation behind it."""

    filters: int
    size: int
    stride: int


@dataclass(frozen=True)
class Block:
    """A bottleneck: 1x1, grouped 3x3, 1x1, added to the shortcut (arXiv 1611.05431, figure 3c).

    Attributes:
        name: "layer1_0".
        channels: of its input.
        width: channels of the first two convolutions.
        filters: channels of its output.
        groups: of the 3x3.
        strides: of the first 1x1 and of the 3x3; one of them is 1.
        dilation: of the 3x3.
        smooths: whether the shortcut takes the mean of 2x2 without a stride, as timm's does in dilated stages.
        attention: "se", "eca", "gca" or "sk"; None for none.
        squeezed: inner channels of the attention, of "eca" its kernel's length; None for none.
        attended: channels that the attention weighs.
        antialiases: whether a 2x2 mean halves the map behind the 3x3, which then does not stride.
        drop_path_rate: probability that its residual branch is dropped in training.
    """

    name: str
    channels: int
    width: int
    filters: int
    groups: int
    strides: tuple[int, int]
    dilation: int
    smooths: bool
    attention: str | None
    squeezed: int | None
    attended: int
    antialiases: bool
    drop_path_rate: float

    @property
    def stride(self) -> int:
        return max(self.strides)

    @property
    def projects(self) -> bool:
        """Whether the shortcut is a convolution, for the shape changes."""
        return self.stride != 1 or self.channels != self.filters


def blocks_of_depth(depth: int, stem: str) -> tuple[int, ...]:
    """The paper's table, or n each for a CIFAR network of 9n + 2 layers."""
    if stem == "cifar":
        if not is_integer(depth) or depth < 11 or (depth - 2) % 9:
            raise ValueError(f"depth={depth!r} must be 9n + 2 with stem='cifar', such as 29; or give blocks")
        return ((depth - 2) // 9,) * 3
    if not is_integer(depth) or depth not in BLOCKS_BY_DEPTH:
        choices = ", ".join(map(str, BLOCKS_BY_DEPTH))
        raise ValueError(f"depth={depth!r} is unknown; choose one of {choices}, or give blocks")
    return BLOCKS_BY_DEPTH[depth]


def check_out_indices(out_indices: tuple[int, ...], include_top: bool, num_stages: int) -> None:
    if include_top:
        raise ValueError(f"out_indices={out_indices!r} returns feature maps, which needs include_top=False")
    if not out_indices:
        raise ValueError(f"out_indices={out_indices!r} must name at least one stage")
    for index in out_indices:
        check_range("out_indices entry", index, 0, num_stages - 1)
