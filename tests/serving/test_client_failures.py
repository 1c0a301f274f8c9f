"""What passes is tried again and what lasts is not; every call ends in time, with an error that says what happened."""

import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from keras_resnext.serving import (
    Client,
    ServingError,
    ServingTimeoutError,
    Signature,
    TensorInfo,
    VersionStatus,
)
from keras_resnext.serving.client.errors import with_retries
from tests.serving.failing_server import Script, serve_grpc, serve_rest
from tests.serving.material import IMAGES, PNGS

pytest.importorskip("tensorflow_serving")
READY = [VersionStatus(3, "AVAILABLE")]


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def make(script: Script, kind: Any) -> Iterator[Callable[..., Any]]:
    """Makes clients of one kind, of a server that follows `script`."""
    with ExitStack() as stack:
        address = stack.enter_context(serve_rest(script) if kind is Client else serve_grpc(script))
        yield lambda model="net", **options: stack.enter_context(kind(address, model, **options))


@pytest.fixture
def rest(script: Script) -> Iterator[str]:
    with serve_rest(script) as address:
        yield address


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_status_tells_why_a_version_does_not_load(make: Any, script: Script) -> None:
    script.rows = [(4, "END", "no space"), (3, "AVAILABLE", "")]
    assert make().status() == [VersionStatus(4, "END", "no space"), *READY]


def test_headers_are_sent(make: Any, script: Script) -> None:
    make(headers={"Authorization": "Bearer 7"}).status()
    assert script.headers["authorization"] == "Bearer 7"


@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED"])
def test_passing_errors_are_tried_again(make: Any, script: Script, code: str) -> None:
    script.steps.extend([code, code])
    assert make().status() == READY
    assert len(script.requests) == 3


def test_retries_end(make: Any, script: Script) -> None:
    script.steps.extend(["UNAVAILABLE"] * 9)
    with pytest.raises(ServingError, match="busy") as error:
        make(retries=2).status()
    assert (error.value.code, len(script.requests)) == ("UNAVAILABLE", 3)
    assert not isinstance(error.value, TimeoutError)
    script.requests.clear()
    begin = time.monotonic()
    with pytest.raises(ServingTimeoutError, match=r"gave up after \d+ attempts; the last one: UNAVAILABLE: busy"):
        make(retries=99, timeout=0.5).status()
    assert time.monotonic() - begin < 5  # 99 retries would take minutes
    assert 2 <= len(script.requests) <= 5


@pytest.mark.parametrize(
    "code", ["PERMISSION_DENIED", "INTERNAL", "DEADLINE_EXCEEDED", "INVALID_ARGUMENT", "NOT_FOUND"]
)
def test_lasting_errors_are_not_tried_again(make: Any, script: Script, code: str) -> None:
    script.steps.append(code)
    with pytest.raises(ServingError) as error:
        make().status()
    assert (error.value.code, len(script.requests)) == (code, 1)
    assert isinstance(error.value, TimeoutError) == (code == "DEADLINE_EXCEEDED")


def test_slow_answers_time_out(make: Any, script: Script) -> None:
    script.steps.append(0.8)
    begin = time.monotonic()
    with pytest.raises(ServingTimeoutError, match=r"no answer within 0\.[23]\d* s") as error:
        make(timeout=0.3).status()
    assert time.monotonic() - begin < 5  # 99 retries would take minutes
    assert isinstance(error.value, TimeoutError)
    assert error.value.code == "DEADLINE_EXCEEDED"
    assert len(script.requests) == 1


def test_a_server_that_comes_late(script: Script, kind: Any) -> None:
    port = free_port()
    address = f"http://127.0.0.1:{port}" if kind is Client else f"127.0.0.1:{port}"
    with kind(address, "net", retries=1) as client, pytest.raises(ServingError) as error:
        client.status()
    assert error.value.code == "UNAVAILABLE"
    done = threading.Event()

    def serve_late() -> None:
        time.sleep(0.4)
        with serve_rest(script, port) if kind is Client else serve_grpc(script, port):
            done.wait(20)

    thread = threading.Thread(target=serve_late)
    thread.start()
    try:
        with kind(address, "net", retries=20) as client:
            assert client.status() == READY
    finally:
        done.set()
        thread.join()


def test_wait_until_ready(make: Any, script: Script) -> None:
    script.rows = [(3, "LOADING", "")]
    with pytest.raises(ServingTimeoutError, match=r"'net' was not ready within 0\.6 s; last seen: version 3 LOADING"):
        make().wait_until_ready(0.6)
    script.rows = [(3, "END", "no space")]
    with pytest.raises(ServingTimeoutError, match="last seen: version 3 END no space"):
        make().wait_until_ready(0.3)
    script.rows = [(3, "LOADING", "")]
    script.steps.extend(["UNAVAILABLE", "RESOURCE_EXHAUSTED", "NOT_FOUND"])
    timer = threading.Timer(0.9, lambda: setattr(script, "rows", [(3, "AVAILABLE", "")]))
    timer.start()
    begin = time.monotonic()
    make(retries=0).wait_until_ready(10)
    assert 0.8 < time.monotonic() - begin < 2
    script.steps.extend(["NOT_FOUND"] * 9)
    with pytest.raises(ServingTimeoutError, match="last seen: NOT_FOUND: busy"):
        make().wait_until_ready(0.3)
    script.steps.clear()
    script.steps.append("PERMISSION_DENIED")
    with pytest.raises(ServingError, match="PERMISSION_DENIED"):
        make().wait_until_ready(5)


def test_wait_until_ready_for_no_server(kind: Any) -> None:
    address = f"127.0.0.1:{free_port()}"
    with (
        kind(f"http://{address}" if kind is Client else address, "net") as client,
        pytest.raises(ServingTimeoutError, match="last seen: UNAVAILABLE"),
    ):
        client.wait_until_ready(0.4)


@pytest.mark.parametrize("step", ["close", "cut"])
def test_broken_connections_are_tried_again(rest: str, script: Script, step: str) -> None:
    script.steps.append(step)
    assert Client(rest, "net").status() == READY
    script.steps.append(step)
    with pytest.raises(ServingError, match=r"broke off|closed connection") as error:
        Client(rest, "net", retries=0).status()
    assert (error.value.code, len(script.requests)) == ("UNAVAILABLE", 3)
    assert "port" not in error.value.message


def test_malformed_json(rest: str, script: Script) -> None:
    script.steps.append((200, b"<html>no JSON</html>"))
    with pytest.raises(ServingError, match="an answer that is not TF Serving's: '<html>no JSON") as error:
        Client(rest, "net").classify(PNGS)
    assert (error.value.code, len(script.requests)) == ("UNKNOWN", 1)


@pytest.mark.parametrize(
    "body", [b"[]", b"{}", b'{"model_version_status": [{}]}', b'{"results": 3}', b'{"outputs": [[1, 2], [3]]}']
)
def test_json_of_another_kind(rest: str, script: Script, body: bytes) -> None:
    """A server that is none of TF Serving's."""
    script.steps.extend([(200, body)] * 4)
    client = Client(rest, "net")
    client._signatures = {"serving_default": Signature({"a": TensorInfo("float32", None)}, {
        "b": TensorInfo("float32", None)}, "")}  # fmt: skip
    for call in (client.status, client.metadata, lambda: client.classify(PNGS), lambda: client.predict(IMAGES)):
        with pytest.raises(ServingError, match="TF Serving's") as error:
            call()
        assert error.value.code == "UNKNOWN"


def test_an_error_that_is_no_json(rest: str, script: Script) -> None:
    script.steps.append((403, b"<p>not for you</p>"))
    with pytest.raises(ServingError) as error:
        Client(rest, "net").status()
    assert str(error.value) == f"{rest}: HTTP 403 (PERMISSION_DENIED): <p>not for you</p>"


def test_tf_serving_escapes_as_c_does(rest: str, script: Script) -> None:
    """absl::CEscape, with which TF Serving puts an error into JSON, though what it makes of ' and ś is none."""
    script.steps.append((400, rb'{ "error": "it\'s \"sze\305\233\304\207\"\n" }'))
    with pytest.raises(ServingError) as error:
        Client(rest, "net").status()
    assert error.value.message == 'it\'s "sześć"\n'


def test_dripping_answers_time_out(rest: str, script: Script) -> None:
    """Each byte comes in time; all of them do not."""
    script.steps.append("drip")
    begin = time.monotonic()
    with pytest.raises(ServingTimeoutError):
        Client(rest, "net", timeout=0.4).status()
    assert time.monotonic() - begin < 0.7


def test_rest_uses_paths_before_its_own(rest: str, script: Script) -> None:
    Client(f"{rest}/ml/", "net", label="a b").status()
    assert script.requests == ["GET /ml/v1/models/net/labels/a%20b"]


def test_errors_survive_pickle() -> None:
    for error in (ServingError("a", "NOT_FOUND", "no net", 404), ServingTimeoutError("a", message="late")):
        found = pickle.loads(pickle.dumps(error))
        assert (type(found), str(found), vars(found)) == (type(error), str(error), vars(error))
    assert str(ServingError("a", "NOT_FOUND", "no net", 404)) == "a: HTTP 404 (NOT_FOUND): no net"
    assert str(ServingTimeoutError("a", message="late")) == "a: DEADLINE_EXCEEDED: late"


def test_pauses_grow_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)

    def attempt(_: float) -> None:
        raise ServingError("a", "UNAVAILABLE", "busy")

    for _ in range(2):
        with pytest.raises(ServingError):
            with_retries(attempt, address="a", deadline=time.monotonic() + 1e6, retries=9)
    longest = [min(0.1 * 2**n, 5) for n in range(9)] * 2
    assert all(most / 2 <= pause <= most for pause, most in zip(pauses, longest, strict=True))
    assert pauses[:9] != pauses[9:]
