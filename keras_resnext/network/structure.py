"""What a ResNeXt is, as one value: made by checking the options, read by whoever builds, names, counts or infers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .checks import check_choice, check_per_stage, check_positive, check_range, check_sequence, check_share, is_integer
from .layer_cfg import BATCH_NORM, Norm, read_conv_cfg, read_norm_cfg

# Bottleneck blocks per stage by depth (arXiv 1512.03385, table 1; mmcls/models/backbones/resnext.py `arch_settings`).
BLOCKS_BY_DEPTH: dict[int, tuple[int, ...]] = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
EXPANSION = 4
STRIDES, DILATIONS = (1, 2, 2, 2), (1, 1, 1, 1)

# Height and width in pixels that each stem is made for.
USUAL_SIZES = {"imagenet": 224, "cifar": 32}
STYLES = ("pytorch", "caffe")
POOLINGS = (None, "avg", "max")


class StemConvolution(NamedTuple):
    """A convolution of the stem, with a norm and a ReLU behind it."""

    filters: int
    size: int
    stride: int


class Block(NamedTuple):
    """A bottleneck: 1x1, grouped 3x3, 1x1, added to the shortcut (arXiv 1611.05431, figure 3c).

    Attributes:
        name: "layer1_0".
        channels: of its input.
        width: channels of the first two convolutions.
        filters: channels of its output.
        groups: of the 3x3.
        strides: of the first 1x1 and of the 3x3; one of them is 1.
        dilation: of the 3x3.
        squeezed: inner channels of squeeze-and-excitation, None for none.
    """

    name: str
    channels: int
    width: int
    filters: int
    groups: int
    strides: tuple[int, int]
    dilation: int
    squeezed: int | None

    @property
    def stride(self) -> int:
        return max(self.strides)

    @property
    def projects(self) -> bool:
        """Whether the shortcut is a convolution, for the shape changes."""
        return self.stride != 1 or self.channels != self.filters


@dataclass(frozen=True)
class Structure:
    """Everything that makes one ResNeXt differ from another, but the size of its images and its numbers.

    Attributes:
        depth: layers with weights, for the name.
        blocks: bottlenecks per stage.
        in_channels: of the images.
        conv: "Conv2d" or "ConvWS".
        norm: what `norm_cfg` says.

    The others are the options of `ResNeXt` with the same names and defaults.

    Raises:
        ValueError: a value outside its range; the message names the option, its value and the rule.
    """

    depth: int
    blocks: tuple[int, ...]
    groups: int = 32
    width_per_group: int = 4
    in_channels: int = 3
    stem: str = "imagenet"
    stem_channels: int = 64
    base_channels: int = 64
    style: str = "pytorch"
    strides: tuple[int, ...] = STRIDES
    dilations: tuple[int, ...] = DILATIONS
    deep_stem: bool = False
    avg_down: bool = False
    conv: str = "Conv2d"
    norm: Norm = BATCH_NORM
    norm_eval: bool = False
    se_ratio: int | None = None
    include_top: bool = True
    classes: int = 1000
    pooling: str | None = None
    out_indices: tuple[int, ...] | None = None
    frozen_stages: int = -1
    zero_init_residual: bool = True
    drop_path_rate: float = 0.0
    with_cp: bool = False

    @classmethod
    def of(
        cls,
        depth: int = 50,
        *,
        blocks: Sequence[int] | None = None,
        stem: str = "imagenet",
        num_stages: int = 4,
        strides: Sequence[int] = STRIDES,
        dilations: Sequence[int] = DILATIONS,
        out_indices: Sequence[int] | None = None,
        conv_cfg: Mapping[str, Any] | None = None,
        norm_cfg: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> "Structure":
        """The structure that these options of `ResNeXt` make; `options` go to the fields of the same names.

        Raises:
            ValueError: an option outside its range.
        """
        for option, sequence in (("strides", strides), ("dilations", dilations), ("blocks", blocks or ())):
            check_sequence(option, sequence)
        check_choice("stem", stem, tuple(USUAL_SIZES))
        if stem == "cifar" and num_stages == 4 and (blocks is None or len(blocks) == 3):
            # The defaults of strides and dilations are for four stages; the CIFAR network has three.
            num_stages = 3
            strides = STRIDES[:3] if tuple(strides) == STRIDES else strides
            dilations = DILATIONS[:3] if tuple(dilations) == DILATIONS else dilations
        check_range("num_stages", num_stages, 1, 4)
        if blocks is None:
            per_stage = _blocks_of_depth(depth, stem)[:num_stages]
        else:
            check_per_stage(num_stages, blocks=blocks)
            per_stage, depth = tuple(blocks), 2 + 3 * sum(blocks)
        check_per_stage(num_stages, strides=strides, dilations=dilations)
        if out_indices is not None:
            check_sequence("out_indices", out_indices)
        return cls(
            depth,
            per_stage,
            stem=stem,
            strides=tuple(strides),
            dilations=tuple(dilations),
            out_indices=None if out_indices is None else tuple(out_indices),
            conv=read_conv_cfg(conv_cfg),
            norm=read_norm_cfg(norm_cfg),
            **options,
        )

    def __post_init__(self) -> None:
        check_choice("stem", self.stem, tuple(USUAL_SIZES))
        check_choice("style", self.style, STYLES)
        check_choice("pooling", self.pooling, POOLINGS)
        ratio = {} if self.se_ratio is None else {"se_ratio": self.se_ratio}
        numbers = ("groups", "width_per_group", "classes", "stem_channels", "base_channels", "in_channels")
        check_positive(**{name: getattr(self, name) for name in numbers}, **ratio)
        for name in numbers:  # NumPy's integers are welcome
            object.__setattr__(self, name, int(getattr(self, name)))
        if self.out_indices is not None:
            _check_out_indices(self.out_indices, self.include_top, len(self.blocks))
            object.__setattr__(self, "out_indices", tuple(sorted(set(self.out_indices))))
        check_range("frozen_stages", self.frozen_stages, -1, len(self.blocks))
        check_share("drop_path_rate", self.drop_path_rate, one=False)
        if self.deep_stem and (self.stem != "imagenet" or self.stem_channels % 2):
            raise ValueError(
                f"deep_stem=True needs stem='imagenet' ({self.stem!r} given) and even stem_channels "
                f"({self.stem_channels})"
            )
        normed = [filters for filters, _, _ in self.stem_convolutions]
        for count in (*normed, *self.widths, *self.outputs):
            if count % self.norm.num_groups:
                raise ValueError(
                    f"norm_cfg={self.norm.cfg!r}: num_groups must divide the channels of every norm, here {count}"
                )

    @property
    def variant(self) -> str:
        """The model's usual name, such as "seresnext50_32x4d"."""
        return f"{'se' if self.se_ratio else ''}resnext{self.depth}_{self.groups}x{self.width_per_group}d"

    @property
    def usual_size(self) -> int:
        """Height and width of the images in pixels, where nothing else is said."""
        return USUAL_SIZES[self.stem]

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage's 3x3 convolutions."""
        first = self.groups * self.width_per_group if self.groups > 1 else self.base_channels
        return tuple(first * 2**stage for stage in range(len(self.blocks)))

    @property
    def outputs(self) -> tuple[int, ...]:
        """Channels of each stage's maps."""
        return tuple(self.base_channels * EXPANSION * 2**stage for stage in range(len(self.blocks)))

    @property
    def returned(self) -> tuple[int, ...]:
        """The stages, from 0, whose maps leave a network without a head."""
        return (len(self.blocks) - 1,) if self.out_indices is None else self.out_indices

    @property
    def stem_convolutions(self) -> tuple[StemConvolution, ...]:
        channels = self.stem_channels
        if self.deep_stem:
            half = channels // 2
            return StemConvolution(half, 3, 2), StemConvolution(half, 3, 1), StemConvolution(channels, 3, 1)
        return (StemConvolution(channels, 7, 2) if self.stem_pools else StemConvolution(channels, 3, 1),)

    @property
    def stem_pools(self) -> bool:
        """Whether a max-pool of 3x3 with stride 2 ends the stem."""
        return self.stem == "imagenet"

    @property
    def stages(self) -> tuple[tuple[Block, ...], ...]:
        """The blocks of every stage."""
        stages, channels = [], self.stem_channels
        for stage, count in enumerate(self.blocks):
            blocks: list[Block] = []
            filters = self.outputs[stage]
            for block in range(count):
                stride = self.strides[stage] if block == 0 else 1
                blocks.append(
                    Block(
                        name=f"layer{stage + 1}_{block}",
                        channels=channels,
                        width=self.widths[stage],
                        filters=filters,
                        groups=self.groups,
                        strides=(1, stride) if self.style == "pytorch" else (stride, 1),
                        dilation=self.dilations[stage],
                        squeezed=None if self.se_ratio is None else squeeze_width(filters, self.se_ratio),
                    )
                )
                channels = filters
            stages.append(tuple(blocks))
        return tuple(stages)

    @property
    def whole_blocks(self) -> tuple[int, ...]:
        """`blocks` of the network of this depth that these are the first stages of; `blocks` where there is none."""
        try:
            whole = _blocks_of_depth(self.depth, self.stem)
        except ValueError:
            return self.blocks
        return whole if whole[: len(self.blocks)] == self.blocks else self.blocks

    @property
    def weights_key(self) -> tuple[Any, ...]:
        """Equal for structures that the same published weights fit, however many of the stages they have."""
        stem = (self.stem, self.stem_channels, self.deep_stem)
        return (self.whole_blocks, self.widths[0], self.groups, self.base_channels, self.avg_down, self.se_ratio, *stem)

    def options(self) -> dict[str, Any]:
        """The options of `ResNeXt` that make this structure, on images of `in_channels`."""
        options = {name: value for name, value in vars(self).items() if name not in _NOT_OPTIONS}
        conv_cfg = None if self.conv == "Conv2d" else {"type": self.conv}
        return {**options, "num_stages": len(self.blocks), "conv_cfg": conv_cfg, "norm_cfg": self.norm.cfg}


_NOT_OPTIONS = ("depth", "in_channels", "conv", "norm")  # those that ResNeXt takes in another form, or not at all


def squeeze_width(channels: int, ratio: int) -> int:
    """Inner channels of squeeze-and-excitation: `channels // ratio` rounded to a multiple of 8, at least 8.

    Never below 0.9 of the value (mmcls/models/utils/make_divisible.py).
    """
    value = channels // ratio
    rounded = max(8, (value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


def _blocks_of_depth(depth: int, stem: str) -> tuple[int, ...]:
    """The paper's table, or n each for a CIFAR network of 9n + 2 layers."""
    if stem == "cifar":
        if not is_integer(depth) or depth < 11 or (depth - 2) % 9:
            raise ValueError(f"depth={depth!r} must be 9n + 2 with stem='cifar', such as 29; or give blocks")
        return ((depth - 2) // 9,) * 3
    if not is_integer(depth) or depth not in BLOCKS_BY_DEPTH:
        choices = ", ".join(map(str, BLOCKS_BY_DEPTH))
        raise ValueError(f"depth={depth!r} is unknown; choose one of {choices}, or give blocks")
    return BLOCKS_BY_DEPTH[depth]


def _check_out_indices(out_indices: tuple[int, ...], include_top: bool, num_stages: int) -> None:
    if include_top:
        raise ValueError(f"out_indices={out_indices!r} returns feature maps, which needs include_top=False")
    if not out_indices:
        raise ValueError(f"out_indices={out_indices!r} must name at least one stage")
    for index in out_indices:
        check_range("out_indices entry", index, 0, num_stages - 1)
