"""A Keras model as a TFLite file: floats or integers, grouped convolutions as one operation each."""

import json
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..files import placed_whole
from ..runtimes.litert import METADATA, inner_tensors, load
from .calibration import evenly, load_calibration
from .export_options import IO_TYPES, LiteRTOptions, takes
from .flatbuffer import annotate, count_operations
from .prepared_model import PreparedModel, prepare
from .report import CALIBRATION_CHECKED, DIGITS, RANDOM, ExportReport, compare, noisiest

# Largest difference of the outputs, relative to the largest expected one, with room above what was measured in this
# order: ten small networks with random weights (SE, deep stem, CIFAR stem, dilated, caffe, features, 1000 classes, a
# RegNet) on noise and digits unlike their calibration 4e-6, 1e-3, 2.4e-2, 9e-2, 3.5e-2; a trained one on 359 digits,
# with XNNPACK and without, 1e-6, 3e-3, 2.3e-2, 4.2e-2, 2.1e-2; ResNeXt-50 with random weights alike.
TOLERANCES = {None: 5e-5, "float16": 1e-2, "dynamic": 0.1, "int8": 0.2, "int16x8": 0.1}
PROBABILITY_STEP = {"int8": 1 / 256, "int16x8": 1 / 32768}  # TFLite's fixed scale of a softmax's output


@takes(LiteRTOptions)
def export_tflite(model: keras.Model, path: str | os.PathLike[str], **options: Any) -> ExportReport:
    """Writes `model` as a .tflite file that stock LiteRT runs, once its own runtime has shown that it agrees.

    The file takes `images`, float32 (batch, height, width, 3), RGB on 0..255, and gives `probabilities` (batch,
    classes), or `features` (batch, channels) for a model without classes; its signature `serving_default` has the same
    names. It holds TFLite's own operations alone, and each grouped convolution as one CONV_2D. Whoever looks at `path`
    sees the old file or the new. Its metadata `keras_resnext`, JSON, say how images are resized and cropped, what the
    graph normalises by, and what the scores mean. Labels are not written into it: TFLite's own metadata for them have
    no library that is maintained.

    Args:
        model: functional or Sequential classifier of RGB images, or a network that gives features.
        path: the file to write, ending in .tflite, in a folder that exists.
        options: of `LiteRTOptions`: quantization, calibration, io_type, image_size, batch_size, images,
            preprocessing, kind, tolerance.

    Raises:
        ValueError: an argument or a model out of what is said here; an operation that TFLite lacks; an export that
            does not compute what the model does.
        FileNotFoundError: a folder or image that is not there.
        OSError: the disk refuses.
        RuntimeError: Keras runs on another backend than TensorFlow.
    """
    return write_tflite(model, path, LiteRTOptions(**options))


def write_tflite(model: keras.Model, path: str | os.PathLike[str], options: LiteRTOptions) -> ExportReport:
    """`export_tflite`, with its options in one."""
    target = _check_path(path)
    quantization = options.quantization
    prepared = prepare(
        model, "portable", image_size=options.image_size, preprocessing=options.preprocessing, kind=options.kind
    )
    calibration = None
    if options.calibration is not None:
        calibration = load_calibration(options.calibration, prepared)
    content = _convert(prepared, options, calibration)

    samples = prepared.sample(options.images)
    if calibration is not None:
        # Integers end where the calibration does: noise and digits may lie outside, its images cannot.
        samples = np.concatenate([evenly(calibration, CALIBRATION_CHECKED), samples[RANDOM + DIGITS :]])
    expected = prepared.expect(samples)
    tolerance = options.tolerance
    if tolerance is None:
        tolerance = TOLERANCES[quantization]
        if prepared.classes:
            tolerance += PROBABILITY_STEP.get(quantization or "", 0) / float(np.abs(expected).max())
    with placed_whole(target) as aside:
        aside.write_bytes(content)
        content = aside.read_bytes()
        for delegated in (False, True) if quantization in IO_TYPES else (True,):
            runtime, run = load(content, prepared.output, delegated)
            report = compare(aside, runtime, run, samples, expected, tolerance)
    report = report.at(Path(path))
    if calibration is None:
        return report
    report.warn_if_untold()
    exact = _convert(prepared, LiteRTOptions(), None)
    before, after = (inner_tensors(each, samples[0]) for each in (exact, content))
    return replace(report, noisiest=noisiest({name: (before[name], after[name]) for name in before.keys() & after}))


def _check_path(path: str | os.PathLike[str]) -> Path:
    """The file to write, links followed."""
    target = Path(os.path.realpath(path))
    if target.suffix != ".tflite" or target.is_dir():
        raise ValueError(f"path={os.fspath(path)!r} must be a file that ends in .tflite")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path={os.fspath(path)!r}: there is no folder {str(target.parent)!r}")
    return target


def _convert(prepared: PreparedModel, options: LiteRTOptions, calibration: np.ndarray | None) -> bytes:
    import tensorflow as tf
    from tensorflow.lite.python.convert import ConverterError

    network, output, quantization = prepared.network, prepared.output, options.quantization

    @tf.function(input_signature=[tf.TensorSpec((options.batch_size, *prepared.size, 3), tf.float32, "images")])  # type: ignore[untyped-decorator]
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
        converter.representative_dataset = lambda: _representative(calibration, options.batch_size or 1)
        converter.target_spec.supported_ops = [operations[quantization or ""]]
        converter.inference_input_type = converter.inference_output_type = tf.dtypes.as_dtype(options.io_type)
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
    return annotate(content, ("images", output), METADATA, json.dumps(prepared.describe()).encode())


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
