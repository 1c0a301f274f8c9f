"""A Keras classifier as a TensorFlow SavedModel that TF Serving runs as it is, straight from pictures."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras

from ..classifier import check_classifier, class_names, last_activation
from ..preprocessing import get_preprocessing, preprocess_input
from .pictures import decode_picture

Tensor = Any

TOP = 5


def export_saved_model(
    model: keras.Model,
    base_dir: str | os.PathLike[str],
    *,
    version: int | None = None,
    labels: Sequence[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    resize_size: int | None = None,
) -> Path:
    """Writes `model` to BASE_DIR/VERSION, whole or not at all; it loads and runs where Keras is not installed.

    Signatures, with N free and k = min(5, classes):

    - `serving_default`: `images` float32 (N, height, width, 3), RGB 0..255, to `probabilities` (N, classes).
    - `serving_bytes`: `image_bytes` string (N,), each a JPEG, PNG, GIF (first frame) or BMP, to `probabilities`,
      `top_scores` (N, k), `top_classes` int32 (N, k) and `top_labels` string (N, k), best first. Pictures are resized
      and cropped as `preprocessing.load_image` does.

    Both normalise inside the graph, by the model's own preprocessing, and answer in float32. The labels are also
    written to `assets/labels.txt`, one a line.

    Args:
        model: functional or Sequential, (batch, height, width, 3) normalised pictures to (batch, classes). Where it
            ends in a linear layer, a softmax is added.
        base_dir: folder of the served model; made where it is missing.
        version: positive number of a version that does not exist; default the highest plus one.
        labels: one name a class. Default: the ImageNet names for 1000 classes, else "0", "1", ….
        image_size: height and width, where the model leaves them free; default as its preprocessing has it.
        resize_size: shorter side before the centre crop; default as the model's own preprocessing has it.

    Returns:
        The folder of the version.

    Raises:
        ValueError: a model that is no such classifier, that holds XLA-compiled layers, or an argument out of range.
        FileExistsError: the version exists already.
        RuntimeError: Keras runs on another backend than TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"exporting needs Keras on TensorFlow, not {keras.backend.backend()!r}: set KERAS_BACKEND=tensorflow"
        )
    classes = check_classifier(model)
    size = _image_size(model, image_size)
    names = class_names(labels, classes)
    resize = get_preprocessing(model).resize_for(min(size)) if resize_size is None else resize_size
    if not _is_positive(resize) or resize < min(size):
        raise ValueError(f"resize_size={resize_size!r} must be an integer of at least {min(size)}, the image size")
    base = Path(base_dir)
    _check_version(version, base)

    made = [folder for folder in (base, *base.parents) if not folder.exists()]
    # TF Serving looks at integer names alone, so nobody sees the version before the rename.
    aside = base / f".export-{uuid.uuid4().hex}"
    try:
        base.mkdir(parents=True, exist_ok=True)
        _write(model, aside, names, size, resize)
        _refuse_xla(model, aside)
        return _publish(aside, base, version)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        raise


def _write(model: keras.Model, path: Path, names: Sequence[str], size: tuple[int, int], resize: int) -> None:
    import tensorflow as tf

    logits = last_activation(model) is keras.activations.linear
    preprocessing = get_preprocessing(model)

    def probabilities(images: Tensor) -> Tensor:
        outputs = tf.nest.flatten(model(preprocess_input(images, preprocessing), training=False))[0]
        outputs = tf.cast(outputs, tf.float32)
        return tf.nn.softmax(outputs) if logits else outputs

    @tf.function(input_signature=[tf.TensorSpec((None, *size, 3), tf.float32, "images")])  # type: ignore[untyped-decorator]
    def serving_default(images: Tensor) -> dict[str, Tensor]:
        return {"probabilities": probabilities(images)}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "image_bytes")])  # type: ignore[untyped-decorator]
    def serving_bytes(image_bytes: Tensor) -> dict[str, Tensor]:
        images = tf.map_fn(
            lambda data: decode_picture(data, size, resize, preprocessing.interpolation),
            image_bytes,
            fn_output_signature=tf.TensorSpec((*size, 3), tf.float32),
        )
        scores = probabilities(images)
        top_scores, top_classes = tf.math.top_k(scores, min(TOP, len(names)))
        return {
            "probabilities": scores,
            "top_scores": top_scores,
            "top_classes": top_classes,
            "top_labels": tf.gather(tf.constant(list(names)), top_classes),
        }

    module = tf.Module()
    module.model_variables = [variable.value for variable in model.variables]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "labels.txt")
        file.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        module.labels = tf.saved_model.Asset(str(file))
        tf.saved_model.save(
            module,
            str(path),
            signatures={"serving_default": serving_default, "serving_bytes": serving_bytes},
            options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
        )


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
            if getattr(layer, "groups", 1) != 1 and type(layer).__module__.startswith("keras.")
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
    return 1 + max((int(f.name) for f in base.iterdir() if f.name.isdecimal()), default=0) if base.exists() else 1


def _check_version(version: int | None, base: Path) -> None:
    if version is None:
        return
    if not _is_positive(version):
        raise ValueError(f"version={version!r} must be a positive integer")
    if (base / str(version)).exists():
        raise FileExistsError(f"version={version} exists already: {base / str(version)}")


def _image_size(model: keras.Model, image_size: int | tuple[int, int] | None) -> tuple[int, int]:
    given = (image_size, image_size) if isinstance(image_size, int | None) else tuple(image_size)
    if len(given) != 2 or any(side is not None and not _is_positive(side) for side in given):
        raise ValueError(f"image_size={image_size!r} must be a positive integer or (height, width)")
    fixed = model.inputs[0].shape[1:3]
    if any(f is not None and g is not None and f != g for f, g in zip(fixed, given, strict=True)):
        raise ValueError(f"image_size={image_size!r} must be {fixed}, which model={model.name!r} fixes")
    height, width = (f or g or get_preprocessing(model).size for f, g in zip(fixed, given, strict=True))
    return height, width


def _is_positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
