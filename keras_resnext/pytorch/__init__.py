"""Foreign weights, without PyTorch."""

from .checkpoint import Checkpoint, CheckpointError, read_checkpoint, write_checkpoint

__all__ = ["Checkpoint", "CheckpointError", "read_checkpoint", "write_checkpoint"]
