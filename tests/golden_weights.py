"""Weights and inputs that follow from names, so that golden files need not hold them. Needs NumPy alone."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

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


def digits(held_out: bool) -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits as networks take them, float32 (n, 32, 32, 3) on -1..1, and labels; a fifth is held out."""
    path = Path(__file__).parents[1] / "keras_resnext" / "assets" / "digits.npz"
    with np.load(path) as file:
        images, labels = file["images"], file["labels"].astype(np.int64)
    chosen = (np.arange(len(labels)) % 5 == 0) == held_out
    images = images[chosen].astype(np.float32) / 8 - 1
    return np.repeat(images.repeat(4, 1).repeat(4, 2)[..., None], 3, axis=-1), labels[chosen]


def digit_batches(steps: int, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`steps` batches of `size` of the other digits, in an order that is the same for all."""
    images, labels = digits(held_out=False)
    random = np.random.RandomState(3)
    order = np.concatenate([random.permutation(len(labels)) for _ in range(-(-steps * size // len(labels)))])
    for step in range(steps):
        chosen = order[step * size : (step + 1) * size]
        yield images[chosen], labels[chosen]


def training_weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """Derived weights with small residual branches. With large ones training is chaotic: PyTorch's own losses in
    float32 and in float64 then differ by a quarter after three steps.
    """
    weights = derived_weights(shapes)
    return {name: array * np.float32(0.1) if name.endswith("bn3.weight") else array for name, array in weights.items()}


def initial_weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """As networks start: derived kernels and head, norms that change nothing but make residual branches small."""

    def initial(name: str, array: np.ndarray) -> np.ndarray:
        if array.ndim > 1 or ".fc." in name:
            return array
        if name.endswith(("bias", "running_mean")):
            return np.zeros_like(array)
        return np.full_like(array, 0.1 if name.endswith("bn3.weight") else 1)

    return {name: initial(name, array) for name, array in derived_weights(shapes).items()}
