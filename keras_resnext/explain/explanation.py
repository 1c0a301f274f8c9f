"""Why a classifier says what it says, drawn: where it sees a class, and what a layer shows."""

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

import keras
import numpy as np

from ..classifier import Classifier, Model, open_classifier
from ..network.input_preprocessing import Given
from ..preprocessing import load_image, preprocess_input
from ..runtimes.keras_model import check_images, image_input
from .class_activation import METHODS, grad_cam
from .drawing import draw_explanation, draw_feature_maps
from .features import feature_maps
from .probing import SHOWN_CHOICES, find_layer

SHOWN_LETTERS = 45  # of a class name; wider would leave the image


@dataclass(frozen=True)
class Explanation:
    """Why an image was classified as it was.

    Attributes:
        path: the PNG.
        class_index, class_name, score: the class that is explained; its score is as of `Classifier.scores`.
        layer: name of the layer whose map was used.
        heat: float32 (height, width) of the layer's map, on 0..1.
    """

    path: Path
    class_index: int
    class_name: str
    score: float
    layer: str
    heat: np.ndarray


def explain_image(
    model: Model,
    image: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    layer: str | None = None,
    class_index: int | str | None = None,
    method: str = "grad_cam",
    labels: Sequence[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    preprocessing: Given = None,
    kind: str | None = None,
) -> Explanation:
    """Writes a PNG: the image as the model sees it, and over it where the model sees a class.

    Args:
        model: classifier of images, as in `open_classifier`; no export, whose layers cannot be looked into.
        image: image file, prepared as the model's own preprocessing says.
        path: of the PNG.
        layer, method: as in `grad_cam`.
        class_index: number or name of the class, label or number to explain; default that of the highest score, as in
            `grad_cam`.
        labels: class names; default as the classifier has them: beside it, ImageNet's for 1000 classes, else numbers.
        image_size: height and width where the model leaves them free; default as its preprocessing has it.
        preprocessing, kind: as in `open_classifier`; needed where the model does not say it.

    Raises:
        FileNotFoundError: no such image, or no folder for the PNG.
        ValueError: as `grad_cam` and `open_classifier`; an export, or an image that cannot be read.
    """
    classifier = open_classifier(model, image_size=image_size, labels=labels, preprocessing=preprocessing, kind=kind)
    network, names = network_of(classifier), classifier.names
    pixels = classifier.read(image)
    scores = classifier.scores(pixels[None])[0]
    index = int(scores.argmax()) if class_index is None else _class_number(class_index, names)
    heat = grad_cam(network, classifier.prepare(pixels[None]), layer=layer, class_index=index, method=method)[0]
    name = find_layer(network, layer).name
    shown = names[index] if len(names[index]) <= SHOWN_LETTERS else f"{names[index][: SHOWN_LETTERS - 1]}…"
    score = f"{scores[index]:.4g}" if classifier.kind == "raw" else f"{scores[index]:.1%}"
    found = Explanation(Path(path), index, names[index], float(scores[index]), name, heat)
    draw_explanation(path, pixels, heat, f"{shown}, {score}", f"{METHODS[method][0]} at {name}")
    return found


def network_of(classifier: Classifier) -> keras.Model:
    """The Keras model whose layers can be looked into; raises ValueError for an export."""
    if classifier.model is None:
        raise ValueError(
            f"model={classifier.name!r} is an export, whose layers cannot be looked into; explaining needs the Keras "
            "model or checkpoint that it was made from"
        )
    return classifier.model


def explain_feature_maps(
    model: keras.Model,
    image: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    layer: str | None = None,
    count: int = 15,
    image_size: int | tuple[int, int] | None = None,
    preprocessing: Given = None,
) -> list[int]:
    """Writes a PNG: the image as the model sees it, and the channels of a layer's map that are strongest on average.

    Args:
        model: a Keras model of images; it needs no head.
        image, path, layer, image_size, preprocessing: as in `explain_image`.
        count: channels shown, at least 1; fewer where the layer has fewer.

    Returns:
        The channels, strongest first.

    Raises:
        FileNotFoundError, ValueError: as `explain_image`.
    """
    if not isinstance(count, Integral) or count < 1:
        raise ValueError(f"count={count!r} must be a positive integer")
    check_images(model)
    size, how = image_input(model, image_size, preprocessing)
    pixels = load_image(image, size, resize=how.resize, interpolation=how.interpolation, exif=how.exif)
    maps = feature_maps(model, preprocess_input(pixels[None], how), layer)[0]
    chosen = np.argsort(-np.abs(maps).mean(axis=(0, 1)), kind="stable")[:count].tolist()
    title = f"{len(chosen)} strongest of {maps.shape[-1]} channels at {find_layer(model, layer).name}"
    draw_feature_maps(path, pixels, {channel: maps[..., channel] for channel in chosen}, title)
    return chosen


def _class_number(wanted: int | str, names: Sequence[str]) -> int:
    """The number of the class that is called `wanted`, else has this number."""
    matches = [i for i, name in enumerate(names) if name == wanted]
    if len(matches) > 1:
        raise ValueError(f"class={wanted!r} is the name of the classes {', '.join(map(str, matches))}; give the number")
    if matches:
        return matches[0]
    if str(wanted).isdecimal() and int(wanted) < len(names):
        return int(wanted)
    close = difflib.get_close_matches(str(wanted), names, SHOWN_CHOICES) or list(names[:SHOWN_CHOICES])
    raise ValueError(
        f"class={wanted!r} is neither a class nor a number in 0..{len(names) - 1}; names are such as {', '.join(close)}"
    )
