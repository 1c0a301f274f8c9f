"""One version of a model in memory: a SavedModel in a TensorFlow session, as TF Serving holds it."""

import contextlib
import ctypes
import gc
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..metadata import DTYPES
from .status import CODES, RequestError
from .tensors import Array, TensorSpec
from .warmup import read_warmup

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


class Servable:
    """A loaded SavedModel.

    Args:
        path: folder of the version.

    Raises:
        ValueError: it does not load, or fails a request that it carries for warming up.
    """

    def __init__(self, path: Path) -> None:
        import tensorflow as tf

        self.path = path
        self._lock = threading.Lock()
        self._calls: dict[str, Callable[..., list[Array]]] = {}
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        try:
            graph = tf.compat.v1.saved_model.load(self._session, [tf.saved_model.SERVING], str(path))
            self.definitions = {k: v for k, v in graph.signature_def.items() if not k.startswith("__")}
            self.signatures = {name: _signature(name, row) for name, row in self.definitions.items()}
            for name, arrays in read_warmup(path):
                self.run(self.signature(name), arrays)
        except Exception as error:  # TensorFlow's own, protobuf's, OSError and ValueError for files that are not whole
            self.close()
            message = error.message if isinstance(error, RequestError) else str(error)
            raise ValueError(message.strip().splitlines()[0] if message.strip() else type(error).__name__) from error

    def signature(self, name: str) -> Signature:
        """Raises RequestError where there is none of that name."""
        if name not in self.signatures:
            raise RequestError(
                "INVALID_ARGUMENT",
                f'Serving signature name: "{name}" not found in signature def; there are '
                f"{', '.join(sorted(self.signatures))}",
            )
        return self.signatures[name]

    def run(self, signature: Signature, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name; any thread may call it.

        Raises:
            RequestError: TensorFlow refused or failed, with its own code and the first line of what it says.
        """
        import tensorflow as tf

        try:
            values = self._call(signature)(*(arrays[name] for name in signature.inputs))
        except tf.errors.OpError as error:
            raise RequestError(CODES.get(error.error_code, "UNKNOWN"), _first_line(error.message)) from None
        return {name: np.asarray(value) for name, value in zip(signature.outputs, values, strict=True)}

    def _call(self, signature: Signature) -> Callable[..., list[Array]]:
        with self._lock:
            if signature.name not in self._calls:
                fetches = [spec.tensor for spec in signature.outputs.values()]
                feeds = [spec.tensor for spec in signature.inputs.values()]
                graph = self._session.graph
                self._calls[signature.name] = self._session.make_callable(
                    [graph.get_tensor_by_name(name) for name in fetches],
                    [graph.get_tensor_by_name(name) for name in feeds],
                )
            return self._calls[signature.name]

    def close(self) -> None:
        """Frees the memory; nothing may run any more."""
        self._calls.clear()
        self._session.close()
        del self._session
        release_memory()


def release_memory() -> None:
    """Gives what is free back to the system: the C library keeps the holes that a large model leaves."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library than GNU's
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _signature(name: str, definition: Any) -> Signature:
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


def _first_line(message: str) -> str:
    """TensorFlow's message without where in the graph it arose."""
    lines = [line.strip() for line in message.splitlines()]
    kept = [line for line in lines if line and not line.startswith(("[[", "Original stack", "Errors may have", "(1)"))]
    text = next((line for line in kept if not line.endswith("root error(s) found.")), "no message")
    return text.removeprefix("(0) INVALID_ARGUMENT: ").removeprefix("(0) ")
