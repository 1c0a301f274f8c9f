"""A Keras model as a TensorFlow SavedModel that TF Serving runs as it is, straight from images."""

import json
import os
import warnings
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import keras

from ..runtimes.saved_model_run import load_run
from .export_options import LiteRTOptions, SavedModelOptions, takes
from .models_config import FILE, enter_model
from .prepared_model import PreparedModel, prepare
from .report import ExportReport, compare, hash_files
from .saved_graph import write_graph
from .tflite import write_tflite
from .version_folder import KERAS_FILE, LITERT_FILE, MANIFEST, placed_version
from .warmup_requests import write_warmup

TOLERANCE = 1e-4  # relative to the largest expected output; float32 gives about 1e-6


@takes(SavedModelOptions)
def export_saved_model(model: keras.Model, base_dir: str | os.PathLike[str], **options: Any) -> Path:
    """Writes `model` to BASE_DIR/VERSION, whole or not at all; it loads and runs where Keras is not installed.

    Signatures of a classifier, with N free and k = min(5, classes):

    - `serving_default`: `images` float32 (N, height, width, 3), RGB 0..255, to `probabilities` (N, classes).
    - `serving_bytes`: `image_bytes` string (N,), each a JPEG, PNG, GIF (first frame) or BMP, to `probabilities`,
      `top_scores` (N, k), `top_classes` int32 (N, k) and `top_labels` string (N, k), best first. Images are resized
      and cropped as `preprocessing.load_image` does.
    - `features`: `images` as above to `features` (N, channels), pooled, where the model ends in a dense layer.
    - `classify`: `inputs` string (N,), each a tf.Example with `image/encoded`, to `classes` string (N, k) and `scores`.

    A network without classes has the first three, and each gives `features`. All normalise inside the graph, by the
    model's own preprocessing, and answer in float32. Beside the graph stand the labels, `assets/labels.txt`;
    requests that warm a server up, `assets.extra/tf_serving_warmup_requests`; and `manifest.json`: preprocessing,
    versions, how well the export agrees with the model, and the SHA-256 of every file. A models.config beside the
    folder gets an entry for the model.

    Args:
        model: functional or Sequential, (batch, height, width, 3) images to (batch, classes) scores or logits, or to
            pooled features or one map. Grouped convolutions may be plain Keras layers.
        base_dir: folder of the served model; made where it is missing.
        options: of `SavedModelOptions`: version, labels, image_size, resize_size, target, warmup, tflite, keras_file,
            images, preprocessing, kind.

    Returns:
        The folder of the version.

    Raises:
        ValueError: a model that is none of these, that holds XLA-compiled layers, an argument out of range, or an
            export that does not compute what the model does.
        FileExistsError: the version exists already.
        RuntimeError: Keras runs on another backend than TensorFlow.
    """
    return export_version(model, base_dir, SavedModelOptions(**options)).path


def export_version(
    model: keras.Model,
    base_dir: str | os.PathLike[str],
    options: SavedModelOptions | None = None,
    *,
    manifest: Mapping[str, Any] | None = None,
) -> ExportReport:
    """`export_saved_model`, with a report of how the export agrees with the model.

    Args:
        model, base_dir: as there.
        options: default all of their defaults.
        manifest: what else to write into `manifest.json`, such as source and accuracy.

    Raises:
        ValueError, FileExistsError, RuntimeError: as `export_saved_model`.
    """
    options = options or SavedModelOptions()
    prepared = prepare(
        model,
        options.target,
        image_size=options.image_size,
        labels=options.labels,
        resize_size=options.resize_size,
        preprocessing=options.preprocessing,
        kind=options.kind,
    )
    with placed_version(Path(base_dir), options.version) as new:
        signatures = write_graph(prepared, new.aside)
        if options.warmup:
            write_warmup(new.aside, signatures, prepared.size)
        samples = prepared.sample(options.images)
        run = load_run(new.aside, prepared.output)
        report = compare(new.aside, "TensorFlow", run, samples, prepared.expect(samples), TOLERANCE)
        if options.tflite:
            same: dict[str, Any] = {
                "image_size": prepared.size,
                "preprocessing": prepared.preprocessing,
                "kind": prepared.kind,
            }
            write_tflite(model, new.aside / LITERT_FILE, LiteRTOptions(**same))
        if options.keras_file:
            (new.aside / KERAS_FILE).parent.mkdir(exist_ok=True)
            model.save(new.aside / KERAS_FILE)
        facts = {
            **_describe(prepared, options.target),
            **(manifest or {}),
            "verified": {
                "images": len(samples),
                "largest_difference": report.largest_difference,
                "top1_agreement": report.top1_agreement,
            },
            "sha256": hash_files(new.aside),
        }
        (new.aside / MANIFEST).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    _enter(new.path.parent)
    return report.at(new.path)


def _enter(folder: Path) -> None:
    """Into models.config, so that TF Serving knows the model; the version is in place and stays whatever happens."""
    try:
        enter_model(folder)
    except (OSError, ValueError) as error:
        warnings.warn(f"{folder.parent / FILE} is as it was, and may lack {folder.name}: {error}", stacklevel=3)


def _describe(prepared: PreparedModel, target: str) -> dict[str, Any]:
    import tensorflow as tf

    return {
        "name": prepared.model.name,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "tensorflow": str(tf.__version__),
        "keras": keras.__version__,
        "target": target,
        "image_size": prepared.size,
        "classes": prepared.classes,
        **prepared.describe(),
        "parameters": prepared.model.count_params(),
    }
