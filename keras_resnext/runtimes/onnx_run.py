"""Runs an ONNX file in ONNX Runtime, on the CPU."""

from pathlib import Path
from typing import Any

INSTALL = "pip install 'keras_resnext[onnx]'"


def open_session(path: Path) -> Any:
    """ONNX Runtime's session on a file; raises ImportError where ONNX Runtime is missing."""
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ImportError(f"running ONNX files needs onnxruntime: {INSTALL}") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
