"""Runs a TFLite file as a device does: in LiteRT, or where that is not installed in TensorFlow's own copy of it."""

import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import numpy as np

INSTALL = "pip install 'keras_resnext[tflite]'"
BATCH = 8  # images at once where the batch size is free
METADATA = "keras_resnext"  # the name under which a file says how its images are prepared and what its scores mean

Run = Callable[[np.ndarray], np.ndarray]


def load(content: bytes, output: str, delegated: bool) -> tuple[str, Run]:
    """Name of the runtime, and a function from images on 0..255 to outputs in float32."""
    runtime, runner = open_signature(content, delegated)
    return runtime, make_run(runner, output)


def open_signature(content: bytes, delegated: bool) -> tuple[str, Any]:
    """Name of the runtime, and its runner of the signature `serving_default`.

    Raises:
        ImportError: neither LiteRT nor TensorFlow is installed.
        ValueError: the content is no TFLite file, or has no such signature.
    """
    name, interpreter = _open(content, delegated)
    return name, interpreter.get_signature_runner("serving_default")


def inner_tensors(content: bytes, image: np.ndarray) -> dict[str, np.ndarray]:
    """What each layer gives for one image (height, width, 3) on 0..255, in float32 and by its name."""
    _, interpreter = _open(content, False, experimental_preserve_all_tensors=True)
    runner = interpreter.get_signature_runner("serving_default")
    runner(images=_quantised(image[None], runner.get_input_details()["images"]))
    found = {}
    for row in interpreter.get_tensor_details():
        # By the last of the layers that were joined, as "net/functional_1/layer1_0_conv1_1/Relu;…"; kernels are not of
        # one image.
        path = row["name"].split(";")[0].split("/")
        if row["dtype"] in (np.float32, np.int8, np.int16) and list(row["shape"][:1]) == [1] and len(path) > 1:
            with suppress(ValueError):  # what nothing is computed into
                found[path[-2].removesuffix("_1")] = _real(interpreter.get_tensor(row["index"]), row)
    return found


def _open(content: bytes, delegated: bool, **options: Any) -> tuple[str, Any]:
    """Name of the runtime, and its interpreter of the file."""
    try:
        from ai_edge_litert import interpreter as litert

        interpreter_class, resolvers = litert.Interpreter, litert.OpResolverType
        runtime = f"LiteRT {version('ai-edge-litert')}"
    except ImportError:
        try:
            import tensorflow as tf
        except ModuleNotFoundError:
            raise ImportError(f"running TFLite files needs LiteRT or TensorFlow: {INSTALL}") from None
        interpreter_class, resolvers = tf.lite.Interpreter, tf.lite.experimental.OpResolverType
        runtime = f"TensorFlow Lite {tf.__version__}"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")
        interpreter = interpreter_class(
            model_content=content,
            num_threads=os.cpu_count(),
            experimental_op_resolver_type=(
                resolvers.AUTO if delegated else resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES
            ),
            **options,
        )
    return f"{runtime} {'with' if delegated else 'without'} XNNPACK", interpreter


def read_metadata(content: bytes) -> str:
    """The JSON that stands in a TFLite file under `METADATA`; "{}" where there is none."""
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError:
        from tensorflow.lite.python import schema_py_generated as schema
    model = schema.Model.GetRootAs(content)
    for i in range(model.MetadataLength()):
        if model.Metadata(i).Name() == METADATA.encode():
            buffer = model.Buffers(model.Metadata(i).Buffer())
            return bytes(buffer.DataAsNumpy()).decode() if buffer.DataLength() else "{}"
    return "{}"


def make_run(runner: Any, output: str) -> Run:
    """A function from any number of images on 0..255 to float32 outputs, whatever types and batch size the file has.

    Args:
        runner: of `open_signature`.
        output: its name.
    """
    taken, given = runner.get_input_details()["images"], runner.get_output_details()[output]
    fixed = int(taken["shape_signature"][0])

    def run(images: np.ndarray) -> np.ndarray:
        step = fixed if fixed > 0 else min(BATCH, len(images))
        parts = []
        for start in range(0, len(images), step):
            part = images[start : start + step]
            missing = fixed - len(part) if fixed > 0 else 0
            padded = np.pad(part, ((0, missing), (0, 0), (0, 0), (0, 0)))
            parts.append(_real(runner(images=_quantised(padded, taken))[output], given)[: len(part)])
        return np.concatenate(parts)

    return run


def _quantised(values: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    scale, zero = details["quantization"]
    if not scale:
        return values
    limits = np.iinfo(details["dtype"])
    return np.clip(np.round(values / scale) + zero, limits.min, limits.max).astype(details["dtype"])


def _real(values: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    scale, zero = details["quantization"]
    return (values.astype("float32") - zero) * np.float32(scale) if scale else values
