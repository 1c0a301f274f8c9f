"""A server for a desk: TF Serving's REST and gRPC interfaces over SavedModels, and a page to look at them."""

import lazy_loader as _lazy

# The public names stand in __init__.pyi; each is imported when it is first used.
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
