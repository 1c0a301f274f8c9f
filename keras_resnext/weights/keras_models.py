"""Models from .keras files that nobody vouches for: checked, built without memory, only then given their weights."""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras.src.backend.common import global_state
from keras.src.saving import saving_lib
from keras.src.saving.serialization_lib import ObjectSharingScope

from .keras_archive import count_numbers, read_keras_file, readable, to_hdf5
from .keras_config import check_config, names_own_classes, with_registered

SPARE = 1 << 16  # numbers of a model that its file does not hold: counters and seeds
_WAITING = "uninitialized_variables"  # where Keras has them while a scope lets it make none
_IN_SCOPE = "while in a stateless scope"  # what it says of variables made of numbers


def load_keras_model(path: str | os.PathLike[str]) -> keras.Model:
    """The model in a .keras file, not compiled.

    Nothing in the file is executed: Keras does not parse its HDF5 and sees no config that was not checked. Classes of
    your own must be registered with Keras before.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: no readable .keras file, or one that names what is not allowed, or more than its weights have.
            It is a ValueError.
    """
    file = read_keras_file(path)
    with readable(path):
        numbers = count_numbers(file.weights)
        config = check_config(file.config or {}, numbers, keras.saving.get_registered_object)
        model = _build(config, numbers)
        if not isinstance(model, keras.Model):
            raise ValueError(f"it holds no model but a {type(model).__name__}")
        _load_weights(model, to_hdf5(file.weights))
    return model


def _load_weights(model: keras.Model, hdf5: io.BytesIO) -> None:
    """`Model.load_weights`, which takes no file in memory."""
    failed: set[int] = set()
    errors: dict[int, Any] = {}
    with contextlib.closing(saving_lib.H5IOStore(hdf5)) as store:
        seen: set[int] = set()
        saving_lib._load_state(
            model, store, None, "", visited_saveables=seen, failed_saveables=failed, error_msgs=errors
        )
    if failed:
        _, error = next(iter(errors.values()))
        raise ValueError(f"{len(failed)} layers do not fit its weights: {error}")


def _build(config: dict[str, Any], numbers: int) -> Any:
    try:
        if counted := with_registered(config, "Normalization"):
            objects = {"Normalization": _counting(numbers)}
            with _nothing_made(numbers, discard=True), ObjectSharingScope(), keras.saving.custom_object_scope(objects):
                keras.saving.deserialize_keras_object(counted)
        with _nothing_made(numbers), ObjectSharingScope():
            return keras.saving.deserialize_keras_object(config)
    except (TypeError, ValueError) as error:
        # Your own layers may make variables of numbers, which Keras cannot put off.
        if _IN_SCOPE not in str(error) or not names_own_classes(config, keras.saving.get_registered_object):
            raise
    with ObjectSharingScope():
        return keras.saving.deserialize_keras_object(config)


def _counting(numbers: int) -> type[keras.layers.Layer]:
    """In place of Normalization, whose `build` computes with as many numbers as its input has channels."""

    class Counting(keras.layers.Layer):
        def __init__(self, axis: Any = -1, mean: Any = None, variance: Any = None, invert: Any = False, **options: Any):
            super().__init__(**options)
            self.axis = [axis] if isinstance(axis, int) else axis or ()

        def build(self, input_shape: tuple[int | None, ...]) -> None:
            wanted = math.prod(input_shape[axis] or 1 for axis in self.axis)
            if wanted > numbers + SPARE:
                raise ValueError(f"Normalization of {wanted} channels, but the weights file holds {numbers} numbers")

        def call(self, inputs: Any) -> Any:
            return inputs

    return Counting


@contextmanager
def _nothing_made(numbers: int, discard: bool = False) -> Iterator[None]:
    """Keras puts off the memory of variables made inside, until all of them are known to fit the weights file."""
    earlier = global_state.get_global_attribute(_WAITING)
    made: list[Any] = []
    global_state.set_global_attribute(_WAITING, made)
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
        wanted = sum(math.prod(variable.shape) for variable in made)
        if wanted > numbers + SPARE:
            raise ValueError(f"its config.json asks for {wanted} numbers, but the weights file holds {numbers}")
        if not discard:
            with keras.StatelessScope():
                pass  # makes them on its exit
    finally:
        global_state.set_global_attribute(_WAITING, earlier)
