"""ResNeXt for Keras 3: exact PyTorch weights, fast grouped convolutions, exports that run as they are."""

import lazy_loader as _lazy

from .network.registration import register_with_keras as _register_with_keras

__version__ = "0.1.0"

# The public names stand in __init__.pyi; each is imported when it is first used.
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

_register_with_keras()
