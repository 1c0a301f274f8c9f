"""Runs a SavedModel as TF Serving does, without the server: TensorFlow's C API, XLA switched off, no Python TensorFlow.

`run_session` does so in a process of its own. TensorFlow's Python package is only the place where the shared libraries
lie; it is not imported there.
"""

from __future__ import annotations

import ctypes
import importlib.util
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from .serving_messages import message_type
from .version_folder import GRAPH

DTYPES = {1: np.float32, 2: np.float64, 3: np.int32, 4: np.uint8, 9: np.int64, 10: np.bool_}  # TF_DataType
STRING = 7
TSTRING_BYTES = 24
Arrays = dict[str, np.ndarray]


class SessionError(RuntimeError):
    """The message that TensorFlow gave, for loading or for one request."""


def run_session(path: Path, requests: list[tuple[str, Arrays]], *, xla: bool = False) -> list[Arrays | SessionError]:
    """Answers `requests`, (signature name, inputs by name) each; strings are object arrays of bytes.

    Returns:
        One dictionary of outputs a request, or the error that TensorFlow gave to it.

    Raises:
        SessionError: the model does not load, or the process died.
    """
    job = pickle.dumps({"path": str(path), "xla": xla, "requests": requests})
    process = subprocess.run([sys.executable, "-m", __name__], input=job, capture_output=True, check=False)
    if process.returncode:
        raise SessionError(f"exit code {process.returncode}: {process.stderr.decode(errors='replace')[-2000:]}")
    reply = pickle.loads(process.stdout[process.stdout.index(b"REPLY") + 5 :])
    assert not reply["imported"], reply["imported"]
    return [SessionError(r) if isinstance(r, str) else r for r in reply["results"]]


def read_signatures(version: Path) -> dict[str, tuple[dict[str, str], dict[str, str]]]:
    """The tensors that each signature of a SavedModel takes and gives, by name: read without TensorFlow."""
    saved = message_type("SavedModel").FromString((version / GRAPH).read_bytes())
    return {
        row.key: (
            {info.key: info.value.name for info in row.value.inputs},
            {info.key: info.value.name for info in row.value.outputs},
        )
        for row in saved.meta_graphs[0].signature_def
    }


class Output(ctypes.Structure):
    """TF_Output: an operation and which of its outputs."""

    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


class Session:
    """A SavedModel in TensorFlow's C API (tensorflow/c/c_api.h).

    Args:
        path: folder of the version.
        xla: whether functions that XLA must compile may run, which TF Serving refuses.

    Raises:
        OSError: there is no such model, or TensorFlow's libraries are not there.
        SessionError: the model does not load.
    """

    def __init__(self, path: str | Path, *, xla: bool = False) -> None:
        self.signatures = read_signatures(Path(path))
        spec = importlib.util.find_spec("tensorflow")
        assert spec is not None
        assert spec.submodule_search_locations
        folder = Path(spec.submodule_search_locations[0])
        framework = ctypes.CDLL(str(folder / "libtensorflow_framework.so.2"), ctypes.RTLD_GLOBAL)
        core = ctypes.CDLL(str(folder / "libtensorflow_cc.so.2"), ctypes.RTLD_GLOBAL)
        pointer, size = ctypes.c_void_p, ctypes.c_size_t

        def function(library: Any, name: str, result: Any, *arguments: Any) -> Any:
            bound = getattr(library, name)
            bound.restype, bound.argtypes = result, arguments
            return bound

        self.message = function(framework, "TF_Message", ctypes.c_char_p, pointer)
        self.code = function(framework, "TF_GetCode", ctypes.c_int, pointer)
        self.new_status = function(framework, "TF_NewStatus", pointer)
        dims = ctypes.POINTER(ctypes.c_int64)
        self.allocate = function(framework, "TF_AllocateTensor", pointer, ctypes.c_int, dims, ctypes.c_int, size)
        self.data = function(framework, "TF_TensorData", pointer, pointer)
        self.bytes = function(framework, "TF_TensorByteSize", size, pointer)
        self.type = function(framework, "TF_TensorType", ctypes.c_int, pointer)
        self.rank = function(framework, "TF_NumDims", ctypes.c_int, pointer)
        self.dim = function(framework, "TF_Dim", ctypes.c_int64, pointer, ctypes.c_int)
        self.delete = function(framework, "TF_DeleteTensor", None, pointer)
        self.string_init = function(core, "TF_StringInit", None, pointer)
        self.string_copy = function(core, "TF_StringCopy", None, pointer, ctypes.c_char_p, size)
        self.string_data = function(core, "TF_StringGetDataPointer", pointer, pointer)
        self.string_size = function(core, "TF_StringGetSize", size, pointer)
        self.find = function(core, "TF_GraphOperationByName", pointer, pointer, ctypes.c_char_p)
        self.session_run = function(
            core, "TF_SessionRun", None, pointer, pointer,
            ctypes.POINTER(Output), ctypes.POINTER(pointer), ctypes.c_int,
            ctypes.POINTER(Output), ctypes.POINTER(pointer), ctypes.c_int,
            pointer, ctypes.c_int, pointer, pointer,
        )  # fmt: skip
        load = function(
            core, "TF_LoadSessionFromSavedModel", pointer, pointer, pointer, ctypes.c_char_p,
            ctypes.POINTER(ctypes.c_char_p), ctypes.c_int, pointer, pointer, pointer,
        )  # fmt: skip
        if not xla:
            function(core, "_ZN10tensorflow21DisableXlaCompilationEv", None)()  # as the server's main does
        self.graph = function(core, "TF_NewGraph", pointer)()
        options = function(core, "TF_NewSessionOptions", pointer)()
        status = self.new_status()
        tags = (ctypes.c_char_p * 1)(b"serve")
        self.handle = load(options, None, str(path).encode(), tags, 1, self.graph, None, status)
        self.check(status)

    def check(self, status: int) -> None:
        if self.code(status):
            raise SessionError(self.message(status).decode(errors="replace"))

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        """Outputs of a signature by name; strings are object arrays of bytes.

        Raises:
            KeyError: no such signature or input.
            SessionError: what TensorFlow says.
        """
        names, outputs = self.signatures[signature]
        feeds = (Output * len(inputs))(*(self.output(names[key]) for key in inputs))
        given = [self.to_tensor(value) for value in inputs.values()]
        fetches = (Output * len(outputs))(*map(self.output, outputs.values()))
        results = (ctypes.c_void_p * len(outputs))()
        status = self.new_status()
        self.session_run(
            self.handle, None, feeds, (ctypes.c_void_p * len(given))(*given), len(given),
            fetches, results, len(outputs), None, 0, None, status,
        )  # fmt: skip
        for tensor in given:
            self.delete(tensor)
        self.check(status)
        arrays = [self.to_array(tensor) for tensor in results if tensor is not None]
        return dict(zip(outputs, arrays, strict=True))

    def output(self, name: str) -> Output:
        operation, _, index = name.partition(":")
        found = self.find(self.graph, operation.encode())
        if not found:
            raise SessionError(f"no operation {operation!r} in the graph")
        return Output(found, int(index or 0))

    def to_tensor(self, array: np.ndarray) -> int:
        strings = array.dtype == object
        kind = STRING if strings else next(k for k, dtype in DTYPES.items() if dtype == array.dtype)
        dims = (ctypes.c_int64 * array.ndim)(*array.shape)
        tensor = self.allocate(kind, dims, array.ndim, array.size * TSTRING_BYTES if strings else array.nbytes)
        start = self.data(tensor)
        if strings:
            for i, text in enumerate(array.ravel()):
                self.string_init(start + i * TSTRING_BYTES)
                self.string_copy(start + i * TSTRING_BYTES, text, len(text))
        elif array.nbytes:
            ctypes.memmove(start, np.ascontiguousarray(array).ctypes.data, array.nbytes)
        return tensor

    def to_array(self, tensor: int) -> np.ndarray:
        shape = tuple(self.dim(tensor, i) for i in range(self.rank(tensor)))
        start, kind = self.data(tensor), self.type(tensor)
        if kind == STRING:
            places = [start + i * TSTRING_BYTES for i in range(int(np.prod(shape)))]
            texts = [ctypes.string_at(self.string_data(place), self.string_size(place)) for place in places]
            array = np.empty(len(texts), object)
            array[:] = texts
            return array.reshape(shape)
        raw = ctypes.string_at(start, self.bytes(tensor))
        return np.frombuffer(raw, DTYPES[kind]).reshape(shape).copy()


def main() -> None:
    job = pickle.loads(sys.stdin.buffer.read())
    session = Session(job["path"], xla=job["xla"])
    results: list[Arrays | str] = []
    for signature, arrays in job["requests"]:
        try:
            results.append(session.run(signature, arrays))
        except SessionError as error:
            results.append(str(error))
    imported = sorted(name for name in sys.modules if name.partition(".")[0] in ("tensorflow", "keras"))
    sys.stdout.buffer.write(b"REPLY" + pickle.dumps({"results": results, "imported": imported}))


if __name__ == "__main__":
    main()
