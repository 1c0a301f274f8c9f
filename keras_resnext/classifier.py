"""A classifier in whatever format it comes: Keras, PyTorch, SavedModel, TFLite or ONNX, as one function of pixels."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from .labels import LABELS, labels_beside
from .loading import load_model
from .network.input_preprocessing import get_preprocessing
from .preprocessing import INTERPOLATIONS, Preprocessing, load_image, preprocess_input
from .runtimes.keras_model import check_classifier, last_activation, softmax

Model = Any  # a keras.Model, str or path; Keras carries no types
Classify = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Classifier:
    """A model that can be asked, and how it wants its images.

    Attributes:
        name: what errors call it.
        runtime: what runs it, such as "Keras on tensorflow" or "ONNX Runtime".
        classify: images (n, height, width, 3), RGB on 0..255, to probabilities float32 (n, classes).
        classes: how many there are.
        size: height and width of the images.
        resize: the shorter side before the centre crop.
        interpolation: "bilinear" or "bicubic".
        labels: the names of the classes: those that a SavedModel records, or that stand in labels.txt beside a file.
    """

    name: str
    runtime: str
    classify: Classify
    classes: int
    size: tuple[int, int]
    resize: int
    interpolation: str
    labels: tuple[str, ...] | None = None

    def read(self, image: bytes) -> np.ndarray:
        """An encoded image as uint8 (height, width, 3), resized and cropped; errors as of `load_image`."""
        return load_image(image, self.size, resize=self.resize, interpolation=self.interpolation)


def open_classifier(
    model: Model,
    *,
    image_size: int | None = None,
    resize: int | None = None,
    interpolation: str | None = None,
) -> Classifier:
    """Opens what `model` is: a Keras model, the name of one (`load_model`), or an export of this package.

    Exports are: the folder of a SavedModel, or a model base, of which the highest version is taken; a .tflite file; an
    .onnx file. They normalise inside and are run as they are, integers and fixed batch sizes included.

    Args:
        model: the model, its path, or a name of the command line's MODEL.
        image_size: height and width, where the model leaves them free.
        resize: shorter side before the centre crop, at least the size; default as came with the model, and for files
            that record nothing (TFLite) as is usual, `size / 0.875`, or below 64 pixels the size itself.
        interpolation: "bilinear" or "bicubic"; default as came with the model, else bilinear.

    Raises:
        FileNotFoundError: a path to nothing.
        ValueError: a file that cannot be read, that is no classifier, or options out of range.
        ImportError: the format's runtime is not installed.
    """
    if image_size is not None and (not isinstance(image_size, int) or isinstance(image_size, bool) or image_size < 1):
        raise ValueError(f"image_size={image_size!r} must be a positive integer")
    if interpolation not in (None, *INTERPOLATIONS):
        raise ValueError(f"interpolation={interpolation!r} must be one of {', '.join(INTERPOLATIONS)}")
    found = _open_keras(model, image_size) if isinstance(model, keras.Model) else _open_path(model, image_size)
    if image_size is not None and found.size != (image_size, image_size):
        raise ValueError(f"image_size={image_size!r} must be {found.size}, which model={found.name!r} fixes")
    if resize is not None and (not isinstance(resize, int) or resize < min(found.size)):
        raise ValueError(f"resize={resize!r} must be an integer of at least {min(found.size)}, the image size")
    return replace(found, resize=resize or found.resize, interpolation=interpolation or found.interpolation)


def _open_path(path: str | os.PathLike[str], image_size: int | None) -> Classifier:
    kind = "folder" if Path(path).is_dir() else Path(path).suffix.lower()
    if kind not in EXPORTS:
        found = replace(_open_keras(load_model(path), image_size), name=os.fspath(path))
        return _with_labels_beside(found, Path(path))
    if not Path(path).exists():
        raise FileNotFoundError(f"model={os.fspath(path)!r}: there is no such file")
    return _with_labels_beside(EXPORTS[kind](Path(path)), Path(path))


def _with_labels_beside(found: Classifier, path: Path) -> Classifier:
    return found if found.labels is not None else replace(found, labels=labels_beside(path, found.classes))


def _open_keras(model: keras.Model, image_size: int | None) -> Classifier:
    classes = check_classifier(model)
    logits = last_activation(model) is keras.activations.linear
    preprocessing = get_preprocessing(model)
    height, width = (side or image_size or preprocessing.size for side in model.inputs[0].shape[1:3])

    def classify(images: np.ndarray) -> np.ndarray:
        scores = np.asarray(model.predict_on_batch(preprocess_input(images, preprocessing)), "float32")
        return softmax(scores) if logits else scores

    return Classifier(
        name=model.name,
        runtime=f"Keras on {keras.backend.backend()}",
        classify=classify,
        classes=classes,
        size=(height, width),
        resize=preprocessing.resize_for(min(height, width)),
        interpolation=preprocessing.interpolation,
    )


def _open_saved_model(path: Path) -> Classifier:
    from .export.saved_model import load_run

    folder = _find_version(path)
    try:
        run = load_run(folder, "probabilities")
        signature = run.loaded.signatures["serving_default"]  # type: ignore[attr-defined]
    except Exception as error:  # TensorFlow's errors, protobuf's, and a KeyError where there is no such signature
        raise ValueError(f"model={str(path)!r} is no readable SavedModel with serving_default: {error}") from error
    inputs = {name: list(spec.shape) for name, spec in signature.structured_input_signature[1].items()}
    outputs = {name: list(spec.shape) for name, spec in signature.structured_outputs.items()}
    size, classes = _check_tensors(path, inputs, outputs)
    manifest, labels = folder / "manifest.json", folder / "assets" / LABELS
    facts = _read_facts(path, manifest.read_text(encoding="utf-8")).get("preprocessing") if manifest.is_file() else None
    names = tuple(labels.read_text(encoding="utf-8").splitlines()) if labels.is_file() else None
    # Labels that are numbers are what an export writes that was given none.
    labels_given = names if names != tuple(map(str, range(classes))) else None
    resize, interpolation = _recorded(path, size, facts)
    return Classifier(str(path), "TensorFlow", run, classes, size, resize, interpolation, labels_given)


def _find_version(path: Path) -> Path:
    """The folder of a SavedModel, in a model base the highest version."""
    if (path / "saved_model.pb").is_file():
        return path
    versions = [file.parent for file in path.glob("*/saved_model.pb") if file.parent.name.isdecimal()]
    if not versions:
        raise ValueError(f"model={str(path)!r} must be the folder of a SavedModel, or hold such folders named 1, 2, …")
    return max(versions, key=lambda folder: int(folder.name))


def _open_tflite(path: Path) -> Classifier:
    from .runtimes.litert import make_run, open_signature

    content = path.read_bytes()
    if content[4:8] != b"TFL3":
        raise ValueError(f"model={str(path)!r} is no TFLite file")
    try:
        runtime, runner = open_signature(content, delegated=True)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"model={str(path)!r} is no readable TFLite file with serving_default: {error}") from error
    inputs, outputs = (
        {name: [int(side) for side in row["shape_signature"]] for name, row in details.items()}
        for details in (runner.get_input_details(), runner.get_output_details())
    )
    size, classes = _check_tensors(path, inputs, outputs)
    run = make_run(runner, "probabilities")
    resize, interpolation = _recorded(path, size, None)
    return Classifier(
        str(path), runtime, lambda images: run(images.astype("float32")), classes, size, resize, interpolation
    )


def _open_onnx(path: Path) -> Classifier:
    from .export.onnx import open_session

    try:
        session = open_session(path)
    except ImportError:
        raise
    except Exception as error:  # ONNX Runtime's own exceptions have no base class of their own
        raise ValueError(f"model={str(path)!r} is no readable ONNX file: {error}") from error
    inputs = {tensor.name: tensor.shape for tensor in session.get_inputs()}
    outputs = {tensor.name: tensor.shape for tensor in session.get_outputs()}
    size, classes = _check_tensors(path, inputs, outputs)

    def classify(images: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(["probabilities"], {"images": images.astype("float32")})[0])

    recorded = session.get_modelmeta().custom_metadata_map.get("preprocessing")
    resize, interpolation = _recorded(path, size, _read_facts(path, recorded) if recorded else None)
    return Classifier(str(path), "ONNX Runtime", classify, classes, size, resize, interpolation)


# What an export is, by its suffix; everything else is a name that `load_model` knows.
EXPORTS: dict[str, Callable[[Path], Classifier]] = {
    "folder": _open_saved_model,
    ".tflite": _open_tflite,
    ".onnx": _open_onnx,
}


def _check_tensors(
    path: Path, inputs: Mapping[str, Sequence[Any]], outputs: Mapping[str, Sequence[Any]]
) -> tuple[tuple[int, int], int]:
    """(height and width, classes) of an export's tensors, given as shapes by name."""
    taken, given = inputs.get("images", ()), outputs.get("probabilities", ())
    fixed = (*taken[1:], *given[1:])
    if len(inputs) != 1 or len(taken) != 4 or len(given) != 2 or not all(isinstance(n, int) and n > 0 for n in fixed):
        raise ValueError(
            f"model={str(path)!r} must take `images` (n, height, width, 3) and give `probabilities` (n, classes), as "
            f"the exports of this package do; it takes {inputs} and gives {outputs}"
        )
    return (int(taken[1]), int(taken[2])), int(given[1])


def _read_facts(path: Path, text: str) -> dict[str, Any]:
    try:
        facts = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"model={str(path)!r} records what is no JSON: {error}") from None
    return facts if isinstance(facts, dict) else {}


def _recorded(path: Path, size: tuple[int, int], facts: dict[str, Any] | None) -> tuple[int, str]:
    """Shorter side and interpolation as an export records them, else as is usual."""
    usual = Preprocessing(size=min(size))
    facts = facts or {}
    try:
        stored = Preprocessing(
            min(size), facts.get("resize", usual.resize), facts.get("interpolation", usual.interpolation)
        )
    except ValueError as error:
        raise ValueError(f"model={str(path)!r} records a preprocessing that cannot be: {error}") from None
    return stored.resize, stored.interpolation
