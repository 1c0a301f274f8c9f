"""Foreign weights, without PyTorch."""

from .checkpoint import Checkpoint, CheckpointError, read_checkpoint, write_checkpoint
from .weights import from_pytorch, load_pytorch_weights

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "from_pytorch",
    "load_pytorch_weights",
    "read_checkpoint",
    "write_checkpoint",
]
