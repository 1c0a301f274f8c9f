"""How a model wants its images prepared, carried by a layer so that the knowledge goes wherever the network goes."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import keras

from ..preprocessing import Preprocessing
from .structure import Structure

Tensor = Any

_OWN = "_keras_resnext_preprocessing"  # attribute of models that have no record of their own
_SCALING_LAYERS = (keras.layers.Rescaling, keras.layers.Normalization)
# Operations that scale where they stand before all weights, such as `x / 255` and Keras's `preprocess_input`.
_ARITHMETIC = {"Add", "BiasAdd", "Divide", "Multiply", "Subtract", "TrueDivide"}


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
    """How `model` wants its images prepared outside: as came with its weights, else as is usual for ImageNet.

    A model that scales inside, before its first weights, takes RGB on 0..255: mean 0, deviation 1.
    """
    return find_preprocessing(model) or Preprocessing()


def find_preprocessing(model: keras.Model) -> Preprocessing | None:
    """As `get_preprocessing`; None where neither the model nor `set_preprocessing` says anything."""
    layer = _find_record(model)
    own: Preprocessing | None = getattr(model, _OWN, None)
    known = layer.preprocessing if layer else own
    if own is None and _first_that_counts(model) == "scaling":
        shape = getattr(model, "input_shape", None)
        sides = [side for side in shape[1:3] if side] if isinstance(shape, tuple) and len(shape) == 4 else []
        known = known or (Preprocessing(min(sides)) if len(sides) == 2 else Preprocessing())
        return replace(known, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return known


def set_preprocessing(model: keras.Model, preprocessing: Preprocessing) -> None:
    """Has `model` remember how its images are prepared; prediction, evaluation and exports follow.

    A model built by `ResNeXt`, or on one, keeps it in saved files and clones; any other as long as it is in memory.

    Raises:
        ValueError: `preprocessing` is not a `Preprocessing`, or the model does not take RGB images.
    """
    if not isinstance(preprocessing, Preprocessing):
        raise ValueError(f"preprocessing={preprocessing!r} must be a Preprocessing")
    if (layer := _find_record(model)) is not None:
        layer.preprocessing = preprocessing
        return
    shapes = [tuple(tensor.shape) for tensor in getattr(model, "inputs", None) or ()]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][3] != 3:
        raise ValueError(f"model={model.name!r} must take RGB images to have a preprocessing; it takes {shapes}")
    setattr(model, _OWN, preprocessing)


def _find_record(model: keras.Model) -> InputPreprocessing | None:
    for layer in model.layers:
        found = _find_record(layer) if isinstance(layer, keras.Model) else layer
        if isinstance(found, InputPreprocessing):
            return found
    return None


def _first_that_counts(model: keras.Model) -> str:
    """What an image meets first: "scaling" by constants, the "record" of a preprocessing, "weights", or "" for none."""
    operations = model.layers if isinstance(model, keras.Sequential) else getattr(model, "operations", model.layers)
    for operation in operations:  # in the order in which they run
        if isinstance(operation, keras.Model):
            if found := _first_that_counts(operation):
                return found
        elif isinstance(operation, InputPreprocessing):
            return "record"
        elif isinstance(operation, _SCALING_LAYERS) or (
            not isinstance(operation, keras.Layer) and type(operation).__name__ in _ARITHMETIC
        ):
            return "scaling"
        elif getattr(operation, "weights", None):
            return "weights"
    return ""
