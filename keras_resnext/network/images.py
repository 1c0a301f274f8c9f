"""The network's input: its shape as `ResNeXt` takes it, read and checked."""

from typing import Any

import keras

from .checks import check_positive
from .stages import USUAL_SIZES

Tensor = Any


def make_images(
    input_tensor: Tensor | None,
    input_shape: tuple[int | None, int | None, int] | None,
    include_top: bool,
    stem: str,
) -> Tensor:
    """The network's input, (batch, height, width, channels)."""
    shape: Any = input_shape
    if shape is None and input_tensor is not None:
        shape = tuple(input_tensor.shape[1:])
    elif shape is None:
        size = USUAL_SIZES.get(str(stem)) if include_top else None
        shape = (size, size, 3)
    if not isinstance(shape, (list, tuple)) or len(shape) != 3:
        raise ValueError(f"input_shape={shape!r} must be (height, width, channels)")
    height, width, channels = shape
    if height in (1, 3, 4) and (channels is None or channels > 16):
        raise ValueError(
            f"input_shape={shape!r} looks like (channels, height, width); ResNeXt takes (height, width, channels) "
            f"whatever Keras's image_data_format says: {(width, channels, height)!r}"
        )
    sides = {f"input_shape[{i}]": side for i, side in enumerate((height, width)) if side is not None}
    check_positive(**sides, **{"input_shape[2]": channels})
    if input_tensor is None:
        return keras.Input(tuple(shape), name="images")
    if tuple(input_tensor.shape[1:]) != tuple(shape):
        raise ValueError(f"input_shape={shape!r} differs from that of input_tensor, {input_tensor.shape[1:]}")
    return input_tensor
