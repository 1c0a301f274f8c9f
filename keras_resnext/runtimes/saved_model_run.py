"""Runs a SavedModel in TensorFlow, without Keras."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def load_run(path: Path, output: str) -> Callable[[np.ndarray], np.ndarray]:
    """A function from images (batch, height, width, 3) on 0..255 to float32 outputs of `serving_default`.

    It has the signature as its attribute `signature`.

    Raises:
        KeyError: there is no such signature. TensorFlow raises errors of several kinds for files that it cannot read.
    """
    import tensorflow as tf

    loaded: Any = tf.saved_model.load(str(path))
    signature = loaded.signatures["serving_default"]

    def run(images: np.ndarray) -> np.ndarray:
        return np.asarray(signature(images=tf.constant(images, tf.float32))[output], "float32")

    run.loaded = loaded  # type: ignore[attr-defined]  # its variables last as long as this does
    run.signature = signature  # type: ignore[attr-defined]
    return run
