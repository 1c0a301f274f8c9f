"""Clients of TF Serving, over REST and gRPC."""

from .base_client import Image
from .errors import ServingError, ServingTimeoutError
from .grpc_client import GrpcClient
from .metadata import Metadata, Signature, TensorInfo, VersionStatus
from .rest_client import Client

__all__ = [
    "Client",
    "GrpcClient",
    "Image",
    "Metadata",
    "ServingError",
    "ServingTimeoutError",
    "Signature",
    "TensorInfo",
    "VersionStatus",
]
