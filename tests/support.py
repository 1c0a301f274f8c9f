"""What several test files share."""

import ctypes
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from keras_resnext import Preprocessing, set_preprocessing


def relative_error(actual: Any, expected: Any) -> float:
    """max |a - b| / max |b|, the measure of every parity claim here."""
    actual, expected = np.asarray(actual, "float64"), np.asarray(expected, "float64")
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-30))


def free_memory() -> None:
    """Gives back what was built and is not held any more.

    Models lie in reference cycles, so only the garbage collector frees them, and it counts objects, not gigabytes;
    and glibc keeps freed memory for itself until malloc_trim.
    """
    gc.collect()
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)


_LIBC = ctypes.CDLL(None)


@contextmanager
def without_weights() -> Iterator[None]:
    """What is built in here has shapes and no values.

    Keras remembers each such variable and gives all of them their values at the end of the next scope of any kind,
    which is 10 GB for the architectures' table: hence forgotten here.
    """
    with keras.StatelessScope(initialize_variables=False):
        yield
    keras.backend.clear_session()


def normalised_by_imagenet(model: keras.Model) -> keras.Model:
    """A model of other hands, which says nothing of its images, told to take what ImageNet's models take."""
    set_preprocessing(model, Preprocessing(model.input_shape[1]))
    return model


def value_and_gradients(
    function: Callable[..., Any], arguments: Sequence[np.ndarray], upstream: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """`function(*arguments)` and the gradient of `sum(upstream * value)` with respect to each argument."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tensors = [tf.constant(a) for a in arguments]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = function(*tensors)
        gradients = tape.gradient(value, tensors, tf.cast(upstream, value.dtype))
    else:
        import jax

        value, pullback = jax.vjp(function, *[jax.numpy.asarray(a) for a in arguments])
        gradients = pullback(jax.numpy.asarray(upstream).astype(value.dtype))
    return keras.ops.convert_to_numpy(value), [keras.ops.convert_to_numpy(g) for g in gradients]


def randomise(model: keras.Model, seed: int = 0) -> keras.Model:
    """Random weights and random statistics, none at its initial value, so that nothing agrees by chance."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        shape, name = tuple(variable.shape), variable.name
        if name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, shape))
        elif name in ("beta", "bias", "moving_mean"):
            variable.assign(rng.uniform(-0.5, 0.5, shape))
        elif name == "kernel":
            variable.assign(rng.uniform(-1, 1, shape) * (3 / np.prod(shape[:-1])) ** 0.5)
    return model
