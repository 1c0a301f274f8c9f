"""Checks of the options of `ResNeXt` and the numbers derived from them; each error names argument, value and rule."""

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from .architectures import BLOCKS_BY_DEPTH


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(map(repr, choices))}")


def check_positive(**values: int) -> None:
    for name, value in values.items():
        if not _is_integer(value) or value < 1:
            raise ValueError(f"{name}={value!r} must be a positive integer")


def check_range(name: str, value: int, low: int, high: int) -> None:
    if not _is_integer(value) or not low <= value <= high:
        raise ValueError(f"{name}={value!r} must be an integer from {low} to {high}")


def check_sequence(name: str, value: object) -> None:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{name}={value!r} must be a tuple or a list of integers")


def check_share(name: str, value: float, *, one: bool) -> None:
    """Raises ValueError unless `value` is a number from 0 to 1; `one` says whether 1 itself is allowed."""
    if not isinstance(value, Real) or not (0 <= value <= 1 if one else 0 <= value < 1):
        raise ValueError(f"{name}={value!r} must be a number of at least 0 and {'at most' if one else 'below'} 1")


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_per_stage(num_stages: int, **sequences: Sequence[int]) -> None:
    for name, values in sequences.items():
        check_sequence(name, values)
        if len(values) != num_stages:
            raise ValueError(f"{name}={tuple(values)!r} must have one entry per stage: num_stages={num_stages}")
        check_positive(**{f"{name}[{i}]": value for i, value in enumerate(values)})


def check_out_indices(out_indices: Sequence[int] | None, include_top: bool, num_stages: int) -> None:
    if out_indices is None:
        return
    if include_top:
        raise ValueError(f"out_indices={out_indices!r} returns feature maps, which needs include_top=False")
    check_sequence("out_indices", out_indices)
    if not len(out_indices):
        raise ValueError(f"out_indices={out_indices!r} must name at least one stage")
    for index in out_indices:
        check_range("out_indices entry", index, 0, num_stages - 1)


def read_blocks(depth: int, blocks: Sequence[int] | None, stem: str, num_stages: int) -> tuple[int, ...]:
    """Bottlenecks per stage: `blocks`, else by `depth`: the paper's table, or n each for a CIFAR net of 9n + 2."""
    check_range("num_stages", num_stages, 1, 4)
    if blocks is not None:
        check_per_stage(num_stages, blocks=blocks)
        return tuple(blocks)
    if stem == "cifar":
        if not _is_integer(depth) or depth < 11 or (depth - 2) % 9:
            raise ValueError(f"depth={depth!r} must be 9n + 2 with stem='cifar', such as 29; or give blocks")
        return ((depth - 2) // 9,) * num_stages
    if not _is_integer(depth) or depth not in BLOCKS_BY_DEPTH:
        choices = ", ".join(map(str, BLOCKS_BY_DEPTH))
        raise ValueError(f"depth={depth!r} is unknown; choose one of {choices}, or give blocks")
    return BLOCKS_BY_DEPTH[depth][:num_stages]


def read_conv_cfg(conv_cfg: Mapping[str, Any] | None, types: Sequence[str]) -> str:
    """The type that mmcls's `conv_cfg` names; None is Conv2d."""
    kind = conv_cfg.get("type") if isinstance(conv_cfg, Mapping) else None
    if conv_cfg is None:
        return "Conv2d"
    if kind not in types or len(conv_cfg) > 1:
        raise ValueError(f"conv_cfg={conv_cfg!r} must be None or {{'type': name}} with name one of {', '.join(types)}")
    return str(kind)


def squeeze_width(channels: int, ratio: int) -> int:
    """Inner channels of squeeze-and-excitation: `channels // ratio` rounded to a multiple of 8, at least 8.

    Never below 0.9 of the value (mmcls/models/utils/make_divisible.py).
    """
    value = channels // ratio
    rounded = max(8, (value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded
