"""Exports that run without Keras: SavedModel for TF Serving, TFLite and ONNX."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
