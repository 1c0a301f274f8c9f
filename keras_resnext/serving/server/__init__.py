"""A server for a desk: TF Serving's REST and gRPC interfaces over SavedModels, and a page to look at them."""

from .options import ServeOptions
from .run import serve

__all__ = ["ServeOptions", "serve"]
