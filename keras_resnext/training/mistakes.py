"""The validation images that a trained classifier is most wrong about."""

from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from ..data import ValidationBatches
from .curves import as_rgb, draw_batch
from .step import gives_logits

SHOWN = 16


class Mistake(NamedTuple):
    """One image: its index in the listing, as `image`, the two classes, and the probability of the wrong one."""

    image: int
    truth: int
    predicted: int
    probability: float


def find_mistakes(model: keras.Model, held_out: ValidationBatches, count: int = SHOWN) -> list[Mistake]:
    """Of images of one class each at most `count` that the model gets wrong, those first whose class seemed least
    likely."""
    labels = held_out.listing.labels
    scores = np.asarray(model.predict(held_out, verbose=0), "float32")[: len(labels)]
    if gives_logits(model):
        scores = keras.ops.convert_to_numpy(keras.ops.softmax(scores))
    best, right = scores.argmax(1), scores[np.arange(len(labels)), labels]
    wrong = np.flatnonzero(best != labels)
    worst = wrong[np.argsort(right[wrong], kind="stable")][:count].tolist()
    return [Mistake(i, int(labels[i]), int(best[i]), float(scores[i].max())) for i in worst]


def draw_mistakes(path: Path, mistakes: list[Mistake], held_out: ValidationBatches) -> None:
    """Writes a PNG of the images as the model sees them: what each is, what it was taken for, and how surely."""
    classes = held_out.listing.classes
    titles = [f"{classes[each.truth]}\n→ {classes[each.predicted]}, {each.probability:.0%}" for each in mistakes]
    draw_batch(path, as_rgb(np.stack([held_out.load(each.image) for each in mistakes])), titles)
