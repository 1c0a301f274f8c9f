"""Opens what this package exports (SavedModel, TFLite, ONNX) and reads what it records of itself."""

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..labels import LABELS
from . import litert, onnx_run, saved_model_run
from .keras_model import Run

OUTPUT = "probabilities"  # the name that exports give the scores, whatever their kind


@dataclass(frozen=True)
class Export:
    """An export of a classifier that is ready to run.

    Attributes:
        runtime: what runs it.
        run: images float32 (n, height, width, 3) on 0..255 to scores float32 (n, classes).
        size: height and width in pixels.
        classes: how many scores an image gets.
        preprocessing: "resize", "interpolation" and "exif", as far as it records them.
        kind: what the scores mean; None where it is not recorded.
        labels: names of the classes; None where it has none, or only numbers.
    """

    runtime: str
    run: Run
    size: tuple[int, int]
    classes: int
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    kind: str | None = None
    labels: tuple[str, ...] | None = None


def find_version(path: Path) -> Path | None:
    """The folder of a SavedModel: `path` itself, or in a model base the highest version. None where there is none."""
    if (path / "saved_model.pb").is_file():
        return path
    versions = [file.parent for file in path.glob("*/saved_model.pb") if file.parent.name.isdecimal()]
    return max(versions, key=lambda folder: int(folder.name), default=None)


def open_saved_model(path: Path) -> Export:
    """Raises ValueError for a SavedModel that cannot be read or is not a classifier."""
    folder = find_version(path) or path
    try:
        run = saved_model_run.load_run(folder, OUTPUT)
        signature = run.signature  # type: ignore[attr-defined]
    except Exception as error:  # TensorFlow's errors, protobuf's, and a KeyError where there is no such signature
        raise ValueError(f"model={str(path)!r} is no readable SavedModel with serving_default: {error}") from error
    inputs = {name: list(spec.shape) for name, spec in signature.structured_input_signature[1].items()}
    outputs = {name: list(spec.shape) for name, spec in signature.structured_outputs.items()}
    size, classes = _check_tensors(path, inputs, outputs)
    manifest, labels = folder / "manifest.json", folder / "assets" / LABELS
    facts = _read_facts(path, manifest.read_text(encoding="utf-8")) if manifest.is_file() else {}
    names = tuple(labels.read_text(encoding="utf-8").splitlines()) if labels.is_file() else None
    # Labels that are numbers are what an export writes that was given none.
    given = names if names != tuple(map(str, range(classes))) else None
    return Export("TensorFlow", run, size, classes, _recorded(facts), facts.get("kind"), given)


def open_tflite(path: Path) -> Export:
    """Raises ValueError for a file that cannot be read or is not a classifier, ImportError without LiteRT."""
    content = path.read_bytes()
    if content[4:8] != b"TFL3":
        raise ValueError(f"model={str(path)!r} is no TFLite file")
    try:
        runtime, runner = litert.open_signature(content, delegated=True)
        text = litert.read_metadata(content)
    except (ValueError, RuntimeError, TypeError, struct.error) as error:  # the last two of damaged offsets
        raise ValueError(f"model={str(path)!r} is no readable TFLite file with serving_default: {error}") from error
    inputs, outputs = (
        {name: [int(side) for side in row["shape_signature"]] for name, row in details.items()}
        for details in (runner.get_input_details(), runner.get_output_details())
    )
    size, classes = _check_tensors(path, inputs, outputs)
    facts = _read_facts(path, text)
    return Export(runtime, litert.make_run(runner, OUTPUT), size, classes, _recorded(facts), facts.get("kind"))


def open_onnx(path: Path) -> Export:
    """Raises ValueError for a file that cannot be read or is not a classifier, ImportError without ONNX Runtime."""
    try:
        session = onnx_run.open_session(path)
    except ImportError:
        raise
    except Exception as error:  # ONNX Runtime's own exceptions have no base class of their own
        raise ValueError(f"model={str(path)!r} is no readable ONNX file: {error}") from error
    inputs = {tensor.name: tensor.shape for tensor in session.get_inputs()}
    outputs = {tensor.name: tensor.shape for tensor in session.get_outputs()}
    size, classes = _check_tensors(path, inputs, outputs)

    def run(images: np.ndarray) -> np.ndarray:
        return np.asarray(session.run([OUTPUT], {"images": images})[0], "float32")

    metadata = session.get_modelmeta().custom_metadata_map
    recorded = _read_facts(path, metadata.get("preprocessing", "{}"))
    return Export("ONNX Runtime", run, size, classes, recorded, metadata.get("kind"))


# What opens an export, by its suffix.
EXPORTS: dict[str, Callable[[Path], Export]] = {
    "folder": open_saved_model,
    ".tflite": open_tflite,
    ".onnx": open_onnx,
}


def _check_tensors(
    path: Path, inputs: Mapping[str, Sequence[Any]], outputs: Mapping[str, Sequence[Any]]
) -> tuple[tuple[int, int], int]:
    """(height and width, classes) of an export's tensors, given as shapes by name."""
    taken, given = inputs.get("images", ()), outputs.get(OUTPUT, ())
    fixed = (*taken[1:], *given[1:])
    if len(inputs) != 1 or len(taken) != 4 or len(given) != 2 or not all(isinstance(n, int) and n > 0 for n in fixed):
        raise ValueError(
            f"model={str(path)!r} must take `images` (n, height, width, 3) and give `{OUTPUT}` (n, classes), as "
            f"the exports of this package do; it takes {inputs} and gives {outputs}"
        )
    return (int(taken[1]), int(taken[2])), int(given[1])


def _recorded(facts: Mapping[str, Any]) -> dict[str, Any]:
    preprocessing = facts.get("preprocessing")
    return preprocessing if isinstance(preprocessing, dict) else {}


def _read_facts(path: Path, text: str) -> dict[str, Any]:
    try:
        facts = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"model={str(path)!r} has metadata that is not JSON: {error}") from None
    return facts if isinstance(facts, dict) else {}
