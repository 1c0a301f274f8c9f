"""A Keras model as an ONNX file that ONNX Runtime and OpenVINO run at full speed."""

import gc
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from ..files import placed_whole
from ..runtimes.onnx_run import INSTALL, RUNTIMES, open_run
from .calibration import evenly, load_calibration
from .export_options import ONNXOptions, takes
from .onnx_graph import find_shapes, simplify
from .onnx_lowering import join_groups
from .onnx_quantization import noisiest_layers, quantize
from .prepared_model import prepare
from .report import CALIBRATION_CHECKED, DIGITS, RANDOM, ExportReport, compare

Tensor = Any

# Largest difference of the outputs, relative to the largest expected one; int8 as TFLite's.
TOLERANCES = {None: 1e-4, "int8": 0.2}

MAX_BYTES = 2**31 - 2**24  # protobuf's limit, less what the graph itself takes


@takes(ONNXOptions)
def export_onnx(model: keras.Model, path: str | os.PathLike[str], **options: Any) -> ExportReport:
    """Writes `model` to an ONNX file, once ONNX Runtime has computed with it what the model computes.

    Input: `images`, float32 (batch, height, width, 3), RGB 0..255, normalised inside by the model's own preprocessing.
    Outputs, float32: first `probabilities` (batch, classes) of a classifier, with a softmax where it ends in a linear
    layer, then `features` (batch, channels), pooled, where there are such. The batch size is free. A grouped
    convolution is one `Conv` with `group`, for target="cpu" of joined groups where that is faster here; BatchNorm is
    part of the convolutions; all operations are those of the `ai.onnx` domain. The metadata `preprocessing`, JSON, says
    how images are resized and cropped, and what the graph normalises by; `kind` says what the scores mean. With
    quantization="int8" weights and activations are integers, in the QDQ form that both runtimes compute with.

    Args:
        model: functional or Sequential, of (batch, height, width, 3) images; this project's or another.
        path: file ending in .onnx; replaced if it is there.
        options: of `ONNXOptions`: opset, target, runtime, quantization, calibration, image_size, images,
            preprocessing, kind, tolerance.

    Raises:
        ValueError: an argument out of range; a model that is no such, holds more than 2 GiB or something that ONNX has
            no operation for; outputs beyond the tolerance. The file at `path` is then as it was before.
        OSError: no such folder, or the disk refuses.
        ImportError: tf2onnx, onnx or onnxruntime is missing.
        RuntimeError: Keras runs on another backend than TensorFlow.
    """
    return write_onnx(model, path, ONNXOptions(**options))


def write_onnx(model: keras.Model, path: str | os.PathLike[str], options: ONNXOptions) -> ExportReport:
    """`export_onnx`, with its options in one."""
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import tf2onnx  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError(f"exporting to ONNX needs tf2onnx, onnx and onnxruntime ({error}): {INSTALL}") from error
    target = Path(os.path.realpath(path))
    if target.suffix != ".onnx":
        raise ValueError(f"path={os.fspath(path)!r} must end in .onnx")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path={os.fspath(path)!r}: there is no folder {str(target.parent)!r}")
    if target.is_dir():
        raise IsADirectoryError(f"path={os.fspath(path)!r} is a folder")

    prepared = prepare(
        model, "portable", image_size=options.image_size, preprocessing=options.preprocessing, kind=options.kind
    )
    network = prepared.network
    check_size(sum(4 * int(np.prod(weight.shape)) for weight in network.weights))
    samples = prepared.sample(options.images)
    calibration = None
    if options.calibration is not None:
        calibration = load_calibration(options.calibration, prepared)
        # Integers end where the calibration does: noise and digits may lie outside, its images cannot.
        samples = np.concatenate([evenly(calibration, CALIBRATION_CHECKED), samples[RANDOM + DIGITS :]])
    expected = {prepared.output: prepared.expect(samples)}
    for name, values in network.predict_on_batch(samples).items():
        expected.setdefault(name, values)  # what the model does not give by itself

    proto = simplify(_convert(_with_planar_norms(network), prepared.size, options.opset))
    if options.target == "cpu":
        join_groups(proto, find_shapes(proto), options.runtime, None if calibration is None else quantize)
    exact = proto
    if calibration is not None:
        proto = quantize(exact, calibration)
    _check_operations(proto, options.opset)
    facts = prepared.describe()
    tolerance = TOLERANCES[options.quantization] if options.tolerance is None else options.tolerance
    onnx.helper.set_model_props(proto, {**facts, "preprocessing": json.dumps(facts["preprocessing"])})
    with placed_whole(target) as aside:
        aside.write_bytes(proto.SerializeToString())
        try:
            onnx.checker.check_model(str(aside), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ValueError(f"tf2onnx made an invalid file of model={model.name!r}: {error}") from error
        reports = _verify(aside, options.runtime, samples, expected, tolerance)
    report = reports[0].at(Path(path))
    if calibration is None:
        return report
    report.warn_if_untold()
    return replace(report, noisiest=noisiest_layers(exact, proto, samples[:4]))


def check_size(count: int) -> None:
    """Raises ValueError if weights of `count` bytes do not fit into one ONNX file."""
    if count > MAX_BYTES:
        raise ValueError(
            f"the model's weights take {count / 2**30:.2f} GiB; an ONNX file holds at most {MAX_BYTES / 2**30:.2f} GiB"
        )


def _convert(network: keras.Model, size: tuple[int, int], opset: int) -> Any:
    """The network as tf2onnx sees it."""
    import tensorflow as tf
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    @tf.function(input_signature=[tf.TensorSpec((None, *size, 3), tf.float32, "images")])  # type: ignore[untyped-decorator]
    def run(images: Tensor) -> dict[str, Tensor]:
        return network(images, training=False)

    with _quiet():
        concrete = run.get_concrete_function()
        # tf2onnx.convert.from_function makes inputs of the constants that Keras's layers hold, the mean of a
        # Normalization for one; frozen here, the images are the one input.
        frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False, aggressive_inlining=True)
        tensors = [tensor.name for tensor in frozen.outputs]
        names = dict(zip(tensors, sorted(concrete.structured_outputs), strict=True))
        # The scores first: many a program takes `session.run(None, …)[0]`.
        outputs = sorted(tensors, key=lambda tensor: names[tensor] != "probabilities")
        with _collecting_what_is_new():
            proto, _ = tf2onnx.convert.from_graph_def(
                frozen.graph.as_graph_def(add_shapes=True),
                name=network.name,
                input_names=["images:0"],
                output_names=outputs,
                opset=opset,
                tensors_to_rename={"images:0": "images", **names},
            )
    return proto


@contextmanager
def _collecting_what_is_new() -> Iterator[None]:
    """Has Python collect reference cycles soon.

    Each pass of tf2onnx's leaves a copy of the graph, weights and all, in a cycle. Python looks for those once there
    are many new objects beside all others, and beside TensorFlow's there never are; frozen ones do not count. With 9
    million parameters converting took 0.8 GB in place of 1.5.
    """
    if gc.get_freeze_count():  # the program's own
        yield
        return
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.collect()  # counts anew how many objects there are
    gc.set_threshold(thresholds[0], 2, 2)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
        gc.collect()


def _check_operations(proto: Any, opset: int) -> None:
    """tf2onnx leaves what it cannot convert as it is, and says so in its log alone."""
    import onnx

    unknown = {
        f"{node.domain}{'.' * bool(node.domain)}{node.op_type} ({node.name})"
        for node in proto.graph.node
        if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type, opset, "")
    }
    if unknown:
        raise ValueError(
            f"the model holds what has no operation in ONNX opset {opset}: {', '.join(sorted(unknown)[:8])}"
        )


def _verify(
    path: Path, runtime: str, images: np.ndarray, expected: dict[str, np.ndarray], tolerance: float
) -> list[ExportReport]:
    """Runs the file in the runtime it is for; a report for each output, the model's own first."""
    title = RUNTIMES[runtime][0]
    try:
        run = open_run(path, runtime)
        run({"images": images[:1]})
    except ImportError:
        raise
    except Exception as error:  # its own exceptions have no base class of their own
        raise ValueError(f"{title} does not run the file: {error}") from error
    return [
        compare(
            path,
            title,
            lambda batch, name=name: run({"images": batch})[name],  # type: ignore[misc]
            images,
            values,
            tolerance,
        )
        for name, values in expected.items()
    ]


class _PlanarNorm(keras.layers.Layer):
    """Group or layer normalisation computed on planes, so that tf2onnx's transposes around it meet and cancel out."""

    def __init__(self, norm: keras.layers.GroupNormalization | keras.layers.LayerNormalization) -> None:
        super().__init__(name=norm.name, dtype="float32", trainable=False)
        self.norm = norm
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        height, width, channels = inputs.shape[1:]
        x, axis = ops.transpose(inputs, (0, 3, 1, 2)), 1
        if isinstance(self.norm, keras.layers.GroupNormalization):
            x, axis = ops.reshape(x, (-1, self.norm.groups, height * width * channels // self.norm.groups)), 2
        x = x - ops.mean(x, axis=axis, keepdims=True)
        x = x / ops.sqrt(ops.mean(x * x, axis=axis, keepdims=True) + self.norm.epsilon)
        x = ops.transpose(ops.reshape(x, (-1, channels, height, width)), (0, 2, 3, 1))
        x = x * self.norm.gamma if self.norm.scale else x
        return x + self.norm.beta if self.norm.center else x


def _with_planar_norms(model: keras.Model) -> keras.Model:
    """The same network over the same layers, but for its group and layer normalisations over maps."""
    kinds = (keras.layers.GroupNormalization, keras.layers.LayerNormalization)

    def swap(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.Model):
            return _with_planar_norms(layer)
        last = isinstance(layer, kinds) and layer.axis in (3, -1, [3], [-1]) and len(layer.output.shape) == 4
        planar = last and not getattr(layer, "rms_scaling", False)
        return _PlanarNorm(layer) if planar else layer

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Tensor:
        return layer(*args, **kwargs)

    if not any(isinstance(layer, kinds) for layer in model._flatten_layers()):
        return model
    return keras.models.clone_model(model, clone_function=swap, call_function=call)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the log of tf2onnx and of the TensorFlow calls that it makes; what counts is checked afterwards."""
    import tf2onnx

    loggers = [logging.getLogger("tf2onnx"), tf2onnx.utils.logger, logging.getLogger("tensorflow")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
