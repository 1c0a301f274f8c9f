"""How kernels begin: at random, or as zeros where weights are loaded into them at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras
from keras import ops

_WEIGHTS_FOLLOW = ContextVar("weights_follow", default=False)


@contextmanager
def weights_follow(whether: bool = True) -> Iterator[None]:
    """Kernels made in the block, and in blocks within it, are zeros: random numbers take half the time of building."""
    token = _WEIGHTS_FOLLOW.set(whether or _WEIGHTS_FOLLOW.get())
    try:
        yield
    finally:
        _WEIGHTS_FOLLOW.reset(token)


@keras.saving.register_keras_serializable(package="keras_resnext")
class KaimingNormal(keras.initializers.VarianceScaling):
    """He initialisation over the fan out, as mmcls. PyTorch's fan out of a grouped kernel is not divided by groups."""

    def __init__(self, seed: Any = None) -> None:
        super().__init__(2.0, mode="fan_out", distribution="untruncated_normal", seed=seed)

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        return ops.zeros(shape, dtype) if _WEIGHTS_FOLLOW.get() else super().__call__(shape, dtype)

    def get_config(self) -> dict[str, Any]:
        return {"seed": super().get_config()["seed"]}
