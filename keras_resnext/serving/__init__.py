"""Clients of TF Serving, over REST and gRPC. The one for REST needs numpy alone: neither Keras nor TensorFlow."""

import lazy_loader as _lazy

# The public names stand in __init__.pyi; each is imported when it is first used.
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
