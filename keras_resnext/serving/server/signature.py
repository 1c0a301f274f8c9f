"""What a SavedModel offers: its signatures, with the tensors that they take and give."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..client.metadata import DTYPES
from .tensors import TensorSpec

CLASSIFY = "tensorflow/serving/classify"
PREDICT = "tensorflow/serving/predict"
REGRESS = "tensorflow/serving/regress"


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs by name; `batched` where all have a free first axis, so that requests can be joined."""

    name: str
    method_name: str
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    batched: bool


def read_signature(name: str, definition: Any) -> Signature:
    inputs = dict(_specs(definition.inputs))
    outputs = dict(_specs(definition.outputs))
    batched = all(spec.shape and spec.shape[0] is None for spec in (*inputs.values(), *outputs.values()))
    return Signature(name, definition.method_name, inputs, outputs, batched and bool(inputs))


def _specs(tensors: Mapping[str, Any]) -> Iterator[tuple[str, TensorSpec]]:
    import tensorflow as tf

    for name in sorted(tensors):
        info = tensors[name]
        dtype = tf.dtypes.as_dtype(info.dtype)
        sizes = tuple(None if dim.size < 0 else int(dim.size) for dim in info.tensor_shape.dim)
        shape = None if info.tensor_shape.unknown_rank else sizes
        kind = f"DT_{dtype.name.upper()}"
        yield (
            name,
            TensorSpec(
                name=name,
                tensor=info.name,
                dtype=np.dtype(object if dtype == tf.string else dtype.as_numpy_dtype),
                dtype_name=DTYPES.get(kind, dtype.name),
                shape=shape,
            ),
        )
