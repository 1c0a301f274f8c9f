"""What a ResNeXt is, as one value: made by checking the options, read by whoever builds, names, counts or infers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .checks import check_choice, check_per_stage, check_positive, check_range, check_sequence, check_share
from .layer_cfg import BATCH_NORM, Norm, read_conv_cfg, read_norm_cfg
from .stages import (
    ACTIVATIONS,
    ATTENTIONS,
    DILATIONS,
    DROP_PATH_RULES,
    EXPANSION,
    OUTPUT_STRIDES,
    POOLINGS,
    STEM_POOLS,
    STRIDES,
    STYLES,
    USUAL_SIZES,
    Block,
    StemConvolution,
    blocks_of_depth,
    check_out_indices,
    squeeze_width,
    stage_steps,
)


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
    group_size: int | None = None
    in_channels: int = 3
    stem: str = "imagenet"
    stem_channels: int = 64
    base_channels: int = 64
    style: str = "pytorch"
    strides: tuple[int, ...] = STRIDES
    dilations: tuple[int, ...] = DILATIONS
    output_stride: int = max(OUTPUT_STRIDES)
    deep_stem: bool = False
    tiered_stem: bool = False
    stem_pool: str = "max"
    avg_down: bool = False
    antialias: bool = False
    activation: str = "relu"
    conv: str = "Conv2d"
    norm: Norm = BATCH_NORM
    norm_eval: bool = False
    se_ratio: int | None = None
    attention: str | None = None
    attention_last: bool = True
    include_top: bool = True
    classes: int = 1000
    pooling: str | None = None
    out_indices: tuple[int, ...] | None = None
    frozen_stages: int = -1
    zero_init_residual: bool = True
    drop_path_rate: float = 0.0
    drop_path_rule: str = "constant"
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
            per_stage = blocks_of_depth(depth, stem)[:num_stages]
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
        check_choice("stem_pool", self.stem_pool, tuple(STEM_POOLS))
        check_choice("activation", self.activation, tuple(ACTIVATIONS))
        check_choice("attention", self.attention, (None, *ATTENTIONS))
        check_choice("drop_path_rule", self.drop_path_rule, DROP_PATH_RULES)
        check_choice("output_stride", self.output_stride, OUTPUT_STRIDES)
        optional = {"se_ratio": self.se_ratio, "group_size": self.group_size}
        numbers = ("groups", "width_per_group", "classes", "stem_channels", "base_channels", "in_channels")
        check_positive(**{name: getattr(self, name) for name in numbers})
        check_positive(**{name: value for name, value in optional.items() if value is not None})
        for name in numbers:  # NumPy's integers are welcome
            object.__setattr__(self, name, int(getattr(self, name)))
        if self.out_indices is not None:
            check_out_indices(self.out_indices, self.include_top, len(self.blocks))
            object.__setattr__(self, "out_indices", tuple(sorted(set(self.out_indices))))
        check_range("frozen_stages", self.frozen_stages, -1, len(self.blocks))
        check_share("drop_path_rate", self.drop_path_rate, one=False)
        if self.deep_stem and (self.stem != "imagenet" or self.stem_channels % 2):
            raise ValueError(
                f"deep_stem=True needs stem='imagenet' ({self.stem!r} given) and even stem_channels "
                f"({self.stem_channels})"
            )
        self._check_combinations()
        normed = [filters for filters, _, _ in self.stem_convolutions]
        for count in (*normed, *self.widths, *self.outputs):
            if count % self.norm.num_groups:
                raise ValueError(
                    f"norm_cfg={self.norm.cfg!r}: num_groups must divide the channels of every norm, here {count}"
                )

    def _check_combinations(self) -> None:
        if self.attention is not None and self.se_ratio is not None:
            raise ValueError(f"attention={self.attention!r} and se_ratio={self.se_ratio!r} exclude each other")
        if self.tiered_stem and (not self.deep_stem or self.stem_channels % 8):
            raise ValueError(
                f"tiered_stem=True needs deep_stem=True ({self.deep_stem} given) and stem_channels that 8 divides "
                f"({self.stem_channels})"
            )
        stages = len(self.blocks)
        usual = (self.stem, self.strides, self.dilations) == ("imagenet", STRIDES[:stages], DILATIONS[:stages])
        if self.output_stride != max(OUTPUT_STRIDES) and not usual:
            raise ValueError(
                f"output_stride={self.output_stride} makes strides and dilations itself, for stem='imagenet'; leave "
                f"strides={self.strides} and dilations={self.dilations} out, or output_stride"
            )
        if self.antialias and self.style != "pytorch":
            raise ValueError(f"antialias=True needs style='pytorch' ({self.style!r} given)")
        if self.group_size is not None and (uneven := [width for width in self.widths if width % self.group_size]):
            raise ValueError(f"group_size={self.group_size} must divide the channels of every 3x3, here {uneven[0]}")

    @property
    def variant(self) -> str:
        """The model's usual name, such as "seresnext50_32x4d"."""
        kind = "se" if self.se_ratio else {None: "", "gca": "gc"}.get(self.attention, self.attention)
        groups = f"{self.groups}x{self.width_per_group}d" if self.group_size is None else f"g{self.group_size}"
        return f"{kind}resnext{self.depth}_{groups}"

    @property
    def usual_size(self) -> int:
        """Height and width of the images in pixels, where nothing else is said."""
        return USUAL_SIZES[self.stem]

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage's 3x3 convolutions."""
        plain = self.groups == 1 or self.group_size is not None
        first = self.base_channels if plain else self.groups * self.width_per_group
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
            first = channels // 8 * 3 if self.tiered_stem else half
            return StemConvolution(first, 3, 2), StemConvolution(half, 3, 1), StemConvolution(channels, 3, 1)
        return (StemConvolution(channels, 7, 2) if self.stem_pools else StemConvolution(channels, 3, 1),)

    @property
    def stem_pools(self) -> bool:
        """Whether a pooling ends the stem."""
        return self.stem == "imagenet"

    @property
    def stages(self) -> tuple[tuple[Block, ...], ...]:
        """The blocks of every stage."""
        stages, channels, before = [], self.stem_channels, 0
        steps = stage_steps(self.strides, self.dilations, self.output_stride)
        for stage, count in enumerate(self.blocks):
            blocks: list[Block] = []
            smooths = self.avg_down and self.output_stride != max(OUTPUT_STRIDES) and steps[stage].dilation > 1
            filters, width = self.outputs[stage], self.widths[stage]
            attended = filters if self.attention_last and self.attention != "sk" else width
            for block in range(count):
                stride = steps[stage].stride if block == 0 else 1
                blocks.append(
                    Block(
                        name=f"layer{stage + 1}_{block}",
                        channels=channels,
                        width=width,
                        filters=filters,
                        groups=self.groups if self.group_size is None else width // self.group_size,
                        strides=(1, stride) if self.style == "pytorch" else (stride, 1),
                        dilation=steps[stage].dilation if block else steps[stage].first_dilation,
                        smooths=smooths and block == 0,
                        attention="se" if self.se_ratio else self.attention,
                        squeezed=self._squeezed(attended),
                        attended=attended,
                        antialiases=self.antialias and stride == 2,
                        drop_path_rate=self._drop_path_rate(before),
                    )
                )
                channels, before = filters, before + 1
            stages.append(tuple(blocks))
        return tuple(stages)

    def _squeezed(self, channels: int) -> int | None:
        if self.se_ratio is not None:
            return squeeze_width(channels, self.se_ratio)
        return None if self.attention is None else ATTENTIONS[self.attention](channels)

    def _drop_path_rate(self, before: int) -> float:
        """Of the block that has `before` others before it: rising from 0 to the whole rate, or the same for all."""
        share = before / max(sum(self.blocks) - 1, 1) if self.drop_path_rule == "linear" else 1
        return self.drop_path_rate * share

    @property
    def whole_blocks(self) -> tuple[int, ...]:
        """`blocks` of the network of this depth that these are the first stages of; `blocks` where there is none."""
        try:
            whole = blocks_of_depth(self.depth, self.stem)
        except ValueError:
            return self.blocks
        return whole if whole[: len(self.blocks)] == self.blocks else self.blocks

    @property
    def weights_key(self) -> tuple[Any, ...]:
        """Equal for structures that the same published weights fit, however many of the stages they have."""
        stem = (self.stem, self.stem_channels, self.deep_stem, self.tiered_stem, self.stem_pool)
        inside = (self.widths[0], self.stages[0][0].groups, self.group_size, self.base_channels, self.activation)
        gates = (self.se_ratio, self.attention, self.attention_last or not (self.attention or self.se_ratio))
        return (self.whole_blocks, *stem, *inside, *gates, self.avg_down, self.antialias)

    def options(self) -> dict[str, Any]:
        """The options of `ResNeXt` that make this structure, on images of `in_channels`."""
        options = {name: value for name, value in vars(self).items() if name not in _NOT_OPTIONS}
        conv_cfg = None if self.conv == "Conv2d" else {"type": self.conv}
        return {**options, "num_stages": len(self.blocks), "conv_cfg": conv_cfg, "norm_cfg": self.norm.cfg}


_NOT_OPTIONS = ("depth", "in_channels", "conv", "norm")  # those that ResNeXt takes in another form, or not at all
