"""Weights and inputs that follow from names, so that golden files need not hold them. Needs NumPy alone."""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np


def derived_array(name: str, shape: Sequence[int]) -> np.ndarray:
    """What the entry `name` of a state_dict holds; NumPy never changes what a seeded RandomState gives.

    Norms: weight and variance 0.5..1.5, bias and mean -0.5..0.5. Kernels: uniform, of variance 1 / fan in.
    """
    noise = np.random.RandomState(zlib.crc32(name.encode())).random_sample(tuple(shape)) - 0.5
    if len(shape) > 1:
        noise *= 2 * (3 / np.prod(shape[1:])) ** 0.5
    elif name.endswith(("weight", "running_var")):
        noise += 1
    return noise.astype(np.float32)


def derived_weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    return {name: derived_array(name, shape) for name, shape in shapes.items()}


def derived_input(shape: Sequence[int]) -> np.ndarray:
    """Images (batch, height, width, channels), standard normal."""
    return np.random.RandomState(1).standard_normal(tuple(shape)).astype(np.float32)


def derived_labels(count: int, classes: int) -> np.ndarray:
    return np.random.RandomState(2).randint(0, classes, count)


def training_weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """Derived weights with small residual branches. With large ones training is chaotic: PyTorch's own losses in
    float32 and in float64 then differ by a quarter after three steps.
    """
    weights = derived_weights(shapes)
    return {name: array * np.float32(0.1) if name.endswith("bn3.weight") else array for name, array in weights.items()}
