"""A stand-in for TF Serving that answers GetModelStatus and fails as a test tells it to, over REST and gRPC."""

import contextlib
import http.server
import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

# As tensorflow_serving/model_servers/http_rest_api_util.cc maps them.
HTTP = {"INVALID_ARGUMENT": 400, "DEADLINE_EXCEEDED": 504, "NOT_FOUND": 404, "PERMISSION_DENIED": 403,
        "RESOURCE_EXHAUSTED": 429, "INTERNAL": 500, "UNAVAILABLE": 503}  # fmt: skip


class Script:
    """`steps`, one a request: a status, (HTTP status, body), "close", "cut" or "drip", after seconds; then `rows`."""

    def __init__(self) -> None:
        self.steps: deque[Any] = deque()
        self.rows = [(3, "AVAILABLE", "")]
        self.requests: list[str] = []

    def next_step(self, request: str, headers: Any) -> Any:
        self.requests.append(request)
        self.headers: dict[str, str] = {name.lower(): value for name, value in headers}
        time.sleep(self.steps.popleft() if self.steps and isinstance(self.steps[0], float) else 0)
        return self.steps.popleft() if self.steps else None


@contextlib.contextmanager
def serve_rest(script: Script, port: int = 0) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            step = script.next_step(f"GET {self.path}", self.headers.items())
            rows = [{"version": v, "state": s, "status": {"error_message": e}} for v, s, e in script.rows]
            answer = 200, json.dumps({"model_version_status": rows}).encode()
            failure = HTTP.get(step), b'{"error": "busy"}'
            status, body = step if isinstance(step, tuple) else failure if step in HTTP else answer
            if step == "close":
                return
            with contextlib.suppress(ConnectionError):  # a client that gave up
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                for byte in body[: len(body) // (2 if step == "cut" else 1)]:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.05 if step == "drip" else 0)

        do_POST = do_GET  # noqa: N815

    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextlib.contextmanager
def serve_grpc(script: Script, port: int = 0) -> Iterator[str]:
    import grpc
    from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

    class Models(model_service_pb2_grpc.ModelServiceServicer):
        def GetModelStatus(self, request: Any, context: Any) -> Any:
            step = script.next_step("GetModelStatus", context.invocation_metadata())
            if step in HTTP:
                context.abort(grpc.StatusCode[step], "busy")
            answer = get_model_status_pb2.GetModelStatusResponse()
            for version, state, error in script.rows:
                answer.model_version_status.add(version=version, state=state).status.error_message = error
            return answer

    server = grpc.server(ThreadPoolExecutor(4))
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Models(), server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()
