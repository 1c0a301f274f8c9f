"""Clients of TF Serving, over REST and gRPC. The one for REST needs numpy alone: neither Keras nor TensorFlow."""

from .client import (
    Client,
    GrpcClient,
    Image,
    Metadata,
    ServingError,
    ServingTimeoutError,
    Signature,
    TensorInfo,
    VersionStatus,
)

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
