"""How much each place of an image speaks for a class: Grad-CAM and Grad-CAM++.

Any functional or Sequential model of RGB images, with models inside it or without, on TensorFlow and JAX.
"""

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import keras
import numpy as np
from keras import ops

from ..runtimes.keras_model import check_classifier, last_operation
from .probing import (
    Recorder,
    Substitutes,
    as_float64,
    check_batch,
    find_layer,
    gradient,
    run,
    without_activation,
)

Tensor = Any


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
        class_index: one class for all images, or one for each; default that of the highest score. What is explained is
            its score before softmax or sigmoid; of a model of numbers, what makes the number larger.
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
    images = check_batch(model, images)
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
    maps, weigh = as_float64(seen.tensor), METHODS[method][1]
    heat = np.maximum((weigh(maps, as_float64(gradients)) * maps).sum(-1), 0)
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
