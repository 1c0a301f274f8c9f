"""A Keras model as a TFLite file: floats or integers, grouped convolutions as one operation each."""

import dataclasses
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..files import placed_whole
from ..preprocessing import load_image
from ..runtimes.keras_model import image_input
from ..runtimes.litert import load
from .flatbuffer import count_operations, rename_tensors
from .inference_network import build_network, is_positive
from .report import DIGITS, RANDOM, ExportReport, compare, expected_outputs, sample_images

QUANTIZATIONS = (None, "float16", "dynamic", "int8", "int16x8")
IO_TYPES = {"int8": ("float32", "int8", "uint8"), "int16x8": ("float32", "int16")}
MAX_CALIBRATION = 300  # TensorFlow's guide asks for 100 to 500
CALIBRATION_CHECKED = 8

# Largest difference of the outputs, relative to the largest expected one, with room above what was measured in this
# order: ten small networks with random weights (SE, deep stem, CIFAR stem, dilated, caffe, features, 1000 classes, a
# RegNet) on noise and digits unlike their calibration 4e-6, 1e-3, 2.4e-2, 9e-2, 3.5e-2; a trained one on 359 digits,
# with XNNPACK and without, 1e-6, 3e-3, 2.3e-2, 4.2e-2, 2.1e-2; ResNeXt-50 with random weights alike.
TOLERANCES = {None: 5e-5, "float16": 1e-2, "dynamic": 0.1, "int8": 0.2, "int16x8": 0.1}
PROBABILITY_STEP = {"int8": 1 / 256, "int16x8": 1 / 32768}  # TFLite's fixed scale of a softmax's output

Calibration = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | np.ndarray


def export_tflite(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    quantization: str | None = None,
    calibration: Calibration | None = None,
    image_size: int | tuple[int, int] | None = None,
    io_type: str = "float32",
    batch_size: int | None = None,
    images: Sequence[str | os.PathLike[str]] | None = None,
    tolerance: float | None = None,
) -> ExportReport:
    """Writes `model` as a .tflite file that stock LiteRT runs, once its own runtime has shown that it agrees.

    The file takes `images`, float32 (batch, height, width, 3), RGB on 0..255, and gives `probabilities` (batch,
    classes), or `features` (batch, channels) for a model without classes; its signature `serving_default` has the same
    names. It holds TFLite's own operations alone, and each grouped convolution as one CONV_2D. Whoever looks at `path`
    sees the old file or the new. Labels are not written into it: no library for TFLite's metadata is maintained.

    Args:
        model: functional or Sequential classifier of normalised RGB images, or a network that gives features.
        path: the file to write, ending in .tflite, in a folder that exists.
        quantization: None: float32. "float16": weights in half the size. "dynamic": weights in int8, computed in
            integers where the runtime can. "int8": weights, per channel, and activations in int8. "int16x8": weights
            in int8 and activations in int16, slower, more exact.
        calibration: for "int8" and "int16x8", images like those to classify: a folder (files that are no readable
            images are left out with a warning), paths, or an array (n, height, width, 3) on 0..255. At most 300 are
            used, evenly chosen.
        image_size: height and width, where the model leaves them free; default as its preprocessing has it.
        io_type: of input and output: "float32"; for "int8" also "int8" or "uint8", with uint8 the bytes of an image
            as they are; for "int16x8" also "int16".
        batch_size: fixed number of images; default free: 1 unless the input is resized.
        images: paths of real images to verify with, beside random ones.
        tolerance: of the largest difference relative to the largest expected output; default by `quantization`.

    Raises:
        ValueError: an argument or a model out of what is said here; an operation that TFLite lacks; an export that
            does not compute what the model does.
        FileNotFoundError: a folder or image that is not there.
        OSError: the disk refuses.
        RuntimeError: Keras runs on another backend than TensorFlow.
    """
    target = _check_arguments(path, quantization, calibration, io_type, batch_size, tolerance)
    network, size = build_network(model, "portable", image_size)
    output = "probabilities" if "probabilities" in network.output else "features"
    calibration_images = _calibration_images(calibration, model, size) if calibration is not None else None
    content = _convert(network, output, size, batch_size, quantization, io_type, calibration_images)

    samples = sample_images(model, size, images)
    if calibration_images is not None:
        # Integers end where the calibration does: noise and digits may lie outside, its images cannot.
        samples = np.concatenate([_evenly(calibration_images, CALIBRATION_CHECKED), samples[RANDOM + DIGITS :]])
    expected = expected_outputs(model, samples)
    if tolerance is None:
        tolerance = TOLERANCES[quantization]
        if output == "probabilities":
            tolerance += PROBABILITY_STEP.get(quantization or "", 0) / float(np.abs(expected).max())
    with placed_whole(target) as aside:
        aside.write_bytes(content)
        content = aside.read_bytes()
        for delegated in (False, True) if quantization in IO_TYPES else (True,):
            runtime, run = load(content, output, delegated)
            report = compare(aside, runtime, run, samples, expected, tolerance)
    return dataclasses.replace(report, path=Path(path))


def _check_arguments(
    path: str | os.PathLike[str],
    quantization: str | None,
    calibration: Calibration | None,
    io_type: str,
    batch_size: int | None,
    tolerance: float | None,
) -> Path:
    """The file to write, links followed, once all arguments are known to fit together."""
    if quantization not in QUANTIZATIONS:
        choices = ", ".join(repr(choice) for choice in QUANTIZATIONS)
        raise ValueError(f"quantization={quantization!r} must be one of {choices}")
    types = IO_TYPES.get(quantization or "", ("float32",))
    if io_type not in types:
        raise ValueError(f"io_type={io_type!r} must be one of {', '.join(types)} for quantization={quantization!r}")
    if quantization in IO_TYPES and calibration is None:
        raise ValueError(f"quantization={quantization!r} needs calibration: a folder of images, paths or an array")
    if quantization not in IO_TYPES and calibration is not None:
        raise ValueError(f"calibration is for {' and '.join(IO_TYPES)}, not for quantization={quantization!r}")
    if batch_size is not None and not is_positive(batch_size):
        raise ValueError(f"batch_size={batch_size!r} must be a positive integer, or None for a free one")
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"tolerance={tolerance!r} must not be negative")
    target = Path(os.path.realpath(path))
    if target.suffix != ".tflite" or target.is_dir():
        raise ValueError(f"path={os.fspath(path)!r} must be a file that ends in .tflite")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path={os.fspath(path)!r}: there is no folder {str(target.parent)!r}")
    return target


def _calibration_images(calibration: Calibration, model: keras.Model, size: tuple[int, int]) -> np.ndarray:
    """Up to 300 images, float32 (n, height, width, 3) on 0..255, prepared as the model wants them."""
    if isinstance(calibration, np.ndarray):
        if calibration.shape[1:] != (*size, 3) or not len(calibration) or calibration.dtype.kind not in "uif":
            raise ValueError(
                f"calibration has shape {calibration.shape} and type {calibration.dtype}; it must hold numbers of "
                f"shape (n, {size[0]}, {size[1]}, 3)"
            )
        chosen = np.asarray(_evenly(calibration), "float32")
        if not (chosen.min() >= 0 and 1 < chosen.max() <= 255):
            raise ValueError(
                f"calibration has values from {chosen.min()} to {chosen.max()}; it must hold RGB on 0..255"
            )
        return chosen
    folder = isinstance(calibration, str | os.PathLike)
    if isinstance(calibration, str | os.PathLike):
        paths = _files(calibration)
    elif isinstance(calibration, list | tuple) and all(isinstance(path, str | os.PathLike) for path in calibration):
        paths = list(calibration)
    else:
        raise ValueError("calibration must be a folder of images, a list of paths, or an array")
    if not paths:
        raise ValueError(f"calibration={calibration!r} is empty: it holds no images")
    paths = _evenly(paths)
    how = image_input(model, size)[1]
    loaded, broken = [], []
    for path in paths:
        try:
            loaded.append(load_image(path, size, resize=how.resize, interpolation=how.interpolation))
        except (ValueError, OSError) as error:
            if not folder:
                raise
            broken.append(error)
    if not loaded:
        raise ValueError(f"calibration={calibration!r} holds no readable image among {len(broken)} files: {broken[0]}")
    if broken:
        warnings.warn(
            f"calibration: {len(broken)} of {len(paths)} files are no readable images and are left out: {broken[0]}",
            stacklevel=3,
        )
    return np.stack(loaded).astype("float32")


def _files(folder: str | os.PathLike[str]) -> list[Path]:
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"calibration={os.fspath(folder)!r}: there is no such folder")
    files = (file for file in Path(folder).rglob("*") if file.is_file() and not file.name.startswith("."))
    return sorted(files)


def _evenly(items: Any, count: int = MAX_CALIBRATION) -> Any:
    """At most `count` of the items, from all over."""
    return items[:: -(-len(items) // count)]


def _convert(
    network: keras.Model,
    output: str,
    size: tuple[int, int],
    batch_size: int | None,
    quantization: str | None,
    io_type: str,
    calibration: np.ndarray | None,
) -> bytes:
    import tensorflow as tf
    from tensorflow.lite.python.convert import ConverterError

    @tf.function(input_signature=[tf.TensorSpec((batch_size, *size, 3), tf.float32, "images")])  # type: ignore[untyped-decorator]
    def serve(images: Any) -> dict[str, Any]:
        return {output: network(images, training=False)[output]}

    module = tf.Module()
    module.network_variables = [variable.value for variable in network.variables]
    function = serve.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    if quantization is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if calibration is not None:
        operations = {
            "int8": tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
            "int16x8": tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
        }
        converter.representative_dataset = lambda: _representative(calibration, batch_size or 1)
        converter.target_spec.supported_ops = [operations[quantization or ""]]
        converter.inference_input_type = converter.inference_output_type = tf.dtypes.as_dtype(io_type)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")
            content = converter.convert()
    except ConverterError as error:
        lacking = set(re.findall(r"'tf\.(\w+)' op is neither", str(error)))
        places = sorted(f"{node.op} ({node.name})" for node in _nodes(function) if node.op in lacking)
        raise ValueError(
            f"model={network.name!r} does not convert to TFLite, which lacks "
            f"{', '.join(places or sorted(lacking)) or str(error)[:500]}"
        ) from error
    convolutions = sum(node.op in ("Conv2D", "DepthwiseConv2dNative") for node in _nodes(function))
    _check_operations(content, network.name, convolutions)
    return rename_tensors(content, "images", output)


def _representative(images: np.ndarray, batch_size: int) -> Iterator[list[np.ndarray]]:
    """One image a batch. A black and a white corner make the input's range 0..255, so that uint8 input is bytes."""
    images = images.copy()
    images[0, 0, 0], images[0, -1, -1] = 0, 255
    for image in images:
        yield [np.repeat(image[None], batch_size, axis=0)]


def _nodes(function: Any) -> list[Any]:
    graph = function.graph.as_graph_def()
    return [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]


def _check_operations(content: bytes, name: str, convolutions: int) -> None:
    counts = count_operations(content)
    foreign = sorted(kind for kind in counts if kind.startswith(("custom ", "STABLEHLO_")))
    if foreign:
        raise ValueError(f"model={name!r} needs operations that are not TFLite's own: {', '.join(foreign)}")
    found = counts["CONV_2D"] + counts["DEPTHWISE_CONV_2D"]
    if found > convolutions:
        raise ValueError(
            f"model={name!r} has {convolutions} convolutions, and its TFLite file {found}: some were split"
        )
