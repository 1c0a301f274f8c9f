"""torchvision's networks, as peers."""

from typing import Any


def torchvision_model(name: str) -> Any:
    """The network with random weights, in evaluation mode."""
    return load_torchvision().models.get_model(name, weights=None).eval()


def load_torchvision() -> Any:
    """torchvision, also beside a build of PyTorch for CPUs alone, to which it is not fitted."""
    import torch

    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "FRAGMENT")
        for op in ("nms", "qnms"):
            library.define(op + "(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        _KEPT.append(library)
    import torchvision

    return torchvision


_KEPT: list[Any] = []  # declarations end with the object that made them
