"""Clients of TF Serving, over REST and gRPC. The one for REST needs numpy alone: neither Keras nor TensorFlow."""

from .base import Picture
from .client import Client
from .errors import ServingError, ServingTimeoutError
from .grpc_client import GrpcClient
from .metadata import Metadata, Signature, TensorInfo, VersionStatus

__all__ = [
    "Client",
    "GrpcClient",
    "Metadata",
    "Picture",
    "ServingError",
    "ServingTimeoutError",
    "Signature",
    "TensorInfo",
    "VersionStatus",
]
