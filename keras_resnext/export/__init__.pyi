from .export_options import LiteRTOptions as LiteRTOptions
from .export_options import ONNXOptions as ONNXOptions
from .export_options import SavedModelOptions as SavedModelOptions
from .fusion import fuse as fuse
from .onnx import export_onnx as export_onnx
from .report import ExportReport as ExportReport
from .saved_model import export_saved_model as export_saved_model
from .saved_model import export_version as export_version
from .tflite import export_tflite as export_tflite

__all__ = [
    "ExportReport",
    "LiteRTOptions",
    "ONNXOptions",
    "SavedModelOptions",
    "export_onnx",
    "export_saved_model",
    "export_tflite",
    "export_version",
    "fuse",
]
