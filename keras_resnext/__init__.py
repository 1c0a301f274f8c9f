"""ResNeXt for Keras 3: exact PyTorch weights, fast grouped convolutions, exports that run as they are."""

import importlib
import sys
from pathlib import PurePath
from typing import Any

__version__ = "0.1.0"

# Public name -> module.
_NAMES = {
    "GroupedConv2D": "layers",
    "Preprocessing": "published",
    "ResNeXt": "model",
    "ResNeXt50": "model",
    "ResNeXt101": "model",
    "ResNeXt152": "model",
    "create": "model",
    "decode_predictions": "preprocessing",
    "evaluate": "evaluation",
    "explain": "explain",
    "export": "export",
    "from_pretrained": "pretrained",
    "from_pytorch": "pytorch",
    "get_preprocessing": "preprocessing",
    "list_architectures": "architectures",
    "list_pretrained": "published",
    "load_pytorch_weights": "pytorch",
    "preprocess_input": "preprocessing",
    "save_pytorch_weights": "pytorch",
    "serving": "serving",
    "set_preprocessing": "preprocessing",
}
__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f".{_NAMES[name]}", __name__)
    value = module if name == _NAMES[name] else getattr(module, name)
    globals()[name] = value
    return value


# Saved models find their classes only once these are registered with Keras, so importing the package imports the model.
# The command line alone imports on demand: `keras-resnext --help` should not wait seconds for a framework.
# Where Keras is not installed there is nothing to register, and `keras_resnext.serving` works without it.
if [PurePath(name).stem for name in sys.argv[:1]] != ["keras-resnext"]:
    try:
        importlib.import_module(".model", __name__)
    except ModuleNotFoundError as error:
        if error.name != "keras":
            raise
