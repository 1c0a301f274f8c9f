"""Runs an ONNX file on the CPU, in ONNX Runtime or OpenVINO."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

INSTALL = "pip install 'keras_resnext[onnx]'"

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


def open_session(source: Path | bytes) -> Any:
    """ONNX Runtime's session on a file or its bytes; raises ImportError where ONNX Runtime is missing."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ImportError(f"running ONNX files needs onnxruntime: {INSTALL}") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    given = source if isinstance(source, bytes) else str(source)
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def _in_onnxruntime(source: Path | bytes) -> Run:
    session = open_session(source)
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True))


def _in_openvino(source: Path | bytes) -> Run:
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise ImportError("running ONNX files in OpenVINO needs it: pip install 'keras_resnext[openvino]'") from error
    # Some processors would compute in bfloat16 otherwise.
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    core = openvino.Core()
    model = core.read_model(source) if isinstance(source, bytes) else core.read_model(str(source))
    request = core.compile_model(model, "CPU", options).create_infer_request()
    names = [output.any_name for output in model.outputs]

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = request.infer(dict(inputs))
        return {name: np.array(found[index]) for index, name in enumerate(names)}

    return run


RUNTIMES: dict[str, tuple[str, Callable[[Path | bytes], Run]]] = {
    "onnxruntime": ("ONNX Runtime", _in_onnxruntime),
    "openvino": ("OpenVINO", _in_openvino),
}


def open_run(source: Path | bytes, runtime: str = "onnxruntime") -> Run:
    """From inputs by name to outputs by name.

    Args:
        source: an ONNX file, or its bytes.
        runtime: one of `RUNTIMES`.

    Raises:
        ImportError: it is not installed.
    """
    return RUNTIMES[runtime][1](source)
