"""What runs without Keras: exports for serving. TensorFlow is imported when an export starts, not before."""

from .fuse import fuse
from .onnx import export_onnx
from .report import ExportReport
from .saved_model import export_saved_model, export_version
from .tflite import export_tflite

__all__ = ["ExportReport", "export_onnx", "export_saved_model", "export_tflite", "export_version", "fuse"]
