"""All that an export asks of a model, found out once: what it computes, at which size, and what its outputs mean."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np

from ..labels import class_names
from ..network.input_preprocessing import Given
from ..preprocessing import Preprocessing
from ..runtimes.keras_model import image_input, output_kind
from .export_options import is_positive
from .inference_network import build_network, check_image_size, classes_of
from .report import expected_outputs, sample_images


@dataclass(frozen=True)
class PreparedModel:
    """A model and the network that its export holds.

    Attributes:
        model: as it was given.
        network: `images`, float32 (batch, height, width, 3), RGB 0..255, to a dictionary of `probabilities` (batch,
            classes), if it is a classifier, and `features` (batch, channels), if it has such.
        size: height and width of the images.
        resize: shorter side of an image before the centre crop.
        preprocessing: of its images, as the graph normalises them.
        classes: how many; None for a network that gives features.
        labels: a name for each class.
        kind: of its scores, one of `runtimes.KINDS`; None without classes.
    """

    model: keras.Model
    network: keras.Model
    size: tuple[int, int]
    resize: int
    preprocessing: Preprocessing
    classes: int | None
    labels: tuple[str, ...]
    kind: str | None

    @property
    def output(self) -> str:
        """The output that counts: `probabilities`, or `features` where there are no classes."""
        return "probabilities" if self.classes else "features"

    def describe_preprocessing(self) -> dict[str, Any]:
        """What is recorded in an export: how images are resized and cropped, and what the graph normalises by."""
        return {**asdict(self.preprocessing), "size": self.size, "resize": self.resize}

    def describe(self) -> dict[str, Any]:
        """What every export records: the preprocessing, and what the scores mean."""
        kind = {"kind": self.kind} if self.kind else {}
        return {"preprocessing": self.describe_preprocessing(), **kind}

    def sample(self, images: Sequence[str | os.PathLike[str]] | None) -> np.ndarray:
        """Images to verify with: random ones, digits, and those at the paths `images`."""
        return sample_images(self.size, self.preprocessing, images)

    def expect(self, samples: np.ndarray) -> np.ndarray:
        """What the Keras model gives for `samples`: probabilities or features."""
        return expected_outputs(self.model, samples, self.preprocessing, self.kind)


def prepare(
    model: keras.Model,
    target: str,
    *,
    image_size: int | tuple[int, int] | None = None,
    labels: Sequence[str] | None = None,
    resize_size: int | None = None,
    preprocessing: Given = None,
    kind: str | None = None,
) -> PreparedModel:
    """Puts the normalisation before a model and a softmax or sigmoid behind its logits, and joins what can be joined.

    Args:
        model: classifier of RGB images, to (batch, classes) scores or logits; or a network that gives pooled features
            (batch, channels) or one map (batch, height, width, channels).
        target: "cpu", "gpu" or "portable", as in `fuse`.
        image_size: height and width, where the model leaves them free; default as its preprocessing has it.
        labels: one name a class; default as `labels.class_names` has it.
        resize_size: shorter side before the centre crop; default as the model's own preprocessing has it.
        preprocessing, kind: as in `ExportOptions`.

    Raises:
        ValueError: a model that is neither, a size that it cannot have, labels that do not fit, or a model that does
            not say how its images are prepared or what it gives where nothing else says it.
        RuntimeError: Keras runs on another backend than TensorFlow.
    """
    classes = classes_of(model)
    check_image_size(model, image_size)
    for given, value in ((f"labels={labels!r} are", labels), (f"kind={kind!r} is", kind)):
        if value is not None and not classes:
            raise ValueError(f"{given} for classes, and model={model.name!r} gives features")
    size, prepared = image_input(model, image_size, preprocessing)
    kind = kind or output_kind(model) if classes else None
    network = build_network(model, target, size, prepared, kind)
    resize = prepared.resize if resize_size is None else resize_size
    if not is_positive(resize) or resize < min(size):
        raise ValueError(f"resize_size={resize_size!r} must be an integer of at least {min(size)}, the image size")
    names = tuple(class_names(labels, classes)) if classes else ()
    return PreparedModel(model, network, size, resize, prepared, classes, names, kind)
