"""How a model wants its images prepared: carried by a layer wherever the network goes, found in it, or asked for."""

import difflib
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import keras

from ..files import read_text
from ..preprocessing import Preprocessing
from .structure import Structure

Tensor = Any
Given = str | os.PathLike[str] | Preprocessing | None

# By name, Keras's three modes (keras.applications.imagenet_utils) and nothing at all. Keras's own examples take whole
# images; torchvision cuts the border off.
NAMED = {
    "imagenet": Preprocessing(),
    "none": Preprocessing(resize=224, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    "tf": Preprocessing(resize=224, mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5)),
    "caffe": Preprocessing(resize=224, mean=(123.68, 116.779, 103.939), std=(1.0, 1.0, 1.0), channels="BGR"),
}

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

    Of other channels than red, green and blue each has the average of the three, as timm has it.

    Args:
        size: (height, width) in pixels, None where the network leaves one free. `Preprocessing` crops squares: of a
            network that is not square, the shorter side is taken.
        structure: whose usual size is taken where the network has none.
    """
    fixed = [side for side in size if side is not None]
    found = Preprocessing(min(fixed) if len(fixed) == 2 else structure.usual_size)
    if structure.in_channels == 3:
        return found
    mean, std = ((sum(values) / 3,) * structure.in_channels for values in (found.mean, found.std))
    return replace(found, mean=mean, std=std)


def get_preprocessing(model: keras.Model) -> Preprocessing:
    """How `model` wants its images prepared outside: as came with its weights, else as is usual for ImageNet.

    A model that scales inside, before its first weights, takes RGB on 0..255: mean 0, deviation 1. `predict`,
    `evaluate`, exports and `explain` assume nothing: they ask for `preprocessing` where a model says nothing.
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
        side = min(sides) if len(sides) == 2 else NAMED["none"].size
        return normalised_as(known or replace(NAMED["none"], size=side, resize=side), NAMED["none"])
    return known


def choose_preprocessing(model: keras.Model, given: Given = None) -> Preprocessing:
    """How images are prepared for `model`: as `given`, else as it records or shows.

    Args:
        given: as in `named_preprocessing`. A name says how images are normalised: size, crop and interpolation stay as
            the model records them. A warning says what is replaced.

    Raises:
        ValueError, FileNotFoundError: as `named_preprocessing`; nothing is given, and the model says nothing.
    """
    known = find_preprocessing(model)
    if given is None and known is None:
        raise ValueError(
            f"model={model.name!r} does not say how its images are prepared; give preprocessing="
            f"{'|'.join(NAMED)}|FILE: torchvision's mean and deviation, 0..255 as they are, -1..1, BGR less the mean, "
            "or JSON"
        )
    return named_preprocessing(given) if known is None else replace_preprocessing(known, given, model.name)


def replace_preprocessing(known: Preprocessing, given: Given, model: str) -> Preprocessing:
    """As `choose_preprocessing`, where it is known what the model of this name records."""
    if given is None:
        return known
    chosen = named_preprocessing(given)
    if not isinstance(given, Preprocessing) and os.fspath(given) in NAMED:
        chosen = normalised_as(known, chosen)
    if chosen != normalised_as(chosen, known):
        warnings.warn(
            f"the preprocessing that is given replaces that of model={model!r}: mean {known.mean}, deviation "
            f"{known.std}, {known.channels}",
            stacklevel=2,  # one place, so that it is said once
        )
    return chosen


def named_preprocessing(given: Given) -> Preprocessing:
    """The preprocessing that `given` names.

    Args:
        given: a `Preprocessing`; "imagenet": torchvision's mean and deviation; "none": 0..255 as they are; "tf": -1..1;
            "caffe": BGR less ImageNet's mean; or the path of a JSON file with the fields of a `Preprocessing`, such as
            {"mean": [127.5, 127.5, 127.5], "std": [127.5, 127.5, 127.5]}.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another name, or a file that does not hold a preprocessing.
    """
    if isinstance(given, Preprocessing):
        return given
    if not isinstance(given, str | os.PathLike):
        raise ValueError(f"preprocessing={given!r} must be one of {', '.join(NAMED)}, a path or a Preprocessing")
    text, path = os.fspath(given), Path(given)
    if text in NAMED:
        return NAMED[text]
    if not path.is_file():
        if path.suffix or len(path.parts) > 1:
            raise FileNotFoundError(f"preprocessing={text!r}: there is no such file")
        near = difflib.get_close_matches(text, NAMED, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"preprocessing={text!r} must be one of {', '.join(NAMED)}, or a JSON file{meant}")
    try:
        return preprocessing_of(json.loads(read_text(path)))
    except ValueError as error:
        raise ValueError(f"preprocessing={text!r} does not hold a preprocessing as JSON: {error}") from None


def preprocessing_of(facts: Any) -> Preprocessing:
    """A preprocessing of its fields, as JSON and the manifests of exports have them; what is left out is as usual.

    Raises:
        ValueError: no dictionary, unknown fields, or values out of range.
    """
    known = [field.name for field in fields(Preprocessing)]
    if not isinstance(facts, dict) or not facts or (unknown := sorted(facts.keys() - set(known))):
        wrong = f"{unknown[0]!r} is no field" if isinstance(facts, dict) and facts else "no field is there"
        raise ValueError(f"{wrong}; fields are {', '.join(known)}")
    size = facts.get("size")
    if isinstance(size, list) and all(isinstance(side, int) for side in size) and size:  # height, width: a manifest's
        facts = {**facts, "size": min(size)}
    return Preprocessing(**facts)


def normalised_as(preprocessing: Preprocessing, other: Preprocessing) -> Preprocessing:
    """`preprocessing` with the mean, the deviation and the channels of another."""
    return replace(preprocessing, mean=other.mean, std=other.std, channels=other.channels)


def set_preprocessing(model: keras.Model, preprocessing: Preprocessing) -> None:
    """Has `model` remember how its images are prepared; prediction, evaluation and exports follow.

    Models built by `ResNeXt`, or on top of one, keep it when they are saved or cloned. Other models forget it when the
    program ends.

    Raises:
        ValueError: `preprocessing` is not a `Preprocessing`, or the model does not take images of as many channels.
    """
    if not isinstance(preprocessing, Preprocessing):
        raise ValueError(f"preprocessing={preprocessing!r} must be a Preprocessing")
    shapes = [tuple(tensor.shape) for tensor in getattr(model, "inputs", None) or ()]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][3] != preprocessing.bands:
        wanted = f"images of {preprocessing.bands} channels, for which the preprocessing is"
        raise ValueError(f"model={model.name!r} must take {wanted}; it takes {shapes}")
    if (layer := _find_record(model)) is not None:
        layer.preprocessing = preprocessing
        return
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
