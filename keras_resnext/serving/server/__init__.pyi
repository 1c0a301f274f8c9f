from .launch import serve as serve
from .serve_options import ServeOptions as ServeOptions
