"""torchvision's and timm's networks, as peers."""

import importlib
import sys
from typing import Any


def torchvision_model(name: str) -> Any:
    """The network with random weights, in evaluation mode."""
    return load_torchvision().models.get_model(name, weights=None).eval()


def timm_model(name: str) -> Any:
    """timm's network with random weights, which does not train."""
    load_torchvision()  # which timm imports
    return importlib.import_module("timm").create_model(name, pretrained=False).eval()


def load_torchvision() -> Any:
    """torchvision, also beside a build of PyTorch for CPUs alone, to which it is not fitted.

    There its operators are missing and are declared; a torchvision that fits declares them itself.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError:  # operator torchvision::nms does not exist
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for op in ("nms", "qnms"):
        library.define(op + "(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    _KEPT.append(library)
    return importlib.import_module("torchvision")


_KEPT: list[Any] = []  # declarations end with the object that made them
