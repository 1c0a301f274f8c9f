"""Small networks and runs that tests of TFLite files share."""

from typing import Any

import keras
import numpy as np

from keras_resnext import ResNeXt
from tests.support import randomise

SIZE, CLASSES = 64, 10


BLOCKS = (1, 1, 1, 1)


OPTIONS: dict[str, Any] = {
    "blocks": BLOCKS, "groups": 8, "width_per_group": 4, "input_shape": (SIZE, SIZE, 3), "classes": CLASSES,
    "base_channels": 16, "stem_channels": 16,
}  # fmt: skip


def small(**options: Any) -> keras.Model:
    return randomise(ResNeXt(**{**OPTIONS, **options}))


def make_images(count: int, size: int = SIZE, seed: int = 1) -> np.ndarray:
    """Coarse and fine noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, size // 8, size // 8, 3)).repeat(8, 1).repeat(8, 2)
    fine = rng.integers(0, 256, (count, size, size, 3))
    share = rng.uniform(0, 1, (count, 1, 1, 1))
    return (coarse * share + fine * (1 - share)).astype("float32")
