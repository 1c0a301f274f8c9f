"""How a model wants its images prepared, carried by a layer so that the knowledge goes wherever the network goes."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import keras

from ..preprocessing import Preprocessing
from .structure import Structure

Tensor = Any


@keras.saving.register_keras_serializable(package="keras_resnext")
class InputPreprocessing(keras.layers.Layer):
    """Passes images on as they are; its configuration tells how they were prepared.

    A layer, so that the knowledge goes wherever the network goes: into saved files and clones, and into models that are
    built on top of this one. `preprocessing.get_preprocessing` finds it.

    Args:
        preprocessing: a `Preprocessing` or its fields as a dictionary, as `get_config` gives them.
    """

    def __init__(self, preprocessing: Preprocessing | dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        if isinstance(preprocessing, dict):
            preprocessing = Preprocessing(**preprocessing)
        self.preprocessing = preprocessing or Preprocessing()

    def call(self, inputs: Tensor) -> Tensor:
        return inputs

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "preprocessing": asdict(self.preprocessing)}


def usual_preprocessing(size: Sequence[int | None], structure: Structure) -> Preprocessing:
    """What a network is made for where nothing else is said: ImageNet's means at its own size.

    Args:
        size: (height, width) in pixels, None where the network leaves one free. `Preprocessing` crops squares: of a
            network that is not square, the shorter side is taken.
        structure: whose usual size is taken where the network has none.
    """
    fixed = [side for side in size if side is not None]
    return Preprocessing(min(fixed) if len(fixed) == 2 else structure.usual_size)


def get_preprocessing(model: keras.Model) -> Preprocessing:
    """How `model` wants its images prepared: as came with its weights, else as is usual for ImageNet."""
    layer = _find_record(model)
    return layer.preprocessing if layer else Preprocessing()


def set_preprocessing(model: keras.Model, preprocessing: Preprocessing) -> None:
    """Has `model` remember how its images are prepared; saved files, clones, prediction and exports follow.

    Raises:
        ValueError: `preprocessing` is no `Preprocessing`, or the model was not built by `ResNeXt` on RGB images.
    """
    if not isinstance(preprocessing, Preprocessing):
        raise ValueError(f"preprocessing={preprocessing!r} must be a Preprocessing")
    layer = _find_record(model)
    if layer is None:
        raise ValueError(
            f"model={model.name!r} must be built by ResNeXt on three channels to remember its preprocessing"
        )
    layer.preprocessing = preprocessing


def _find_record(model: keras.Model) -> InputPreprocessing | None:
    for layer in model.layers:
        found = _find_record(layer) if isinstance(layer, keras.Model) else layer
        if isinstance(found, InputPreprocessing):
            return found
    return None
