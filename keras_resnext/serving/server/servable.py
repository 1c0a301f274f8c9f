"""One version of a model in memory: a SavedModel in a TensorFlow session, as TF Serving holds it."""

import contextlib
import ctypes
import gc
import re
import threading
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from ...export.warmup_requests import read_warmup
from ..model_base import read_manifest
from .apart import APART
from .image_checks import explain_refusal, find_images
from .signature import CLASSIFY, Signature, read_signature
from .status import CODES, RequestError
from .tensors import SHOWN, Array, size_of
from .wire import Schema, schema_of


class Servable:
    """A loaded SavedModel.

    `kind` is what its scores mean, as `Classifier.kind` has it, and None where it records nothing.

    Args:
        path: folder of the version.
        timeout: seconds after which a run is broken off.

    Raises:
        ValueError: it does not load, or fails a request that it carries for warming up.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        import tensorflow as tf

        self.path, self._timeout = path, timeout
        self.kind = read_manifest(path).get("kind")
        self._lock = threading.Lock()
        self._calls: dict[str, Callable[..., list[Array]]] = {}
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        try:
            graph = tf.compat.v1.saved_model.load(self._session, [tf.saved_model.SERVING], str(path))
            self.definitions = {k: v for k, v in graph.signature_def.items() if not k.startswith("__")}
            self.signatures = {name: read_signature(name, row) for name, row in self.definitions.items()}
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
                f'Serving signature name: "{name[:SHOWN]}" not found in signature def; there are '
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
            code, message = CODES.get(error.error_code, "UNKNOWN"), _first_line(error.message)
            if code == "INVALID_ARGUMENT":
                message = _explain(signature, arrays, message)
            raise RequestError(code, message) from None
        except UnicodeDecodeError:  # TensorFlow's message repeats bytes of the request
            message = _explain(signature, arrays, "the network refused the inputs")
            raise RequestError("INVALID_ARGUMENT", message) from None
        except Exception as error:
            raise RequestError("INTERNAL", f"the network failed: {type(error).__name__}: {error!s:.200}") from None
        return {name: np.asarray(value) for name, value in zip(signature.outputs, values, strict=True)}

    def _call(self, signature: Signature) -> Callable[..., list[Array]]:
        from tensorflow.core.protobuf import config_pb2

        with self._lock:
            if signature.name not in self._calls:
                options = config_pb2.CallableOptions(
                    feed=[spec.tensor for spec in signature.inputs.values()],
                    fetch=[spec.tensor for spec in signature.outputs.values()],
                    run_options=config_pb2.RunOptions(timeout_in_ms=max(int(self._timeout * 1e3), 1)),
                )
                # The public make_callable takes no timeout, or builds a dictionary of feeds for every call.
                self._calls[signature.name] = self._session._make_callable_from_options(options)
            return self._calls[signature.name]

    def close(self) -> None:
        """Frees the memory; nothing may run any more."""
        self._calls.clear()
        self._session.close()
        del self._session
        gc.collect()
        release_memory()


@lru_cache(1)
def example_schema() -> Schema:
    """Of tf.Example."""
    import tensorflow as tf

    return schema_of(tf.train.Example)


def _explain(signature: Signature, arrays: Mapping[str, Array], message: str) -> str:
    large = signature.method_name == CLASSIFY and size_of(arrays.values()) > APART  # they would have to be parsed again
    return message if large else explain_refusal(find_images(signature, arrays, example_schema()), message)


def release_memory() -> None:
    """Gives what is free back to the system: the C library keeps the holes that a large model or image leaves."""
    with contextlib.suppress(OSError, AttributeError):  # another C library than GNU's
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _first_line(message: str) -> str:
    """TensorFlow's message without where in the graph it arose."""
    lines = [line.strip() for line in message.splitlines()]
    noise = ("[[", "Original stack", "Errors may have", "(1)", "Detected at node", "Graph execution error")
    kept = [line for line in lines if line and not line.startswith(noise)]
    text = next((line for line in kept if not line.endswith("root error(s) found.")), "no message")
    text = text.removeprefix("(0) ").removeprefix("INVALID_ARGUMENT: ")
    # An assertion of the graph: its own words stand first, then those of the comparison.
    asserted = re.match(r"assertion failed: \[(.*?)\]", text)
    return asserted[1] if asserted else text
