"""A client of TF Serving's REST interface: the standard library and numpy."""

import base64
import http.client
import json
import re
import ssl
import time
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

from .base_client import Array, BaseClient
from .errors import ServingError, ServingTimeoutError
from .metadata import Signature

# As tensorflow_serving/model_servers/http_server.cc maps them; 502 is a gateway's that found no server behind it.
CODES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "ABORTED",
    429: "RESOURCE_EXHAUSTED", 499: "CANCELLED", 500: "INTERNAL", 501: "UNIMPLEMENTED", 502: "UNAVAILABLE",
    503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip
CHUNK = 1 << 16


class Client(BaseClient):
    """Asks a TF Serving over REST. Every request has a connection of its own, so threads may share a client.

        client = Client("http://localhost:8501", "resnext50")
        client.wait_until_ready()
        client.predict_images(["cat.jpg"])["top_labels"]

    Needs neither Keras nor TensorFlow: `pip install --no-deps keras_resnext numpy` is enough for it.

    Args:
        address: "http://HOST:8501" or https; a path before TF Serving's own `/v1` may follow.
        model: name under which the server has the model.
        version: which one; default the newest that is served.
        label: a version's label, such as "stable", instead of its number.
        timeout: seconds for a call, its further attempts included.
        retries: further attempts where no connection is made or it breaks off, and after HTTP 429, 502 and 503.
        headers: sent with each request, such as {"Authorization": "Bearer …"}.

    Raises:
        ValueError: an argument out of range.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            parts = urlsplit(self.address)
            self._host, self._port = parts.hostname or "", parts.port
        except ValueError:
            self._host = ""
        if not self._host or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
            raise ValueError(f"address={self.address!r} must be http://HOST:PORT or https://HOST:PORT")
        self._connection = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._path = f"{parts.path.rstrip('/')}/v1/models/{quote(self.model, safe='')}"
        if self.version is not None:
            self._path += f"/versions/{self.version}"
        elif self.label is not None:
            self._path += f"/labels/{quote(self.label, safe='')}"

    def _send_predict(self, name: str, signature: Signature, values: Array, timeout: float) -> dict[str, Array]:
        # Columns, not rows: a row repeats every name, and a batch of one keeps its shape.
        inputs = [_encoded(data) for data in values] if values.dtype == object else values.tolist()
        answer = self._request(":predict", timeout, {"signature_name": name, "inputs": inputs})
        try:
            return _to_arrays(answer["outputs"], signature)
        except (KeyError, TypeError, ValueError) as error:
            raise self._not_understood(answer) from error

    def _send_classify(self, name: str, images: list[bytes], timeout: float) -> list[list[tuple[str, float]]]:
        examples = [{"image/encoded": _encoded(data)} for data in images]
        answer = self._request(":classify", timeout, {"signature_name": name, "examples": examples})
        try:
            return [[(str(label), float(score)) for label, score in classes] for classes in answer["results"]]
        except (KeyError, TypeError, ValueError) as error:
            raise self._not_understood(answer) from error

    def _fetch_metadata(self, timeout: float) -> dict[str, Any]:
        return self._request("/metadata", timeout)

    def _fetch_status(self, timeout: float) -> dict[str, Any]:
        return self._request("", timeout)

    def _request(self, path: str, timeout: float, document: dict[str, Any] | None = None) -> Any:
        """The JSON that the server answers to a GET, or to a POST of `document`."""
        body = None if document is None else json.dumps(document, separators=(",", ":")).encode()
        try:
            status, data = self._exchange(self._path + path, body, timeout)
        except TimeoutError as error:
            raise ServingTimeoutError(self.address, message=f"no answer within {timeout:.3g} s") from error
        except ssl.SSLCertVerificationError as error:  # which no further attempt would mend
            raise ServingError(self.address, "UNAUTHENTICATED", str(error)) from error
        except (OSError, http.client.HTTPException) as error:
            text = str(error) or type(error).__name__
            # A server that hangs up is a BadStatusLine to Python as well.
            if isinstance(error, http.client.BadStatusLine) and not isinstance(error, ConnectionError):
                text = f"no answer in HTTP/1.1 ({error!r:.80}); is it TF Serving's REST port, 8501 by custom?"
            raise ServingError(self.address, "UNAVAILABLE", text) from error
        text = data.decode("utf-8", "replace")
        if status != http.HTTPStatus.OK:
            code = CODES.get(status, "UNKNOWN")
            kind = ServingTimeoutError if code == "DEADLINE_EXCEEDED" else ServingError
            raise kind(self.address, code, _error_message(text), status)
        try:
            return json.loads(text)
        except ValueError as error:
            raise self._not_understood(text) from error

    def _exchange(self, path: str, body: bytes | None, timeout: float) -> tuple[int, bytes]:
        deadline = time.monotonic() + timeout
        connection = self._connection(self._host, self._port, timeout=timeout)
        headers = {"User-Agent": "keras_resnext", "Connection": "close", **self._headers}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.connect()
            socket = connection.sock  # http.client lets go of it while the answer is still coming
            _limit(socket, deadline)
            connection.request("GET" if body is None else "POST", path, body, headers)
            _limit(socket, deadline)
            response = connection.getresponse()
            data = bytearray()
            while not response.isclosed():
                _limit(socket, deadline)  # a socket's timeout begins anew with every piece
                piece = response.read1(CHUNK)
                if not piece:
                    break
                data += piece
            if response.length:
                raise ConnectionError(f"the answer broke off {response.length} bytes before its end")
            return response.status, bytes(data)
        finally:
            connection.close()

    def _not_understood(self, answer: Any) -> ServingError:
        return ServingError(self.address, "UNKNOWN", f"an answer that is not TF Serving's: {answer!r:.200}")


def _limit(socket: Any, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    socket.settimeout(left)


def _encoded(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode("ascii")}


def _to_arrays(outputs: Any, signature: Signature) -> dict[str, Array]:
    """What stands under "outputs": an object by name, or the bare value where the signature has one output."""
    if len(signature.outputs) == 1:
        outputs = {next(iter(signature.outputs)): outputs}
    if outputs.keys() != signature.outputs.keys():
        raise ValueError(f"outputs {sorted(outputs)} must be {sorted(signature.outputs)}")
    arrays = {}
    for name, info in signature.outputs.items():
        if info.dtype != "string":
            arrays[name] = np.array(outputs[name], info.dtype)
        elif name.endswith("_bytes"):  # TF Serving's rule for what is base64
            arrays[name] = _decoded(outputs[name])
        else:
            arrays[name] = np.array(outputs[name], np.str_)
    return arrays


def _decoded(value: Any) -> Array:
    """Lists of {"b64": …} to an array of bytes objects."""
    values = np.array(value, object)
    found = np.empty(values.shape, object)
    for place, item in np.ndenumerate(values):
        found[place] = base64.b64decode(item["b64"], validate=True)
    return found


def _error_message(text: str) -> str:
    """The text of {"error": text}. TF Serving escapes it as C does, which is not always JSON: a quote becomes \\'."""
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        found = re.fullmatch(r'\s*\{\s*"error":\s*"(.*)"\s*\}\s*', text, re.DOTALL)
    if found is None:
        return text.strip()[:1000]
    try:
        return found[1].encode("latin-1").decode("unicode_escape").encode("latin-1").decode("utf-8")
    except UnicodeError:
        return found[1]
