"""Distillation: a network learns from a teacher's scores beside the labels (Hinton et al., arXiv 1503.02531)."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from ..classifier import Classifier, open_classifier
from ..network.input_preprocessing import get_preprocessing
from ..preprocessing import Preprocessing, preprocess_input
from .record import digest
from .step import gives_logits
from .train_options import TeacherOptions

Tensor = Any


@keras.saving.register_keras_serializable(package="keras_resnext")
class SoftTargets(keras.losses.Loss):
    """T² KL(softmax(teacher / T) ‖ softmax(student / T)) in nats: (n, classes) logits each, to (n,).

    Its gradient is that of the cross-entropy with the teacher's softened scores, and T² keeps its size beside the
    labels' (arXiv 1503.02531, section 2); where both agree it is 0.

    Args:
        temperature: T.
    """

    def __init__(self, temperature: float = 1.0, name: str = "soft_targets", **options: Any) -> None:
        super().__init__(name=name, **options)
        self.temperature = temperature

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        teacher = ops.log_softmax(ops.cast(y_true, "float32") / self.temperature, axis=-1)
        student = ops.log_softmax(ops.cast(y_pred, "float32") / self.temperature, axis=-1)
        return self.temperature**2 * ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperature": self.temperature}


@dataclass(frozen=True)
class Distillation:
    """Who teaches, and how much that counts: loss = (1 - weight) · labels' + weight · `SoftTargets`.

    The defaults are those of arXiv 1910.10699 for Hinton's loss.

    Attributes:
        teacher: a Keras model as of `open_classifier`. It gets the images that the student gets, crop and mixing
            included, at its own size and normalised in its own way.
        weight: share of the teacher's part, above 0 and up to 1, where labels do not count.
        temperature: above 0.

    Raises:
        ValueError: a number out of range, or a teacher that is an export or does not give one class an image.
    """

    teacher: Classifier
    weight: float = 0.9
    temperature: float = 4.0

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise ValueError(f"distill_weight={self.weight!r} must be above 0 and at most 1")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature!r} must be a number above 0")
        if self.teacher.model is None:
            raise ValueError(f"teacher={self.teacher.name!r} is an export; give the Keras model that it was made from")
        if self.teacher.kind != "single":
            raise ValueError(
                f"teacher={self.teacher.name!r} gives {self.teacher.kind!r} scores; it must give one class an image"
            )

    def describe(self) -> dict[str, Any]:
        """What makes a run the same one when it is resumed: the teacher's weights by their SHA-256, and the numbers."""
        return {"teacher": digest(self.teacher.model), "distill_weight": self.weight, "temperature": self.temperature}

    @contextmanager
    def applied(self, model: keras.Model, classes: Sequence[str]) -> Iterator[None]:
        """Inside, training `model` also minimises the distance to the teacher; validation does not change.

        Args:
            model: the student; what is saved of it holds nothing of the teacher.
            classes: names of its classes.

        Raises:
            ValueError: the teacher has other classes.
        """
        order = find_order(self.teacher, classes)
        ask = make_teacher(self.teacher, get_preprocessing(model), order)
        soft, own = SoftTargets(self.temperature), model.compute_loss
        gives_logits(model)  # or is none to distil into

        def compute_loss(
            x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
        ) -> Tensor:
            loss = own(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)
            if not training:
                return loss
            # Asked here: a binary loss trains on logits, whatever the model ends in otherwise.
            taught = soft(ask(x), as_logits(y_pred, gives_logits(model)), sample_weight)
            return (1 - self.weight) * loss + self.weight * taught

        model.compute_loss = compute_loss
        try:
            yield
        finally:
            del model.compute_loss  # the class's own is in force again


def find_teacher(chosen: TeacherOptions, classes: Sequence[str]) -> Distillation | None:
    """The teacher that was asked for, with the same classes as the images.

    Raises:
        ValueError: other classes, no Keras model of one class an image, or numbers without a teacher.
    """
    numbers = {"weight": chosen.distill_weight, "temperature": chosen.temperature}
    if chosen.teacher is None:
        for name, value in vars(chosen).items():
            if value is not None:
                raise ValueError(f"{name}={value!r} needs teacher, a model to learn from")
        return None
    try:
        teacher = open_classifier(chosen.teacher, preprocessing=chosen.teacher_preprocessing)
    except ValueError as error:
        text = re.sub(r"(?<!\w)(MODEL|model)=", "teacher=", str(error))
        raise ValueError(re.sub(r"(?<!\w)preprocessing=", "teacher_preprocessing=", text)) from error
    made = Distillation(teacher, **{name: value for name, value in numbers.items() if value is not None})
    find_order(teacher, classes)
    return made


def find_order(teacher: Classifier, classes: Sequence[str]) -> np.ndarray:
    """(classes,): which output of the teacher each class is; in the same order where the teacher knows no names.

    Raises:
        ValueError: another number of classes, or other names.
    """
    if teacher.classes != len(classes):
        raise ValueError(f"teacher={teacher.name!r} has {teacher.classes} classes, the images have {len(classes)}")
    if teacher.labels is None:
        return np.arange(len(classes))
    known = {name: place for place, name in enumerate(teacher.labels)}
    if lacking := [name for name in classes if name not in known]:
        other = next(name for name in teacher.labels if name not in set(classes))
        raise ValueError(
            f"teacher={teacher.name!r} has other classes: {lacking[0]!r} of the images is none of them, and "
            f"its {other!r} is none of the images'"
        )
    return np.array([known[name] for name in classes])


def make_teacher(teacher: Classifier, seen: Preprocessing, order: np.ndarray) -> Callable[[Tensor], Tensor]:
    """What gives the teacher's logits (n, classes) of the student's images, in the order of the student's classes.

    Args:
        teacher: a Keras model.
        seen: how the student's images (n, height, width, 3) were normalised.
        order: as of `find_order`.
    """
    model: Any = teacher.model
    how, logits = teacher.preprocessing, gives_logits(model)
    mean, deviation = (np.asarray(part, "float32") for part in (seen.mean, seen.std))

    def ask(images: Tensor) -> Tensor:
        images = ops.cast(images, "float32")
        pixels = (images[..., ::-1] if seen.channels == "BGR" else images) * deviation + mean
        if tuple(pixels.shape[1:3]) != teacher.size:
            pixels = ops.image.resize(
                pixels, teacher.size, interpolation=how.interpolation, antialias=True, data_format="channels_last"
            )
        scores = as_logits(model(preprocess_input(pixels, how), training=False), logits)
        return ops.stop_gradient(ops.take(scores, order, axis=-1))

    return ask


def as_logits(scores: Tensor, are_logits: bool) -> Tensor:
    """Logits in float32 of a model's scores; the logarithm of probabilities are some, up to a constant."""
    scores = ops.cast(scores, "float32")
    return scores if are_logits else ops.log(ops.maximum(scores, np.finfo("float32").tiny))
