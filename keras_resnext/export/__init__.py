"""What runs without Keras: exports for serving. TensorFlow is imported when an export starts, not before."""

from .saved_model import export_saved_model

__all__ = ["export_saved_model"]
