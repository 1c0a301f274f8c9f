"""A small model, its file and an image, for the tests of this folder."""

import numpy as np
import pytest
from PIL import Image

from keras_resnext import ResNeXt
from tests.support import randomise

SMALL = dict(blocks=(1, 1, 1), stem="cifar", groups=4, width_per_group=4, base_channels=8, classes=7)


def images_of(count=2, size=64):
    return np.random.default_rng(0).normal(size=(count, size, size, 3)).astype("float32")


@pytest.fixture(scope="module")
def small():
    return randomise(ResNeXt(**SMALL, input_shape=(32, 32, 3)))


@pytest.fixture(scope="module")
def saved(small, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "small.keras"
    small.save(path)
    return path


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 100, 3), "uint8")).save(path)
    return path
