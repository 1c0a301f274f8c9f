"""TF Serving on loopback, over REST and gRPC, around the session that `saved_model_session` opens.

Signatures are run by TensorFlow's C API in a process without Python TensorFlow, XLA switched off. What lies around it,
the rules of JSON, of status codes and of versions, follows TF Serving's sources: util/json_tensor.cc,
model_servers/http_rest_api_util.cc, http_rest_api_handler.cc and http_server.cc, servables/tensorflow/classifier.cc.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import pickle
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from keras_resnext.export.serving_session import DTYPES, STRING, Arrays, Session, SessionError

HTTP_STATUS = {3: 400, 4: 504, 5: 404, 7: 403, 8: 429, 9: 400, 11: 400, 13: 500, 14: 503}  # by status code
INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION = 3, 5, 9
CLASSIFY = "tensorflow/serving/classify"
# Under the command's name the package imports no framework.
START = "from tests.model_server import main; main()"
PATH = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"


class StatusError(Exception):
    """A status other than OK."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message


class Servable:
    """One version of a model, in a process of its own."""

    def __init__(self, path: Path) -> None:
        from tensorflow.core.protobuf import saved_model_pb2

        saved = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
        self.signatures = saved.meta_graphs[0].signature_def
        self.lock = threading.Lock()
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[1],
        )  # fmt: skip

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        definition = self.signatures[signature]
        feeds = {definition.inputs[name].name: value for name, value in inputs.items()}
        names = sorted(definition.outputs)
        assert self.process.stdin
        assert self.process.stdout
        with self.lock:
            pickle.dump((feeds, [definition.outputs[name].name for name in names]), self.process.stdin)
            self.process.stdin.flush()
            reply = pickle.load(self.process.stdout)
        if isinstance(reply, StatusError):
            raise reply
        return dict(zip(names, reply, strict=True))

    def close(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


class ModelServer:
    """Models by name and version, each {"state": …, "error": …, "servable": …}.

    Attributes:
        labels: version by (model, label).
        script: what the next requests meet before they are answered, one each: a status code, "close" (no answer),
            "cut" (half an answer), "garbage" (no JSON), ("slow", seconds), ("drip", seconds between bytes).
        requests: what was asked, "METHOD path" or the call's name, the scripted ones included.
        headers: those of the last request, names in lower case.
    """

    def __init__(self) -> None:
        self.models: dict[str, dict[int, dict[str, Any]]] = {}
        self.labels: dict[tuple[str, str], int] = {}
        self.script: deque[Any] = deque()
        self.requests: list[str] = []
        self.headers: dict[str, str] = {}

    def add(self, model: str, version: int, path: Path) -> None:
        self.models.setdefault(model, {})[version] = {"state": "AVAILABLE", "error": "", "servable": Servable(path)}

    def next_step(self, request: str, headers: Any) -> Any:
        self.requests.append(request)
        self.headers = {name.lower(): value for name, value in headers}
        return self.script.popleft() if self.script else None

    def find(self, model: str, version: int | None, label: str | None) -> tuple[int, Servable]:
        if label is not None:
            if (model, label) not in self.labels:
                raise StatusError(INVALID_ARGUMENT, f"Unrecognized servable version label: {label}")
            version = self.labels[model, label]
        available = [v for v, row in self.models.get(model, {}).items() if row["state"] == "AVAILABLE"]
        found = max(available, default=None) if version is None else version
        if found not in available:
            name = f"Latest({model})" if version is None else f"Specific({model}, {version})"
            raise StatusError(NOT_FOUND, f"Servable not found for request: {name}")
        return found, self.models[model][found]["servable"]

    def states(self, model: str, version: int | None) -> dict[int, dict[str, Any]]:
        rows = self.models.get(model, {})
        if version is not None and version not in rows:
            raise StatusError(NOT_FOUND, f"Could not find version {version} of model {model}")
        if not rows:
            raise StatusError(NOT_FOUND, f"Could not find any versions of model {model}")
        return rows if version is None else {version: rows[version]}

    def classify(self, servable: Servable, signature: str, examples: list[bytes]) -> list[list[tuple[bytes, float]]]:
        definition = find_signature(servable, signature)
        if definition.method_name != CLASSIFY:
            text = f"Expected classification signature method_name to be {CLASSIFY}. Was: {definition.method_name}"
            raise StatusError(INVALID_ARGUMENT, text)
        if not examples:
            raise StatusError(INVALID_ARGUMENT, "Input is empty.")
        found = servable.run(signature, {"inputs": to_objects(examples)})
        classes, scores = found["classes"], found["scores"]
        assert classes.shape == scores.shape
        return [list(zip(*row, strict=True)) for row in zip(classes.tolist(), scores.tolist(), strict=True)]

    def close(self) -> None:
        for versions in self.models.values():
            for row in versions.values():
                row["servable"].close()


def find_signature(servable: Servable, name: str) -> Any:
    if name not in servable.signatures:
        raise StatusError(INVALID_ARGUMENT, f'Serving signature name: "{name}" not found in signature def')
    return servable.signatures[name]


def to_objects(values: list[bytes]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


class RestHandler(http.server.BaseHTTPRequestHandler):
    server: RestServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(None)

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, body: bytes | None) -> None:
        models = self.server.models
        step = models.next_step(f"{self.command} {self.path}", self.headers.items())
        if step == "close":
            self.close_connection = True
            return
        if isinstance(step, tuple) and step[0] == "slow":
            time.sleep(step[1])
        try:
            if isinstance(step, int):
                raise StatusError(step, "scripted: the server's busy")
            status, text = 200, json.dumps(self.handle_request(body))
        except StatusError as failure:
            status, text = HTTP_STATUS[failure.code], f'{{ "error": "{c_escape(failure.message)}" }}'
        data = b"<html>no JSON</html>" if step == "garbage" else text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # a client that gave up
            if step == "cut":
                self.wfile.write(data[: len(data) // 2])
                self.close_connection = True
            elif isinstance(step, tuple) and step[0] == "drip":
                for i in range(len(data)):
                    self.wfile.write(data[i : i + 1])
                    time.sleep(step[1])
            else:
                self.wfile.write(data)

    def handle_request(self, body: bytes | None) -> Any:
        models = self.server.models
        pattern = PATH + (r"(?:/(metadata))?" if body is None else r":(classify|predict)")
        found = re.fullmatch(pattern, self.path)
        if not found:
            raise StatusError(INVALID_ARGUMENT, f"Malformed request: {self.command} {self.path}")
        model, label = unquote(found[1]), found[3] and unquote(found[3])
        version = int(found[2]) if found[2] else None
        if body is None and not found[4]:
            rows = models.states(model, version)  # whatever the label
            return {
                "model_version_status": [
                    {
                        "version": str(number),
                        "state": row["state"],
                        "status": {
                            "error_code": "UNKNOWN" if row["error"] else "OK",
                            "error_message": row["error"],
                        },
                    }
                    for number, row in rows.items()
                ]
            }
        number, servable = models.find(model, version, label)
        if body is None:
            return rest_metadata(model, number, servable)
        try:
            document = json.loads(body)
        except ValueError:
            raise StatusError(INVALID_ARGUMENT, "JSON Parse error: Invalid value. at offset: 0") from None
        name = document.get("signature_name", "serving_default")
        if found[4] == "classify":
            examples = [to_example(example) for example in document["examples"]]
            rows_found = models.classify(servable, name, examples)
            return {"results": [[[label.decode(), shortest(score)] for label, score in row] for row in rows_found]}
        return rest_predict(servable, name, document)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class RestServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, models: ModelServer, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), RestHandler)
        self.models = models
        self.address = f"http://127.0.0.1:{self.server_port}"


def c_escape(text: str) -> str:
    """absl::CEscape, with which TF Serving puts an error into JSON, though what it makes of ' and ś is none."""
    named = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "'": "\\'", "\\": "\\\\"}
    return "".join(
        named.get(chr(byte), chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03o}") for byte in text.encode()
    )


def shortest(value: Any) -> float:
    """A float32 as the shortest decimal that reads as the same float32, which is what goes into TF Serving's JSON."""
    return float(str(np.float32(value)))


def rest_metadata(model: str, version: int, servable: Servable) -> Any:
    from google.protobuf.json_format import MessageToDict

    signatures = {
        name: MessageToDict(signature, preserving_proto_field_name=True)
        for name, signature in servable.signatures.items()
    }
    return {
        "model_spec": {"name": model, "signature_name": "", "version": str(version)},
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


def rest_predict(servable: Servable, name: str, document: Any) -> Any:
    """The columnar format."""
    definition = find_signature(servable, name)
    if "inputs" not in document:
        raise StatusError(INVALID_ARGUMENT, "Missing 'inputs' or 'instances' key")
    given = document["inputs"]
    if not isinstance(given, dict) or set(given) == {"b64"}:
        given = {next(iter(definition.inputs)): given}
    arrays = {}
    for key, info in definition.inputs.items():
        if key not in given:
            raise StatusError(INVALID_ARGUMENT, f"Missing named input: {key} in 'inputs' object.")
        arrays[key] = to_tensor(given[key], info.dtype)
    outputs = servable.run(name, arrays)
    values = {key: from_tensor(key, value) for key, value in outputs.items()}
    return {"outputs": values if len(values) > 1 else next(iter(values.values()))}


def to_tensor(value: Any, dtype: int) -> np.ndarray:
    shape: list[int] = []
    first = value
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    leaves: list[Any] = []
    fill(value, 0, shape, dtype, leaves)
    array = to_objects(leaves) if dtype == STRING else np.array(leaves, DTYPES[dtype])
    return array.reshape(shape)


def fill(value: Any, level: int, shape: list[int], dtype: int, leaves: list[Any]) -> None:
    if isinstance(value, list):
        if level >= len(shape):
            text = f"Encountered list at unexpected level: {level} expected < {len(shape)}"
            raise StatusError(INVALID_ARGUMENT, text)
        if len(value) != shape[level]:
            text = f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
            raise StatusError(INVALID_ARGUMENT, text)
        for item in value:
            fill(item, level + 1, shape, dtype, leaves)
        return
    if dtype == STRING and isinstance(value, dict) and set(value) == {"b64"}:
        value = base64.b64decode(value["b64"], validate=True)
    elif dtype == STRING and isinstance(value, str):
        value = value.encode()
    elif dtype == STRING or isinstance(value, bool) or not isinstance(value, int | float):
        raise StatusError(INVALID_ARGUMENT, f"JSON Value: {json.dumps(value)} is not of expected type: {dtype}")
    leaves.append(value)


def from_tensor(name: str, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [from_tensor(name, item) for item in value]
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()} if name.endswith("_bytes") else value.decode()
    return shortest(value) if isinstance(value, np.float32) else value.item()


def to_example(features: Any) -> bytes:
    import tensorflow as tf

    example = tf.train.Example()
    for key, value in features.items():
        data = base64.b64decode(value["b64"], validate=True) if isinstance(value, dict) else value.encode()
        example.features.feature[key].bytes_list.value.append(data)
    return example.SerializeToString()


def grpc_services(models: ModelServer) -> tuple[Any, Any]:
    """PredictionService and ModelService."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import (
        classification_pb2,
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
    )

    codes = {code.value[0]: code for code in grpc.StatusCode}

    def spec_of(request: Any) -> tuple[str, int | None, str | None, str]:
        spec = request.model_spec
        version = spec.version.value if spec.HasField("version") else None
        label = spec.version_label if spec.WhichOneof("version_choice") == "version_label" else None
        return spec.name, version, label, spec.signature_name or "serving_default"

    def guarded(method: Any) -> Any:
        def call(self: Any, request: Any, context: Any) -> Any:
            step = models.next_step(method.__name__, context.invocation_metadata())
            if isinstance(step, tuple):
                time.sleep(step[1])
            try:
                if isinstance(step, int):
                    raise StatusError(step, "scripted: the server's busy")
                return method(self, request)
            except StatusError as failure:
                context.abort(codes[failure.code], failure.message)

        return call

    class Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
        @guarded
        def Predict(self, request: Any) -> Any:
            model, version, label, name = spec_of(request)
            number, servable = models.find(model, version, label)
            definition = find_signature(servable, name)
            if set(request.inputs) != set(definition.inputs):
                text = f"input size does not match signature: {sorted(request.inputs)} {sorted(definition.inputs)}"
                raise StatusError(INVALID_ARGUMENT, text)
            for key, tensor in request.inputs.items():
                if tensor.dtype != definition.inputs[key].dtype:
                    raise StatusError(INVALID_ARGUMENT, f"Expects arg[0] to be float but {tensor.dtype} is provided")
            outputs = servable.run(name, {key: tf.make_ndarray(value) for key, value in request.inputs.items()})
            answer = predict_pb2.PredictResponse(
                outputs={key: tf.make_tensor_proto(value, shape=value.shape) for key, value in outputs.items()}
            )
            answer.model_spec.name, answer.model_spec.version.value = model, number
            return answer

        @guarded
        def Classify(self, request: Any) -> Any:
            model, version, label, name = spec_of(request)
            _, servable = models.find(model, version, label)
            examples = [example.SerializeToString() for example in request.input.example_list.examples]
            answer = classification_pb2.ClassificationResponse()
            for row in models.classify(servable, name, examples):
                classes = answer.result.classifications.add().classes
                for text, score in row:
                    classes.add(label=text.decode(), score=score)
            return answer

        @guarded
        def GetModelMetadata(self, request: Any) -> Any:
            model, version, label, _ = spec_of(request)
            number, servable = models.find(model, version, label)
            assert list(request.metadata_field) == ["signature_def"]
            answer = get_model_metadata_pb2.GetModelMetadataResponse()
            answer.model_spec.name, answer.model_spec.version.value = model, number
            signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=dict(servable.signatures))
            answer.metadata["signature_def"].Pack(signatures)
            return answer

    class Models(model_service_pb2_grpc.ModelServiceServicer):
        @guarded
        def GetModelStatus(self, request: Any) -> Any:
            model, version, _, _ = spec_of(request)
            answer = get_model_status_pb2.GetModelStatusResponse()
            for number, row in models.states(model, version).items():
                status = answer.model_version_status.add(version=number, state=row["state"])
                status.status.error_message = row["error"]
            return answer

    return Prediction(), Models()


@contextlib.contextmanager
def serve_rest(models: ModelServer, port: int = 0) -> Iterator[RestServer]:
    server = RestServer(models, port)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def serve_grpc(models: ModelServer, port: int = 0) -> Iterator[str]:
    """Yields "HOST:PORT"."""
    from concurrent.futures import ThreadPoolExecutor

    import grpc
    from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

    prediction, service = grpc_services(models)
    server = grpc.server(ThreadPoolExecutor(4))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(prediction, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(service, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


class CodedSession(Session):
    """Tells errors with their code."""

    def check(self, status: int) -> None:
        if self.code(status):
            raise StatusError(self.code(status), self.message(status).decode(errors="replace"))


def main() -> None:
    """The process of a Servable: requests from standard input, answers to standard output, until that ends."""
    session = CodedSession(sys.argv[1], xla=False)
    while True:
        try:
            feeds, outputs = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        reply: Any
        try:
            reply = session.run(feeds, outputs)
        except StatusError as failure:
            reply = failure
        except SessionError as error:
            reply = StatusError(INVALID_ARGUMENT, str(error))
        assert not {name.partition(".")[0] for name in sys.modules} & {"tensorflow", "keras"}
        pickle.dump(reply, sys.stdout.buffer)
        sys.stdout.buffer.flush()
