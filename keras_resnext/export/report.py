"""Whether an export computes what the model does: run by its own runtime on random and real images."""

import math
import os
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from ..classifier import open_classifier
from ..digits import load_digits
from ..network.input_preprocessing import choose_preprocessing
from ..preprocessing import Preprocessing, load_image, preprocess_input
from ..weights.download import sha256
from .float32_copy import copy_weights, in_float32
from .inference_network import classes_of

# In one batch. Eight in place of four took 0.9 GB more, for a network of four blocks at 224.
RANDOM = 2
DIGITS = 2
ROUNDS = 5
CALIBRATION_CHECKED = 8  # images of a calibration on which model and export are compared
NOISIEST = 5


@dataclass(frozen=True)
class ExportReport:
    """What was exported, and how well it agrees with the model.

    Attributes:
        path: the file, or the folder of the version.
        size: bytes of all files.
        runtime: what ran it.
        largest_difference: of probabilities (or features), over all images.
        top1_agreement: share of images to which both give the same class; 1 without classes.
        latency: seconds for one image, median.
        lead: of the model's first class over its second, median; where the largest difference is larger, as with random
            weights, the agreement says nothing.
        noisiest: of an export in integers, the layers that lose most: name and signal-to-noise ratio in decibels.
    """

    path: Path
    size: int
    runtime: str
    largest_difference: float
    top1_agreement: float
    latency: float
    lead: float = float("inf")
    noisiest: tuple[tuple[str, float], ...] = ()

    @property
    def agreement_tells(self) -> bool:
        """Whether classes lie further apart than the export is exact."""
        return self.lead > self.largest_difference

    def warn_if_untold(self) -> None:
        """Warns where the agreement says nothing."""
        if not self.agreement_tells:
            warnings.warn(
                f"{self.path.name}: the model's first two classes lie {self.lead:.1e} apart (median) and the export "
                f"{self.largest_difference:.1e} off, as with random weights: how often both agree says nothing",
                stacklevel=4,
            )

    def at(self, path: Path) -> "ExportReport":
        """The same, moved."""
        return replace(self, path=path)


def hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below `folder`, by its relative name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}


def sample_images(
    size: tuple[int, int], how: Preprocessing, images: Sequence[str | os.PathLike[str]] | None = None
) -> np.ndarray:
    """Random noise, real handwritten digits, and the files `images`: float32 (batch, height, width, 3), 0..255."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (RANDOM, *size, 3)).astype("float32")
    digits = [
        np.asarray(
            Image.fromarray(np.uint8(digit)).convert("RGB").resize(size[::-1], Image.Resampling.BICUBIC), "float32"
        )
        for digit in load_digits()[0][:DIGITS] * (255 / 16)
    ]
    real = [
        load_image(path, size, resize=how.resize, interpolation=how.interpolation, exif=how.exif).astype("float32")
        for path in images or ()
    ]
    return np.concatenate([noise, np.stack([*digits, *real])])


def expected_outputs(
    model: keras.Model, images: np.ndarray, preprocessing: Preprocessing | None = None, kind: str | None = None
) -> np.ndarray:
    """What the Keras model itself gives for images on 0..255, in float32: probabilities, or pooled features.

    Args:
        preprocessing, kind: where the model does not say it.
    """
    preprocessing = choose_preprocessing(model, preprocessing)
    if any(getattr(layer, "compute_dtype", "float32") != "float32" for layer in model._flatten_layers()):
        whole, model = model, in_float32(model)
        copy_weights(whole, model)
    if classes_of(model):
        return open_classifier(model, image_size=images.shape[1:3], preprocessing=preprocessing, kind=kind).scores(
            images
        )
    features = model.predict_on_batch(preprocess_input(images, preprocessing))
    features = np.asarray(keras.tree.flatten(features)[0], "float32")
    return features.mean((1, 2)) if features.ndim == 4 else features


def compare(
    path: Path,
    runtime: str,
    run: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    expected: np.ndarray,
    tolerance: float,
) -> ExportReport:
    """Runs an export and compares.

    Args:
        path, runtime: for the report.
        run: images (batch, height, width, 3) to outputs (batch, n), by the export's own runtime.
        images: of `sample_images`.
        expected: of `expected_outputs`.
        tolerance: of the largest difference, relative to the largest expected value.

    Raises:
        ValueError: the outputs differ by more, or are not finite.
    """
    actual = run(images)
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        raise ValueError(
            f"{runtime} gives {actual.shape} with {np.sum(~np.isfinite(actual))} numbers that are not finite"
        )
    difference = float(np.abs(actual - expected).max())
    if difference > tolerance * float(np.abs(expected).max()):
        raise ValueError(
            f"{runtime} does not compute what the model does: outputs differ by {difference:.2e}, and relatively at "
            f"most {tolerance:.0e} is right"
        )
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run(images[:1])
        times.append(time.perf_counter() - start)
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    lead = float("inf")
    if expected.shape[1] > 1:
        second, first = np.sort(expected, axis=1)[:, -2:].T
        lead = float(np.median(first - second))
    return ExportReport(
        path=path,
        size=sum(file.stat().st_size for file in files),
        runtime=runtime,
        largest_difference=difference,
        top1_agreement=float(np.mean(actual.argmax(1) == expected.argmax(1))),
        latency=statistics.median(times),
        lead=lead,
    )


def noisiest(tensors: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> tuple[tuple[str, float], ...]:
    """The layers with the lowest ratio of signal to noise, in decibels, lowest first.

    Args:
        tensors: by layer, what it gives exactly and in integers.
    """
    ratios = {}
    for layer, (exact, rounded) in tensors.items():
        noise = float(np.square(exact - rounded, dtype="float64").sum())
        signal = float(np.square(exact, dtype="float64").sum())
        if noise and signal:
            ratios[layer] = 10 * math.log10(signal / noise)
    return tuple(sorted(ratios.items(), key=lambda row: row[1])[:NOISIEST])
