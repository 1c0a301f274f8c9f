"""Attacks `keras-resnext serve` while others work with it, and says what came of it: a table, and JSON with --output.

    python tools/attack_server.py [--requests 10000] [--clients 32] [--malformed 0.05] [--output FILE]

Concurrent clients send good requests, small and large, and among them every kind of request that once hurt the server;
versions are swapped meanwhile, and once a models.config that cannot be read stands beside them. A process of its own
asks for status and metadata all the time. Each good request must be answered, each bad one refused, and the one who
only asks must not wait.
"""

import argparse
import contextlib
import gzip
import http.client
import io
import json
import multiprocessing
import os
import random
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from load_server import NAME, Connection, Server, image, malformed, replace_version, request_for, working_base
from PIL import Image

PREDICT, CLASSIFY = f"/v1/models/{NAME}:predict", f"/v1/models/{NAME}:classify"
LARGE = 31_000_000
REFUSED = ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "NOT_FOUND")
BUSY = (503, 504, "UNAVAILABLE", "DEADLINE_EXCEEDED", "CUT OFF")
WARM = 1000  # good requests before it counts: memory grows to where two versions and all threads have theirs
PATIENCE = 0.1  # seconds

Attack = Callable[[Server, str], tuple[int | str, str]]


def post(body: bytes, path: str = PREDICT, headers: dict[str, str] | None = None) -> Attack:
    def ask(server: Server, _: str) -> tuple[int | str, str]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        try:
            connection.request("POST", path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    return ask


def raw(request: bytes) -> Attack:
    """The first answer, and that there is one alone."""

    def ask(server: Server, _: str) -> tuple[int | str, str]:
        answer = b""
        connection = socket.create_connection(("127.0.0.1", server.port), 60)
        with connection, contextlib.suppress(ConnectionError):
            connection.sendall(request)
            while piece := connection.recv(1 << 16):
                answer += piece
        assert answer.count(b"HTTP/1.1") == 1, "a second request got through"
        return int(answer[9:12]), answer.decode()

    return ask


def grpc_call(method: str, message: bytes) -> Attack:
    def ask(_: Server, address: str) -> tuple[int | str, str]:
        import grpc

        with grpc.insecure_channel(address) as channel:
            call = channel.unary_unary(f"/tensorflow.serving.PredictionService/{method}")
            try:
                call(message, timeout=60)
            except grpc.RpcError as error:
                return error.code().name, error.details()
        return "OK", ""

    return ask


def field(number: int, data: bytes) -> bytes:
    """A field of a protobuf message that has a length."""
    length, size = b"", len(data)
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


def tensor(dtype: int, sizes: tuple[int, ...], rest: bytes) -> bytes:
    def number(value: int) -> bytes:
        return bytes([value & 127 | 128]) + number(value >> 7) if value > 127 else bytes([value])

    shape = b"".join(field(2, b"\x08" + number(size)) for size in sizes)
    return b"\x08" + bytes([dtype]) + field(2, shape) + rest


def predict(name: str, signature: str, value: bytes) -> bytes:
    return field(1, field(1, NAME.encode()) + field(3, signature.encode())) + field(
        2, field(1, name.encode()) + field(2, value)
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def attacks(size: int) -> dict[str, Attack]:
    """Every kind that once hurt, and what all servers refuse."""
    good = request_for(image(size, 0))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    webp, eps = io.BytesIO(), b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n" + b"%" * 100_000
    Image.new("RGB", (1, 1)).save(webp, "WEBP")
    rows = b'{"signature_name":"serving_bytes","instances":[' + b",".join([b'{"b64":""}'] * 1_500_000) + b"]}"
    context = {"signature_name": "classify", "context": {"a": [1] * 10_000}, "examples": [{}] * 8000}
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    two_lengths, in_chunks = f"{head}Content-Length: 4\r\n\r\n", f"{head}Connection: close\r\n\r\n"
    millions = tensor(1, (1 << 40, size, size, 3), field(5, np.zeros(1, np.float32).tobytes()))
    found: dict[str, Attack] = {
        "31 MB of objects": post(b'{"instances":[' + b",".join([b'{"a":0}'] * (LARGE // 8)) + b"]}"),
        "31 MB of numbers": post(b'{"instances":[' + b"1," * (LARGE // 2) + b"1]}"),
        "31 MB of lists": post(b'{"instances":[' + b"[]," * (LARGE // 3) + b"1]}"),
        "31 MB that is no JSON": post(b'{"instances":[' + b"1," * (LARGE // 2) + b"]}"),
        "\\ud800": post(b'{"signature_name":"serving_bytes","instances":["\\ud800"]}'),
        "1.5 million empty rows in gzip": post(gzip.compress(rows), headers={"content-encoding": "gzip"}),
        "32 MB of blanks in gzip": post(gzip.compress(b" " * LARGE), headers={"content-encoding": "gzip"}),
        "a context for 8000 examples": post(json.dumps(context).encode(), CLASSIFY),
        "EPS": post(request_for(eps)),
        "JPEG of 0xFF": post(request_for(b"\xff\xd8\xff" + b"\xff" * 20_000_000)),
        "PNG with a chunk before IHDR": post(request_for(b"\x89PNG\r\n\x1a\n" + chunk(b"abCd", b"") + header)),
        "PNG of 400 megapixels": post(request_for(b"\x89PNG\r\n\x1a\n" + header)),
        "tiny WebP": post(request_for(webp.getvalue())),
        "gRPC: 2^40 rows of one value": grpc_call("Predict", predict("images", "serving_default", millions)),
        "gRPC: strings of one value": grpc_call(
            "Predict", predict("image_bytes", "serving_bytes", tensor(7, (1 << 28,), field(8, b"")))
        ),
        "gRPC: 31 MB of empty tensors": grpc_call(
            "Predict", predict("images", "serving_default", tensor(1, (), b"\x7a\x00" * (LARGE // 2)))
        ),
        "gRPC: 31 MB of empty examples": grpc_call(
            "Classify", field(1, field(1, NAME.encode())) + field(2, field(1, b"\x0a\x00" * (LARGE // 2)))
        ),
        "foreign Origin": post(good, headers={"origin": "https://elsewhere.example"}),
        "two lengths": raw((two_lengths + "0\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n").encode()),
        "100,000 chunks of one byte": raw(in_chunks.encode() + b"1\r\n \r\n" * 100_000 + b"0\r\n\r\n"),
    }
    for number, data in enumerate((b"\xff\xd8\xff\xe9\xfe", b"GIF89a\xe9\xff", b"BM\xff\xfe", b"\xe9")):
        found[f"short image {number}, no UTF-8"] = post(request_for(data))
    for number, (path, body) in enumerate(malformed(good, size)):
        found[f"malformed {number}"] = post(body, path)
    return found


def watch(port: int, stop: Any, results: Any) -> None:
    """Asks all the time, on one connection, for what costs nothing; a process of its own."""
    connection, waits = Connection(port), list[tuple[float, float]]()
    for path in _alternating():
        if stop.is_set():
            break
        started = time.perf_counter()
        status, _ = connection.ask(path)
        waits.append((time.perf_counter() - started, time.time()))
        assert status == 200, status
        time.sleep(0.01)
    results.put(sorted(waits))


def _alternating() -> Any:
    while True:
        yield f"/v1/models/{NAME}"
        yield f"/v1/models/{NAME}/metadata"


def swap(server: Server, base: Path, stop: threading.Event, seconds: float, outcomes: "Counter[str]") -> None:
    """The next version every few seconds; before the third one a models.config that cannot be read, for a while."""
    connection, number = Connection(server.port), 1
    while not stop.wait(seconds):
        if number == 3:
            config = base.parent / "models.config"
            config.write_text("model_config_list {", encoding="utf-8")
            stop.wait(2)
            config.unlink()
        number = replace_version(connection, base, number)
        outcomes["swaps"] += 1


def run(base: Path, options: argparse.Namespace) -> dict[str, Any]:
    size = options.size
    server = Server(base.parent, poll_seconds=0.2, grpc_port=0)
    assert server.process.stdout
    address = next(line.split()[1] for line in server.process.stdout if line.startswith("gRPC"))
    pixels = np.random.default_rng(0).integers(0, 256, (8, size, size, 3))
    goods = [request_for(image(size, seed)) for seed in range(15)]
    goods.append(json.dumps({"instances": pixels.tolist()}).encode())
    bads, outcomes, kinds = attacks(size), Counter[str](), Counter[str]()
    latencies: list[float] = []
    failures: list[str] = []
    lock = threading.Lock()
    numbers = iter(range(WARM + options.requests))
    memories, attacked, running = list[float](), list[float](), list[tuple[float, float, str]]()

    def client(seed: int) -> None:
        rng, connection = random.Random(seed), Connection(server.port)
        while True:
            with lock:
                number = next(numbers, None)
                if number is None:
                    return
                if number == WARM:
                    memories.append(server.memory)
                    attacked.append(time.time())
            entered = time.time()
            if number >= WARM and rng.random() < options.malformed:
                kind = rng.choice(list(bads))
                try:
                    code, text = bads[kind](server, address)
                except (OSError, http.client.HTTPException) as error:  # the rest of a refused body came too slowly
                    code, text = "CUT OFF", repr(error)
                right = code in REFUSED if isinstance(code, str) else 400 <= code < 500
                outcome = "bad refused" if right else "bad put off" if code in BUSY else "bad wrong"
            else:
                kind, body = "good", rng.choice(goods)
                try:
                    code, data = connection.ask(PREDICT, body)
                    text = data.decode()
                    right = code == 200 and len(json.loads(text)["predictions"]) in (1, 8)
                except (OSError, http.client.HTTPException, ValueError) as error:
                    code, text, right = 0, repr(error), False
                outcome = "good answered" if right else "good failed"
            if number < WARM:
                continue
            left = time.time()
            with lock:
                running.append((entered, left, kind))
                if kind == "good":
                    latencies.append(left - entered)
                outcomes[outcome] += 1
                kinds[kind] += 1
                if outcome in ("bad wrong", "good failed"):
                    failures.append(f"{outcome}: {kind}: {code} {text[:200]}")

    context, stop = multiprocessing.get_context("spawn"), threading.Event()
    stopped, results = context.Event(), context.Queue()
    watcher = context.Process(target=watch, args=(server.port, stopped, results))
    watcher.start()
    os.nice(10)  # of the clients alone: server and watcher are what is looked at
    swapper = threading.Thread(target=swap, args=(server, base, stop, options.swap_seconds, outcomes))
    swapper.start()
    began = time.perf_counter()
    with ThreadPoolExecutor(options.clients) as pool:
        list(pool.map(client, range(options.clients)))
    seconds = time.perf_counter() - began
    stop.set()
    swapper.join()
    stopped.set()
    asked = results.get(timeout=60)
    waits = [wait for wait, ended in asked if ended > attacked[0]]
    calm = [wait for wait, ended in asked if ended <= attacked[0]]
    beside = Counter(
        kind
        for wait, ended in asked
        if wait > PATIENCE
        for entered, left, kind in running
        if entered < ended and left > ended - wait and kind != "good"
    )
    watcher.join()
    time.sleep(3)
    before, after = memories[0], server.memory
    code = server.stop()
    server.log.seek(0)
    log = [line for line in server.log if "available" not in line and "unloaded" not in line]
    ordered = sorted(latencies)
    return {
        "requests": sum(kinds.values()),
        **{name: outcomes[name] for name in ("good answered", "good failed", "bad refused")},
        **{name: outcomes[name] for name in ("bad put off", "bad wrong", "swaps")},
        "kinds of bad ones, least often": f"{len(kinds) - 1} of {len(bads)}, {min(kinds[kind] for kind in bads)} times",
        "seconds": round(seconds, 1),
        "good ones: p50, p99, longest, ms": [round(1e3 * ordered[int(len(ordered) * part)]) for part in (0.5, 0.99)]
        + [round(1e3 * ordered[-1])],
        "bystander: asked, p50, p99, longest, ms": [len(waits)]
        + [round(1e3 * waits[int(len(waits) * part)], 1) for part in (0.5, 0.99)]
        + [round(1e3 * waits[-1], 1)],
        "bystander: longest before the attacks, ms": round(1e3 * max(calm), 1),
        "bystander: waits over 100 ms, beside": [sum(wait > PATIENCE for wait in waits), dict(beside.most_common(5))],
        "memory MB before, after": [round(before), round(after), f"{100 * after / before - 100:+.1f} %"],
        "lines on models.config, in all": [sum("models.config" in line for line in log), len(log)],
        "exit code after SIGTERM": code,
        "examples of failures": sorted(failures, reverse=True)[:5],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--malformed", type=float, default=0.05, help="share of malformed requests")
    parser.add_argument("--size", type=int, default=64, help="pixels of the images that are sent")
    parser.add_argument("--swap-seconds", type=float, default=5.0, help="between two versions")
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with working_base(None, options.size) as base:
        results = run(base, options)
    for key, value in results.items():
        print(f"  {key:<44}{value}")
    if options.output:
        options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
