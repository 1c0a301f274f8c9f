"""What TF Serving tells of a model: its signatures and the state of its versions, from JSON as REST gives it."""

from dataclasses import dataclass
from typing import Any

from .errors import ServingError

DTYPES = {"DT_FLOAT": "float32", "DT_DOUBLE": "float64", "DT_HALF": "float16"}  # others: DT_INT32 is int32


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a signature: numpy's name of the type, or "string", and the shape with None for free."""

    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs by name; `method_name` says by which call TF Serving runs it."""

    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    method_name: str


@dataclass(frozen=True)
class Metadata:
    """What the server tells of the version that it would ask."""

    model: str
    version: int
    signatures: dict[str, Signature]


@dataclass(frozen=True)
class VersionStatus:
    """`state` is START, LOADING, AVAILABLE, UNLOADING or END; `error` is why loading failed, or empty."""

    version: int
    state: str
    error: str = ""


def parse_metadata(answer: dict[str, Any], address: str) -> Metadata:
    """GetModelMetadataResponse; `address` is for the message of the ServingError that anything else raises."""
    try:
        signatures = answer["metadata"]["signature_def"]["signature_def"]
        return Metadata(
            answer["model_spec"]["name"],
            int(answer["model_spec"]["version"]),
            {
                name: Signature(
                    _parse_tensors(signature.get("inputs", {})),
                    _parse_tensors(signature.get("outputs", {})),
                    signature.get("method_name", ""),
                )
                for name, signature in signatures.items()
                if not name.startswith("__")  # the initialisation that TensorFlow adds
            },
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ServingError(address, "UNKNOWN", f"its metadata is not TF Serving's: {answer!r:.200}") from error


def _parse_tensors(tensors: dict[str, Any]) -> dict[str, TensorInfo]:
    found = {}
    for name, tensor in tensors.items():
        dtype = tensor["dtype"]
        shape = tensor.get("tensor_shape", {})
        sizes = [int(dim.get("size", 0)) for dim in shape.get("dim", [])]
        free = None if shape.get("unknown_rank") else tuple(None if size < 0 else size for size in sizes)
        found[name] = TensorInfo(DTYPES.get(dtype, dtype.removeprefix("DT_").lower()), free)
    return found


def parse_status(answer: dict[str, Any], address: str) -> list[VersionStatus]:
    """GetModelStatusResponse; as `parse_metadata`."""
    try:
        return [
            VersionStatus(int(row["version"]), row["state"], row.get("status", {}).get("error_message", ""))
            for row in answer["model_version_status"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ServingError(address, "UNKNOWN", f"its status is not TF Serving's: {answer!r:.200}") from error
