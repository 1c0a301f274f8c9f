"""What a ResNeXt costs: parameters and multiply-accumulates of each stage, by arithmetic alone; nothing is built."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from .architectures import BLOCKS_BY_DEPTH, find_architecture
from .options import check_positive, check_sequence, squeeze_width

EXPANSION = 4


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


def count_costs(options: Mapping[str, Any], image_size: int | tuple[int, int]) -> tuple[StageCost, ...]:
    """Cost of the network that `ResNeXt(**options)` builds, stage by stage.

    Args:
        options: of `ResNeXt`, and `in_channels` (default 3). Those that change no cost are not looked at.
        image_size: height and width in pixels.

    Returns:
        The stem, each stage and, unless `include_top` is False, the head.

    Raises:
        ValueError: a size that is not positive, or `strides` of the wrong length.

    Source: arXiv 1611.05431, table 1.
    """
    cifar = options.get("stem", "imagenet") == "cifar"
    groups, base = options.get("groups", 32), options.get("base_channels", 64)
    blocks = _blocks(options, cifar)
    strides = tuple(options.get("strides", (1, 2, 2, 2)))[: len(blocks)]
    if len(strides) != len(blocks):
        raise ValueError(f"strides={strides!r} must have one entry per stage; blocks={blocks!r}")
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    check_positive(**{"image_size[0]": height, "image_size[1]": width})
    channels = options.get("stem_channels", 64)

    size, stem = _stem(options, (height, width), channels, cifar)
    costs = [_sum("stem", (*size, channels), stem)]
    for stage, (count, stride) in enumerate(zip(blocks, strides, strict=True)):
        inner = (groups * options.get("width_per_group", 4) if groups > 1 else base) * 2**stage
        filters = base * EXPANSION * 2**stage
        products: list[_Product] = []
        for block in range(count):
            step = stride if block == 0 else 1
            products += _bottleneck(options, channels, inner, filters, size, step)
            size, channels = _strided(size, step), filters
        costs.append(_sum(f"layer{stage + 1}", (*size, channels), products))
    if options.get("include_top", True):
        classes = options.get("classes", 1000)
        costs.append(_sum("head", (classes,), [_Product(channels * classes, 1, classes)]))
    return tuple(costs)


def architecture_options(name: str) -> dict[str, Any]:
    """The options of `ResNeXt` that make the architecture called `name`.

    Raises:
        ValueError: there is no such architecture.
    """
    row = find_architecture(name)
    numbers = {"depth": row.depth, "groups": row.groups, "width_per_group": row.width_per_group}
    return {**numbers, "classes": row.classes, **row.options}


def _blocks(options: Mapping[str, Any], cifar: bool) -> tuple[int, ...]:
    if options.get("blocks") is not None:
        check_sequence("blocks", options["blocks"])
        return tuple(options["blocks"])
    depth = options.get("depth", 50)
    return ((depth - 2) // 9,) * 3 if cifar else BLOCKS_BY_DEPTH[depth][: options.get("num_stages", 4)]


def _stem(
    options: Mapping[str, Any], size: tuple[int, int], channels: int, cifar: bool
) -> tuple[tuple[int, int], list[_Product]]:
    """The size after the stem and its max-pool, and its convolutions."""
    colours = options.get("in_channels", 3)
    if cifar:
        return size, [_convolution(colours, channels, 3, size)]
    size = _strided(size, 2)
    if options.get("deep_stem"):
        half = channels // 2
        widths = [(colours, half), (half, half), (half, channels)]
        products = [_convolution(before, after, 3, size) for before, after in widths]
    else:
        products = [_convolution(colours, channels, 7, size)]
    return _strided(size, 2), products


def _bottleneck(
    options: Mapping[str, Any], channels: int, inner: int, filters: int, size: tuple[int, int], stride: int
) -> Iterator[_Product]:
    """The convolutions of one block; `size` is that of its input."""
    after = _strided(size, stride)
    yield _convolution(channels, inner, 1, after if options.get("style") == "caffe" else size)
    yield _convolution(inner, inner, 3, after, options.get("groups", 32))
    yield _convolution(inner, filters, 1, after)
    if options.get("se_ratio") is not None:
        squeezed = squeeze_width(filters, options["se_ratio"])
        yield _Product(filters * squeezed, 1, squeezed)
        yield _Product(filters * squeezed, 1, filters)
    if stride != 1 or channels != filters:
        yield _convolution(channels, filters, 1, after)


def _convolution(channels: int, filters: int, kernel: int, size: tuple[int, int], groups: int = 1) -> _Product:
    """Without bias, followed by a norm with its two parameters a filter."""
    return _Product(kernel * kernel * channels // groups * filters, size[0] * size[1], 2 * filters)


def _strided(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Every convolution and pooling here pads so that ceil(n / stride) positions are left of n."""
    return -(-size[0] // stride), -(-size[1] // stride)


def _sum(name: str, output: tuple[int, ...], products: list[_Product]) -> StageCost:
    parameters = sum(product.weights + product.others for product in products)
    return StageCost(name, output, parameters, sum(product.weights * product.positions for product in products))
