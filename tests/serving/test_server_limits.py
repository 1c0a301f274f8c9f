"""Keys, host names, and limits on size, time, queue and connections hold."""

import contextlib
import gzip
import json
import socket
import threading
import time

import pytest

from keras_resnext.serving import Client
from tests.serving.material import ASK_BYTES, NET, PNG, SLOW
from tests.serving.server_process import Server

KEY = "a_key,_of_16_bit"


@pytest.fixture(scope="module")
def strict(base):
    options = dict(
        max_request=65536, request_timeout=1.5, queue=2, max_batch=2, workers=1, head_timeout=1.0, connections=20,
        api_key=KEY,
    )  # fmt: skip
    with Server(base, **options) as server:
        yield server


def with_key(**headers):
    return {"x-api-key": KEY, **headers}


def test_api_key(strict):
    assert strict.ask("/")[0] == strict.ask("/page/app.js")[0] == 200, "the page asks for the key itself"
    wrong = [{}, {"x-api-key": "x"}, {"authorization": f"Basic {KEY}"}, {"authorization": "Bearer x"}]
    for path in (NET, "/v1/models", "/monitoring/prometheus/metrics", f"{NET}/metadata"):
        for headers in wrong:
            status, answer, found = strict.ask(path, headers=headers)
            assert (status, found["www-authenticate"]) == (401, "Bearer")
            assert "Authorization: Bearer KEY" in answer["error"]
        assert strict.ask(path, headers=with_key())[0] == 200
    client = Client(strict.address, "net", headers={"Authorization": f"Bearer {KEY}"})
    assert client.predict_images([PNG])["top_labels"].shape == (1, 5)


def test_other_names_for_this_machine_are_refused_where_no_key_is_wanted(plain):
    for host in ("evil.example", "evil.example:8501", "127.0.0.1.evil.example"):
        status, answer, _ = plain.ask(NET, headers={"host": host})
        assert status == 403
        assert "expected localhost" in answer["error"]
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:9", "[::1]:80", "model.localhost"):
        assert plain.ask(NET, headers={"host": host})[0] == 200
    assert "access-control-allow-origin" not in plain.ask(NET, headers={"origin": "http://evil.example"})[2]


def test_bodies_that_are_too_large(strict):
    assert strict.ask(f"{NET}:predict", b" " * 70_000, with_key())[0] == 413
    large = iter([b" " * 10_000] * 200)
    status, answer, _ = strict.ask(f"{NET}:predict", large, with_key())  # chunked, without a length
    assert (status, "larger than 65536 bytes" in answer["error"]) == (413, True)
    packed = gzip.compress(b" " * (1 << 20))
    assert len(packed) < 65536
    assert strict.ask(f"{NET}:predict", packed, with_key(**{"content-encoding": "gzip"}))[0] == 413
    fine = gzip.compress(json.dumps(ASK_BYTES).encode())
    assert strict.ask(f"{NET}:predict", fine, with_key(**{"content-encoding": "gzip"}))[0] == 200
    for broken in (fine[:-9], b"no gzip"):
        assert strict.ask(f"{NET}:predict", broken, with_key(**{"content-encoding": "gzip"}))[0] == 400


def test_requests_that_are_too_slow(strict):
    started = time.monotonic()
    status, answer, _ = strict.ask(f"{SLOW}:predict", {"instances": [1000]}, with_key())
    assert (status, "no answer within 1.5 s" in answer["error"]) == (504, True)
    assert time.monotonic() - started < 4


def test_a_full_queue(strict):
    statuses = []
    lock = threading.Lock()

    def ask():
        status, answer, headers = strict.ask(f"{SLOW}:predict", {"instances": [4]}, with_key())
        with lock:
            statuses.append((status, headers.get("retry-after"), answer.get("error", "")))

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [row for row in statuses if row[0] == 503]
    assert refused
    assert all(row[1] == "1" and "the queue is full" in row[2] for row in refused)
    assert {row[0] for row in statuses} <= {200, 503, 504}
    assert strict.ask(f"{NET}:predict", ASK_BYTES, with_key())[0] == 200, "what was given up runs no more"


def test_connections_that_say_nothing_or_little(strict):
    host = ("127.0.0.1", strict.port)
    silent = [socket.create_connection(host, 10) for _ in range(25)]  # five more than may be open
    dripping = socket.create_connection(host, 10)
    dripping.sendall(b"POST /v1/models/net:predict HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
    slow_body = socket.create_connection(host, 10)
    head = (
        f"POST /v1/models/net:predict HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {KEY}\r\nContent-Length: 1000\r\n\r\n"
    )
    slow_body.sendall(head.encode() + b"{")
    started = time.monotonic()
    assert strict.ask(NET, headers=with_key())[0] == 200, "others are answered meanwhile"
    with contextlib.suppress(OSError):
        for _ in range(40):
            dripping.sendall(b"a")
            time.sleep(0.1)
    assert time.monotonic() - started < 3.5, "a byte now and then kept the connection"
    assert b"408" in slow_body.recv(100)
    for connection in silent:
        with contextlib.suppress(ConnectionError):
            assert connection.recv(1) == b""
        connection.close()
    assert strict.ask(NET, headers=with_key())[0] == 200


CORS = {"access-control-allow-origin": "*", "access-control-allow-methods": "POST, GET"}


def cors_of(headers):
    return {name: value for name, value in headers.items() if name.startswith("access-control-")}


def test_other_origins_may_ask_only_with_cors(base, plain):
    origin = {"origin": "https://elsewhere.example"}
    with Server(base, cors=True, api_key=KEY) as server:
        headers = {**CORS, "access-control-allow-headers": "Content-Type, Authorization, X-Api-Key"}
        status, text, found = server.ask(f"{NET}:predict", headers=origin, method="OPTIONS")
        assert (status, text, cors_of(found)) == (200, "", headers), "a preflight, which carries no key"
        status, answer, found = server.ask(f"{NET}:predict", method="OPTIONS")
        assert (status, cors_of(found)) == (400, headers)
        assert answer == {"error": "Origin header is missing in CORS preflight"}
        status, _, found = server.ask(f"{NET}:predict", ASK_BYTES, with_key(**origin))
        assert (status, cors_of(found)) == (200, headers)
        status, _, found = server.ask(f"{NET}:predict", ASK_BYTES, origin)
        assert (status, cors_of(found)) == (401, headers), "so that the page can read why"
        assert not cors_of(server.ask("/", headers=origin)[2])
    assert not cors_of(plain.ask(f"{NET}:predict", headers=origin, method="OPTIONS")[2])
    assert not cors_of(plain.ask(f"{NET}:predict", ASK_BYTES, origin)[2])
