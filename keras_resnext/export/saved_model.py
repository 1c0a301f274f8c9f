"""A Keras model as a TensorFlow SavedModel that TF Serving runs as it is, straight from images."""

import itertools
import json
import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import keras

from ..labels import class_names
from ..runtimes.keras_model import image_input, output_kind
from ..runtimes.saved_model_run import load_run
from ..serving.model_base import KERAS_FILE
from .fuse import CONVOLUTIONS, InferenceConv2D
from .image_decoding import decode_image
from .inference_network import build_network, classes_of, is_positive
from .report import ExportReport, compare, expected_outputs, hash_files, sample_images
from .warmup_requests import write_warmup

Tensor = Any
Signatures = dict[str, Callable[..., dict[str, Tensor]]]

TOP = 5
MAX_VERSION = 2**63 - 1  # TF Serving reads versions as 64-bit integers
# Bytes of weights up to which the graph holds them as constants. With ResNeXt-50's 92 MB a request of one image takes
# about a tenth less time than with variables, eight take the same; writing them takes 5 GB of memory.
MAX_FROZEN = 1 << 27
TOLERANCE = 1e-4  # relative to the largest expected output; float32 gives about 1e-6
CLASSIFY_METHOD = "tensorflow/serving/classify"


def export_saved_model(
    model: keras.Model, base_dir: str | os.PathLike[str], *, version: int | None = None, **options: Any
) -> Path:
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
    versions, how well the export agrees with the model, and the SHA-256 of every file.

    Args:
        model: functional or Sequential, (batch, height, width, 3) normalised images to (batch, classes) scores or
            logits, or to pooled features or one map. Grouped convolutions may be plain Keras layers.
        base_dir: folder of the served model; made where it is missing.
        version: positive number of a version that does not exist; default the highest plus one.
        options: of `export_version`.

    Returns:
        The folder of the version.

    Raises:
        ValueError: a model that is none of these, that holds XLA-compiled layers, an argument out of range, or an
            export that does not compute what the model does.
        FileExistsError: the version exists already.
        RuntimeError: Keras runs on another backend than TensorFlow.
    """
    return export_version(model, base_dir, version=version, **options).path


def export_version(
    model: keras.Model,
    base_dir: str | os.PathLike[str],
    *,
    version: int | None = None,
    labels: Sequence[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    resize_size: int | None = None,
    target: str = "cpu",
    warmup: bool = True,
    tflite: bool = False,
    keras_file: bool = False,
    images: Sequence[str | os.PathLike[str]] | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> ExportReport:
    """`export_saved_model`, with a report of how the export agrees with the model.

    Args:
        model, base_dir, version: as there.
        labels: one name a class. Default: the ImageNet names for 1000 classes, else "0", "1", ….
        image_size: height and width, where the model leaves them free; default as its preprocessing has it.
        resize_size: shorter side before the centre crop; default as the model's own preprocessing has it.
        target: "cpu" or "gpu", where the export will run; "portable" for both.
        warmup: whether to write requests with which a server warms up.
        tflite: whether to write `model.tflite` beside it, for servers with --prefer_tflite_model.
        keras_file: whether to write `assets.extra/model.keras`, of which `keras-resnext serve` makes Grad-CAM.
        images: files on which export and model are compared, beside random and handwritten ones.
        manifest: what else to write into `manifest.json`, such as source and accuracy.

    Raises:
        ValueError, FileExistsError, RuntimeError: as `export_saved_model`.
    """
    network, size = build_network(model, target, image_size)
    classes = classes_of(model)
    names = class_names(labels, classes) if classes else []
    if labels is not None and not classes:
        raise ValueError(f"labels={labels!r} are for classes, and model={model.name!r} gives features")
    preprocessing = image_input(model, size)[1]
    resize = preprocessing.resize if resize_size is None else resize_size
    if not is_positive(resize) or resize < min(size):
        raise ValueError(f"resize_size={resize_size!r} must be an integer of at least {min(size)}, the image size")
    base = Path(base_dir)
    _check_version(version, base)

    made = [folder for folder in (base, *base.parents) if not folder.exists()]
    # TF Serving looks at integer names alone, so nobody sees the version before the rename.
    aside = base / f".export-{uuid.uuid4().hex}"
    try:
        base.mkdir(parents=True, exist_ok=True)
        convolutions = _convolutions(network)
        small = sum(4 * math.prod(v.shape) for layer in convolutions for v in layer.variables) <= MAX_FROZEN
        for layer in convolutions:
            layer.frozen = small
        signatures = _signatures(network, size, resize, preprocessing.interpolation, names)
        _write(network, signatures, aside, names)
        _refuse_xla(model, aside)
        if warmup:
            write_warmup(aside, sorted(signatures), size)
        samples = sample_images(model, size, images)
        output = "probabilities" if classes else "features"
        report = compare(
            aside, "TensorFlow", load_run(aside, output), samples, expected_outputs(model, samples), TOLERANCE
        )
        if tflite:
            from .tflite import export_tflite

            export_tflite(model, aside / "model.tflite", image_size=size)
        if keras_file:
            (aside / KERAS_FILE).parent.mkdir(exist_ok=True)
            model.save(aside / KERAS_FILE)
        facts = {
            "name": model.name,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "tensorflow": _tensorflow_version(),
            "keras": keras.__version__,
            "target": target,
            "image_size": size,
            "preprocessing": {**asdict(preprocessing), "size": size, "resize": resize},
            "classes": classes,
            **({"kind": output_kind(model)} if classes else {}),
            "parameters": model.count_params(),
            **(manifest or {}),
            "verified": {
                "images": len(samples),
                "largest_difference": report.largest_difference,
                "top1_agreement": report.top1_agreement,
            },
            "sha256": hash_files(aside),
        }
        (aside / "manifest.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        return report.at(_publish(aside, base, version))
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        raise


def _signatures(
    network: keras.Model, size: tuple[int, int], resize: int, interpolation: str, names: Sequence[str]
) -> Signatures:
    import tensorflow as tf

    # One function that all signatures share, so that its constants are in the file once.
    @tf.function(input_signature=[tf.TensorSpec((None, *size, 3), tf.float32)])  # type: ignore[untyped-decorator]
    def run(images: Tensor) -> dict[str, Tensor]:
        # The session checks no shapes: without this, three axes instead of four end the whole server.
        images = tf.ensure_shape(images, (None, *size, 3))
        with tf.control_dependencies([tf.debugging.assert_positive(tf.shape(images)[0], "the batch is empty")]):
            images = tf.identity(images)
        outputs: dict[str, Tensor] = network(images, training=False)  # not under the condition: constants must be free
        return outputs

    def decode(image_bytes: Tensor) -> Tensor:
        return tf.map_fn(
            lambda data: decode_image(data, size, resize, interpolation),
            image_bytes,
            fn_output_signature=tf.TensorSpec((*size, 3), tf.float32),
        )

    def best(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        top_scores, top_classes = tf.math.top_k(scores, min(TOP, len(names)))
        return top_scores, top_classes, tf.gather(tf.constant(list(names)), top_classes)

    main = "probabilities" if names else "features"

    def serving_default(images: Tensor) -> dict[str, Tensor]:
        return {main: run(images)[main]}

    def serving_bytes(image_bytes: Tensor) -> dict[str, Tensor]:
        scores = run(decode(image_bytes))[main]
        if not names:
            return {main: scores}
        return {main: scores, **dict(zip(("top_scores", "top_classes", "top_labels"), best(scores), strict=True))}

    def features(images: Tensor) -> dict[str, Tensor]:
        return {"features": run(images)["features"]}

    def classify(inputs: Tensor) -> dict[str, Tensor]:
        examples = tf.io.parse_example(inputs, {"image/encoded": tf.io.FixedLenFeature((), tf.string)})
        scores, _, classes = best(run(decode(examples["image/encoded"]))[main])
        return {"classes": classes, "scores": scores}

    pixels = tf.TensorSpec((None, *size, 3), tf.float32, "images")
    texts = {name: tf.TensorSpec((None,), tf.string, name) for name in ("image_bytes", "inputs")}
    signatures = {
        "serving_default": tf.function(serving_default, input_signature=[pixels]),
        "serving_bytes": tf.function(serving_bytes, input_signature=[texts["image_bytes"]]),
    }
    if "features" in network.output:
        signatures["features"] = tf.function(features, input_signature=[pixels])
    if names:
        signatures["classify"] = tf.function(classify, input_signature=[texts["inputs"]])
    return signatures


def _write(network: keras.Model, signatures: Signatures, path: Path, names: Sequence[str]) -> None:
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    module = tf.Module()
    frozen = {id(v) for layer in _convolutions(network) if layer.frozen for v in layer.variables}
    module.model_variables = [v.value for v in network.variables if id(v) not in frozen]
    with tempfile.TemporaryDirectory() as folder:
        if names:
            file = Path(folder, "labels.txt")
            file.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
            module.labels = tf.saved_model.Asset(str(file))
        tf.saved_model.save(
            module,
            str(path),
            signatures=signatures,
            options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
        )
    # TensorFlow calls every signature a prediction; TF Serving answers :classify for those of its own name alone.
    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    for graph in saved.meta_graphs:
        if "classify" in graph.signature_def:
            graph.signature_def["classify"].method_name = CLASSIFY_METHOD
    (path / "saved_model.pb").write_bytes(saved.SerializeToString(deterministic=True))


def _convolutions(network: keras.Model) -> list[InferenceConv2D]:
    """Those of the network and of the models inside it."""
    inner = [_convolutions(layer) for layer in network.layers if isinstance(layer, keras.Model)]
    return [*(layer for layer in network.layers if isinstance(layer, InferenceConv2D)), *itertools.chain(*inner)]


def _tensorflow_version() -> str:
    import tensorflow as tf

    return str(tf.__version__)


def _refuse_xla(model: keras.Model, path: Path) -> None:
    """TF Serving switches XLA off and then fails every request to a function that must be compiled by it."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    functions = [
        function.signature.name
        for graph in saved.meta_graphs
        for function in graph.graph_def.library.function
        if function.attr["_XlaMustCompile"].b or any(node.attr["_XlaMustCompile"].b for node in function.node_def)
    ]
    if functions:
        grouped = [
            f"{layer.name} ({type(layer).__name__}, groups={layer.groups})"
            for layer in model.layers
            if getattr(layer, "groups", 1) != 1 and type(layer) not in CONVOLUTIONS
        ]
        raise ValueError(
            f"model={model.name!r} holds {len(functions)} functions that XLA must compile, which TF Serving refuses to "
            f"run; use keras_resnext.GroupedConv2D in place of: {', '.join(grouped) or 'layers with jit_compile=True'}"
        )


def _publish(aside: Path, base: Path, version: int | None) -> Path:
    while True:
        target = base / str(_next_version(base) if version is None else version)
        try:
            os.rename(aside, target)
            return target
        except OSError:
            # Another export may have taken the number meanwhile.
            if not target.exists():
                raise
            if version is not None:
                raise FileExistsError(f"version={version} exists already: {target}") from None


def _next_version(base: Path) -> int:
    numbers = [int(f.name) for f in base.iterdir() if f.name.isdecimal()] if base.exists() else []
    return 1 + max((number for number in numbers if number < MAX_VERSION), default=0)


def _check_version(version: int | None, base: Path) -> None:
    if version is None:
        return
    if not is_positive(version) or version >= MAX_VERSION:
        raise ValueError(f"version={version!r} must be a positive integer below 2**63")
    if (base / str(version)).exists():
        raise FileExistsError(f"version={version} exists already: {base / str(version)}")
