"""Images that tests of data share."""

import numpy as np
from PIL import Image

from tests import references  # noqa: F401  declares what torchvision needs to import

RNG = np.random.default_rng(0)


def make_image(height=40, width=60):
    smooth = Image.fromarray(RNG.integers(0, 256, (5, 7, 3), dtype="uint8"))
    return smooth.resize((width, height), Image.Resampling.BICUBIC)
