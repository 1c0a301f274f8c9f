"""What a classifier looks at: Grad-CAM, Grad-CAM++, feature maps, and features for retrieval.

Any functional or Sequential model of RGB images, with models inside it or without, on TensorFlow and JAX.
"""

import difflib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from ..labels import class_names
from ..network.input_preprocessing import get_preprocessing
from ..prediction import image_reader
from ..preprocessing import preprocess_input
from ..runtimes.keras_model import check_classifier, check_images, last_activation, last_operation
from .drawing import draw_explanation, draw_feature_maps
from .probing import SHOWN_CHOICES, Recorder, Substitutes, find_head, find_layer, gradient, run, without_activation

Tensor = Any

SHOWN_LETTERS = 45  # of a class name; wider would leave the image


@dataclass(frozen=True)
class Explanation:
    """Why an image was classified as it was.

    Attributes:
        path: the PNG.
        class_index, class_name, score: the class that is explained; its score is the model's, logits through softmax.
        layer: name of the layer whose map was used.
        heat: float32 (height, width) of the layer's map, on 0..1.
    """

    path: Path
    class_index: int
    class_name: str
    score: float
    layer: str
    heat: np.ndarray


def grad_cam(
    model: keras.Model,
    images: np.ndarray,
    *,
    layer: str | None = None,
    class_index: int | Sequence[int] | None = None,
    method: str = "grad_cam",
) -> np.ndarray:
    """How much each place of a layer's map speaks for a class.

    Args:
        model: classifier of images.
        images: (n, height, width, 3), prepared as the model takes them (`preprocess_input`).
        layer: name of one whose output is a map, also one of a model inside; default the last that is larger than 1x1.
        class_index: one class for all images, or one for each; default the predicted ones.
        method: "grad_cam" (arXiv 1610.02391, section 3) or "grad_cam++" (arXiv 1710.11063, equations 10 and 19), which
            shows all of several objects of one class, and is made for maps behind a ReLU.

    Returns:
        float32 (n, h, w) in the size of the layer's map. The strongest place of each image is 1; 0 speaks not for the
        class, and where no place does all are 0.

    Raises:
        ValueError: a model that is no classifier, images of another shape, or an unknown layer, class or method.
        RuntimeError: Keras runs on another backend than TensorFlow or JAX.
    """
    classes = check_classifier(model)
    if method not in METHODS:
        raise ValueError(f"method={method!r} must be one of {', '.join(METHODS)}")
    images = _check_images(model, images)
    chosen = find_layer(model, layer)
    last = last_operation(model)

    def forward(instead: Substitutes) -> Tensor:
        return ops.cast(
            run(model, ops.convert_to_tensor(images), {last: without_activation(last), **instead}), "float32"
        )

    # Once to see the map, and once to differentiate what follows from it.
    seen = Recorder(chosen)
    logits = ops.convert_to_numpy(forward({chosen: seen}))
    wanted = _check_classes(class_index, logits)
    mask = ops.one_hot(ops.convert_to_tensor(wanted, "int32"), classes, dtype="float32")
    gradients = gradient(lambda maps: ops.sum(forward({chosen: lambda *_, **__: maps}) * mask), seen.tensor)
    maps, weigh = _as_float64(seen.tensor), METHODS[method][1]
    heat = np.maximum((weigh(maps, _as_float64(gradients)) * maps).sum(-1), 0)
    strongest = heat.max(axis=(1, 2), keepdims=True)
    return np.divide(heat, strongest, out=np.zeros_like(heat), where=strongest > 0).astype("float32")


def _grad_cam_weights(maps: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Equation 1 of arXiv 1610.02391."""
    return gradients.mean(axis=(1, 2), keepdims=True)


def _grad_cam_plus_plus_weights(maps: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Equations 10 and 19 of arXiv 1710.11063, for the class score exp(logit).

    Its derivatives are exp(logit) times powers of the logit's own; that factor is the same at all places of an image,
    so it is left out.
    """
    squares = gradients**2
    divisors = 2 * squares + maps.sum(axis=(1, 2), keepdims=True) * gradients**3
    alphas = np.divide(squares, divisors, out=np.zeros_like(squares), where=divisors != 0)
    return (alphas * np.maximum(gradients, 0)).sum(axis=(1, 2), keepdims=True)


# Name -> (what it is called in images, weights of the channels from maps and gradients).
METHODS: dict[str, tuple[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    "grad_cam": ("Grad-CAM", _grad_cam_weights),
    "grad_cam++": ("Grad-CAM++", _grad_cam_plus_plus_weights),
}


def feature_maps(model: keras.Model, images: np.ndarray, layer: str | None = None) -> np.ndarray:
    """What a layer gives for images.

    Args:
        model: of images, with a head or without.
        images: (n, height, width, 3), prepared as the model takes them.
        layer: as in `grad_cam`.

    Returns:
        float32 (n, h, w, channels).

    Raises:
        ValueError: images of another shape, or an unknown layer.
    """
    check_images(model)
    images = _check_images(model, images)
    chosen = find_layer(model, layer)
    seen = Recorder(chosen)
    run(model, ops.convert_to_tensor(images), {chosen: seen})
    return _as_float64(seen.tensor).astype("float32")


def extract_features(
    model: keras.Model,
    files: Sequence[str | os.PathLike[str]],
    *,
    layer: str | None = None,
    batch_size: int = 8,
    image_size: int | None = None,
) -> np.ndarray:
    """Features of image files, prepared as the model's own preprocessing says, for retrieval and clustering.

    Args:
        model: of images, with a head or without.
        files: paths.
        layer: name of one whose map is averaged over its places; default what the head takes: the input of the last
            dense layer, else the model's own output, averaged if it is a map.
        batch_size: images that run together.
        image_size: height and width where the model leaves them free; default as its preprocessing has it.

    Returns:
        float32 (files, channels), in the order of `files`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no files, an image that is none, an unknown layer, or a model whose features cannot be told.
    """
    check_images(model)
    if not files:
        raise ValueError("files is empty; it must name at least one image")
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r} must be a positive integer")
    read, preprocessing = image_reader(model, image_size), get_preprocessing(model)
    chosen = find_layer(model, layer) if layer is not None else find_head(model)
    rows = []
    for start in range(0, len(files), batch_size):
        pixels = np.stack([read(path) for path in files[start : start + batch_size]])
        images = ops.convert_to_tensor(preprocess_input(pixels, preprocessing))
        if chosen is None:
            features = run(model, images, {})
        else:
            seen = Recorder(chosen, of_input=layer is None)
            run(model, images, {chosen: seen})
            features = seen.tensor
        array = _as_float64(features)
        rows.append((array.mean(axis=(1, 2)) if array.ndim == 4 else array).astype("float32"))
    return np.concatenate(rows)


def explain_image(
    model: keras.Model,
    image: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    layer: str | None = None,
    class_index: int | str | None = None,
    method: str = "grad_cam",
    labels: Sequence[str] | None = None,
    image_size: int | None = None,
) -> Explanation:
    """Writes a PNG: the image as the model sees it, and over it where the model sees a class.

    Args:
        model: classifier of images.
        image: image file, prepared as the model's own preprocessing says.
        path: of the PNG.
        layer, method: as in `grad_cam`.
        class_index: number or name of the class to explain; default the predicted one.
        labels: class names; default ImageNet's for 1000 classes, else the numbers.
        image_size: height and width where the model leaves them free; default as its preprocessing has it.

    Raises:
        FileNotFoundError: no such image, or no folder for the PNG.
        ValueError: as `grad_cam`; an image that is none, or labels of the wrong number.
    """
    names = class_names(labels, check_classifier(model))
    pixels = image_reader(model, image_size)(image)
    images = preprocess_input(pixels[None], get_preprocessing(model))
    scores = model(images, training=False)
    scores = ops.softmax(scores) if last_activation(model) is keras.activations.linear else scores
    scores = ops.convert_to_numpy(ops.cast(scores, "float32"))[0]
    index = int(scores.argmax()) if class_index is None else _class_number(class_index, names)
    heat = grad_cam(model, images, layer=layer, class_index=index, method=method)[0]
    name = find_layer(model, layer).name
    shown = names[index] if len(names[index]) <= SHOWN_LETTERS else f"{names[index][: SHOWN_LETTERS - 1]}…"
    found = Explanation(Path(path), index, names[index], float(scores[index]), name, heat)
    draw_explanation(path, pixels, heat, f"{shown}, {scores[index]:.1%}", f"{METHODS[method][0]} at {name}")
    return found


def explain_feature_maps(
    model: keras.Model,
    image: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    layer: str | None = None,
    count: int = 15,
    image_size: int | None = None,
) -> list[int]:
    """Writes a PNG: the image as the model sees it, and the channels of a layer's map that are strongest on average.

    Args:
        model, image, path, layer, image_size: as in `explain_image`; the model needs no head.
        count: channels shown, at least 1; fewer where the layer has fewer.

    Returns:
        The channels, strongest first.

    Raises:
        FileNotFoundError, ValueError: as `explain_image`.
    """
    if not isinstance(count, Integral) or count < 1:
        raise ValueError(f"count={count!r} must be a positive integer")
    check_images(model)
    pixels = image_reader(model, image_size)(image)
    maps = feature_maps(model, preprocess_input(pixels[None], get_preprocessing(model)), layer)[0]
    chosen = np.argsort(-np.abs(maps).mean(axis=(0, 1)), kind="stable")[:count].tolist()
    title = f"{len(chosen)} strongest of {maps.shape[-1]} channels at {find_layer(model, layer).name}"
    draw_feature_maps(path, pixels, {channel: maps[..., channel] for channel in chosen}, title)
    return chosen


def _check_images(model: keras.Model, images: Any) -> np.ndarray:
    array = np.asarray(images, "float32")
    wanted = tuple(model.inputs[0].shape)
    if array.ndim != 4 or not len(array) or any(w not in (None, s) for w, s in zip(wanted, array.shape, strict=True)):
        raise ValueError(f"images must have shape {wanted}, with at least one image; got {array.shape}")
    return array


def _check_classes(class_index: Any, logits: np.ndarray) -> np.ndarray:
    if class_index is None:
        return logits.argmax(axis=1)
    count, classes = logits.shape
    given = [class_index] * count if isinstance(class_index, Integral) else class_index
    listed = isinstance(given, list | tuple | np.ndarray) and len(given) == count
    if not listed or not all(isinstance(index, Integral) and 0 <= int(index) < classes for index in given):
        raise ValueError(
            f"class_index={class_index!r} must be an integer in 0..{classes - 1}, or one for each of {count} images"
        )
    return np.asarray(given)


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


def _as_float64(tensor: Tensor) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(ops.cast(tensor, "float32")), "float64")
