"""What a ResNeXt costs: parameters and multiply-accumulates of each stage, by arithmetic alone; nothing is built."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .checks import check_positive
from .stages import SK_DILATIONS, STEM_POOLS, Block
from .structure import Structure


@dataclass(frozen=True)
class StageCost:
    """One part of the network.

    Attributes:
        name: "stem", "layer1" to "layer4", or "head".
        output: shape of one image's result, (height, width, channels), or (classes,).
        parameters: trainable numbers.
        macs: multiply-accumulates of convolutions and dense layers for one image; half of its FLOPs. Norms,
            activations and poolings are not counted, as in torchvision's and timm's figures.
    """

    name: str
    output: tuple[int, ...]
    parameters: int
    macs: int


class _Product(NamedTuple):
    """A convolution or a dense layer: weights of its kernel, outputs per filter, and its other parameters."""

    weights: int
    positions: int
    others: int


def count_costs(structure: Structure, image_size: int | tuple[int, int]) -> tuple[StageCost, ...]:
    """Cost of a network, stage by stage.

    Args:
        structure: of the network.
        image_size: height and width in pixels.

    Returns:
        The stem, each stage and, unless `include_top` is False, the head.

    Raises:
        ValueError: a size that is not positive.

    Source: arXiv 1611.05431, table 1.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    check_positive(**{"image_size[0]": height, "image_size[1]": width})
    size, channels = (height, width), structure.in_channels
    products: list[_Product] = []
    for filters, kernel, stride in structure.stem_convolutions:
        size = _strided(size, stride)
        products.append(_convolution(channels, filters, kernel, size))
        channels = filters
    if structure.stem_pools:
        size = _strided(size, 2) if STEM_POOLS[structure.stem_pool].ceil else (size[0] // 2, size[1] // 2)
    costs = [_sum("stem", (*size, channels), products)]
    for stage, blocks in enumerate(structure.stages, start=1):
        products = []
        for block in blocks:
            products += _bottleneck(block, size)
            size, channels = _strided(size, block.stride), block.filters
        costs.append(_sum(f"layer{stage}", (*size, channels), products))
    if structure.include_top:
        classes = structure.classes
        costs.append(_sum("head", (classes,), [_Product(channels * classes, 1, classes)]))
    return tuple(costs)


def _bottleneck(block: Block, size: tuple[int, int]) -> Iterator[_Product]:
    """The convolutions of one block; `size` is that of its input."""
    after = _strided(size, block.stride)
    yield _convolution(block.channels, block.width, 1, _strided(size, block.strides[0]))
    convolved = size if block.antialiases else after
    for _ in SK_DILATIONS if block.attention == "sk" else (1,):
        yield _convolution(block.width, block.width, 3, convolved, block.groups)
    yield _convolution(block.width, block.filters, 1, after)
    if block.squeezed is not None:
        yield from _gate(block, after)
    if block.projects:
        yield _convolution(block.channels, block.filters, 1, after)


def _gate(block: Block, size: tuple[int, int]) -> Iterator[_Product]:
    """The products of a block's attention to `attended` channels of a map of this size."""
    channels, squeezed = block.attended, block.squeezed or 0
    if block.attention == "eca":
        yield _Product(squeezed, channels, 0)
    elif block.attention == "sk":
        yield _Product(channels * squeezed, 1, 2 * squeezed)
        yield _Product(squeezed * channels * len(SK_DILATIONS), 1, 0)
    else:
        if block.attention == "gca":
            yield _Product(channels, size[0] * size[1], 1)
            yield _Product(0, 1, 2 * squeezed)  # of its norm
        yield _Product(channels * squeezed, 1, squeezed)
        yield _Product(channels * squeezed, 1, channels)


def _convolution(channels: int, filters: int, kernel: int, size: tuple[int, int], groups: int = 1) -> _Product:
    """Without bias, followed by a norm with its two parameters a filter."""
    return _Product(kernel * kernel * channels // groups * filters, size[0] * size[1], 2 * filters)


def _strided(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Every convolution and pooling here pads so that ceil(n / stride) positions are left of n."""
    return -(-size[0] // stride), -(-size[1] // stride)


def _sum(name: str, output: tuple[int, ...], products: list[_Product]) -> StageCost:
    parameters = sum(product.weights + product.others for product in products)
    return StageCost(name, output, parameters, sum(product.weights * product.positions for product in products))
