"""A server for a desk: TF Serving's REST and gRPC interfaces over SavedModels, and a page to look at them."""

from .launch import serve
from .serve_options import ServeOptions

__all__ = ["ServeOptions", "serve"]
