"""Foreign weights, without PyTorch."""

import importlib
from typing import Any

from .checkpoint import Checkpoint, CheckpointError, read_checkpoint, write_checkpoint

# What needs Keras is imported when it is asked for: reading a checkpoint does not.
_NEED_KERAS = ("from_pytorch", "load_pytorch_weights", "save_pytorch_weights")
__all__ = ["Checkpoint", "CheckpointError", "read_checkpoint", "write_checkpoint", *_NEED_KERAS]


def __getattr__(name: str) -> Any:
    if name not in _NEED_KERAS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(".weights", __name__), name)
