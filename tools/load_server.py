"""Loads `keras-resnext serve` with requests and faults, and says what came of it: a table, and JSON with --output.

    python tools/load_server.py [--base savedmodels/NAME] [--requests 10000] [--output FILE]

1. Load: concurrent clients send good requests with a share of malformed ones, while versions are swapped. Every good
   one must be answered, every bad one refused with a 4xx that says why, and the memory must stay.
2. Killed: the server is killed and started again while clients retry. No answer may be wrong.
3. Faults: slow-loris clients, a thousand idle connections, decompression bombs, a body of a gigabyte.
4. Throughput: with dynamic batching, one by one, and the bare session.

Without --base a small ResNeXt is exported first. The machine should have nothing else to do.
"""

import argparse
import base64
import contextlib
import http.client
import io
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAME = "net"
START = "from keras_resnext.cli import run; run()"

Row = dict[str, Any]


class Server:
    """`keras-resnext serve` in a process of its own."""

    def __init__(self, base: Path, port: int = 0, **options: object) -> None:
        arguments = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  it lasts as long as the server
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, "serve", str(base), "--port", str(port), *arguments],
            stdout=subprocess.PIPE, stderr=self.log, text=True,
        )  # fmt: skip
        assert self.process.stdout
        line = next((line for line in self.process.stdout if line.startswith("page")), "")
        if not line:
            self.log.seek(0)
            raise RuntimeError(f"the server did not start: {self.log.read()}")
        self.port = int(line.rstrip("/\n").rpartition(":")[2])

    @property
    def memory(self) -> float:
        """Megabytes that are resident."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)


class Connection:
    """One that is kept open, as clients under load do."""

    def __init__(self, port: int, timeout: float = 60) -> None:
        self.port, self.timeout = port, timeout
        self.http: http.client.HTTPConnection | None = None

    def ask(self, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """(status, body); a connection that the server closed while it was idle is opened again, once."""
        for attempt in (1, 2):
            fresh = self.http is None
            if self.http is None:
                self.http = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)
            try:
                self.http.request("GET" if body is None else "POST", path, body)
                response = self.http.getresponse()
                status, data = response.status, response.read()
                if response.will_close:
                    self.close()
                return status, data
            except (OSError, http.client.HTTPException):
                self.close()
                if fresh or attempt == 2:
                    raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        if self.http is not None:
            self.http.close()
        self.http = None


def image(size: int, seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((size, size)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def request_for(data: bytes) -> bytes:
    row = {"b64": base64.b64encode(data).decode()}
    return json.dumps({"signature_name": "serving_bytes", "instances": [row]}).encode()


def malformed(good: bytes, size: int) -> list[tuple[str, bytes]]:
    """Requests that no server should answer, of every kind that TF Serving refuses."""
    path = f"/v1/models/{NAME}:predict"
    jpeg = image(size, 0)
    return [
        (path, good[: len(good) // 2]),
        (path, b""),
        (path, b"[1, 2]"),
        (path, json.dumps({"instances": [[[1, 2], [3]]]}).encode()),
        (path, json.dumps({"instances": [[[["a"] * 3]]]}).encode()),
        (path, json.dumps({"instances": [[[[float("nan")] * 3] * size] * size]}).encode()),
        (path, json.dumps({"signature_name": "nothing", "instances": [1]}).encode()),
        (path, request_for(jpeg[: len(jpeg) // 2])),
        (path, request_for(b"no image")),
        (f"/v1/models/{NAME}/versions/999:predict", good),
        ("/v1/models/nobody:predict", good),
        (f"/v1/models/{NAME}:unknown", good),
    ]


def replace_version(connection: Connection, base: Path, number: int) -> int:
    """Puts the next version beside this one, whose folder goes when the new one answers; its number."""
    shutil.copytree(base / str(number), base / ".incoming")
    (base / ".incoming").rename(base / str(number + 1))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        rows = json.loads(connection.ask(f"/v1/models/{NAME}")[1])["model_version_status"]
        if any(row["version"] == str(number + 1) and row["state"] == "AVAILABLE" for row in rows):
            break
        time.sleep(0.05)
    shutil.rmtree(base / str(number))
    return number + 1


def run_load(server: Server, base: Path, options: argparse.Namespace, size: int) -> Row:
    """Good and bad requests from concurrent clients while versions come and go."""
    goods = [request_for(image(size, seed)) for seed in range(16)]
    bads = malformed(goods[0], size)
    path = f"/v1/models/{NAME}:predict"
    latencies: list[float] = []
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    numbers = iter(range(options.requests))
    lock = threading.Lock()
    warm = threading.Event()
    memories: list[float] = []

    def client(seed: int) -> None:
        rng, connection = random.Random(seed), Connection(server.port)
        while True:
            with lock:
                if next(numbers, None) is None:
                    return
            bad = rng.random() < options.malformed
            target, body = rng.choice(bads) if bad else (path, rng.choice(goods))
            started = time.perf_counter()
            try:
                status, data = connection.ask(target, body)
                answer = json.loads(data)
            except (OSError, http.client.HTTPException, ValueError) as error:
                status, answer = 0, {"error": repr(error)}
            seconds = time.perf_counter() - started
            if bad:
                right = 400 <= status < 500 and bool(answer.get("error"))
            else:
                right = status == 200 and len(answer["predictions"][0]["top_scores"]) > 1
            with lock:
                outcomes[f"{'bad' if bad else 'good'} {'right' if right else 'wrong'}"] += 1
                if not right:
                    failures.append(f"{target} {status} {str(answer)[:200]}")
                if not bad:
                    latencies.append(seconds)

    def swap() -> None:
        """The next version every few seconds; the old one's folder goes when the new one answers."""
        connection, number = Connection(server.port), max(int(f.name) for f in base.iterdir() if f.name.isdecimal())
        while not warm.wait(options.swap_seconds):
            number = replace_version(connection, base, number)
            outcomes["swaps"] += 1
            memories.append(server.memory)

    swapper = threading.Thread(target=swap)
    started = time.perf_counter()
    swapper.start()
    with ThreadPoolExecutor(options.clients) as pool:
        list(pool.map(client, range(options.clients)))
    seconds = time.perf_counter() - started
    warm.set()
    swapper.join()
    # The first swaps bring the memory to where two versions fit; what counts is that it stays there.
    steady = memories[min(3, len(memories) // 3) :] or [server.memory]
    ordered = sorted(latencies)
    return {
        "requests": sum(outcomes[key] for key in outcomes if key != "swaps"),
        **{key: outcomes[key] for key in ("good right", "good wrong", "bad right", "bad wrong", "swaps")},
        "seconds": round(seconds, 1),
        "requests a second": round(options.requests / seconds, 1),
        "p50 ms": round(1e3 * statistics.median(ordered), 1),
        "p99 ms": round(1e3 * ordered[int(len(ordered) * 0.99)], 1),
        "memory MB, lowest, highest, last": [round(min(steady)), round(max(steady)), round(steady[-1])],
        "memory within": f"±{100 * (max(steady) - min(steady)) / (max(steady) + min(steady)):.1f} %",
        "examples of failures": failures[:5],
    }


def run_killed(base: Path, options: argparse.Namespace, size: int) -> Row:
    """Clients with retries while the server is killed and started again on the same port."""
    from keras_resnext.serving import Client, ServingError

    server = Server(base.parent)
    data = image(size, 1)
    expected = Client(f"http://127.0.0.1:{server.port}", NAME).predict_images([data])["probabilities"]
    stop = threading.Event()
    outcomes: Counter[str] = Counter()
    lock = threading.Lock()

    def ask() -> None:
        client = Client(f"http://127.0.0.1:{server.port}", NAME, timeout=60, retries=60)
        while not stop.is_set():
            try:
                found = client.predict_images([data])["probabilities"]
                outcome = "right" if np.allclose(found, expected, atol=1e-5) else "wrong answer"
            except ServingError as error:
                outcome = f"reported {error.code}"
            with lock:
                outcomes[outcome] += 1

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    kills = 0
    for _ in range(options.kills):
        time.sleep(3)
        server.stop(signal.SIGKILL)
        kills += 1
        server = Server(base.parent, server.port)
    time.sleep(3)
    stop.set()
    for thread in threads:
        thread.join()
    code = server.stop()
    return {"kills": kills, "answers": dict(outcomes), "exit code after SIGTERM": code}


def run_faults(server: Server, base: Path, size: int) -> Row:
    """What is meant to bring a server down. After each fault a good request must be answered at once."""
    good = request_for(image(size, 2))
    path = f"/v1/models/{NAME}:predict"
    rows: Row = {}

    def good_latency() -> float:
        started = time.perf_counter()
        status, _ = Connection(server.port).ask(path, good)
        assert status == 200, status
        return round(1e3 * (time.perf_counter() - started), 1)

    def connect() -> socket.socket:
        return socket.create_connection(("127.0.0.1", server.port), 30)

    def raw(head: str) -> bytes:
        return head.replace("\n", "\r\n").encode()

    rows["good request before, ms"] = good_latency()

    idle = [connect() for _ in range(1000)]
    rows["good request beside 1000 idle connections, ms"] = good_latency()

    loris = [connect() for _ in range(200)]
    for connection in loris:
        connection.sendall(raw(f"POST {path} HTTP/1.1\nHost: localhost\n"))
    started, open_ = time.monotonic(), set(loris)
    while open_ and time.monotonic() - started < 40:
        for connection in list(open_):
            try:
                connection.sendall(b"X-A: b\r\n")
            except OSError:
                open_.discard(connection)
        time.sleep(0.5)
    rows["slow-loris: 200 clients, all cut off after s"] = (
        round(time.monotonic() - started, 1) if not open_ else "never"
    )
    rows["good request beside slow-loris, ms"] = good_latency()
    for connection in (*idle, *loris):
        connection.close()

    bomb = io.BytesIO()
    Image.new("L", (13_000, 13_000)).save(bomb, "PNG")
    before = server.memory
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(Connection(server.port).ask, path, request_for(bomb.getvalue())) for _ in range(4)]
        peak = before
        while not all(future.done() for future in asked):
            peak = max(peak, server.memory)
            time.sleep(0.05)
    rows["bombs of 169 megapixels in 4 requests: statuses"] = sorted(future.result()[0] for future in asked)
    rows["memory MB before and at most"] = [round(before), round(peak)]
    huge = io.BytesIO()
    Image.new("1", (50_000, 50_000)).save(huge, "PNG")
    status, data = Connection(server.port).ask(path, request_for(huge.getvalue()))
    rows["bomb of 2500 megapixels"] = f"{status} {json.loads(data)['error'][:80]}"

    body = b" " * (1 << 20)
    connection = connect()
    connection.sendall(raw(f"POST {path} HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked\n\n"))
    sent, answer = 0, b""
    with contextlib.suppress(OSError):
        for _ in range(1024):
            connection.sendall(b"100000\r\n" + body + b"\r\n")
            sent += 1
        connection.sendall(b"0\r\n\r\n")
    with contextlib.suppress(OSError):
        answer = connection.recv(100)
    rows["a body of 1 GB in chunks"] = (
        f"{answer[9:12].decode() or 'cut off'} after {sent} MB, memory {server.memory:.0f} MB"
    )
    connection.close()
    rows["good request after all that, ms"] = good_latency()
    return rows


def run_throughput(base: Path, options: argparse.Namespace, size: int) -> Row:
    """Images a second: batched, one by one, and the session alone in this process."""
    goods = [request_for(image(size, seed)) for seed in range(16)]
    path = f"/v1/models/{NAME}:predict"

    def measure(server: Server) -> float:
        stop = time.perf_counter() + options.throughput_seconds

        def client(seed: int) -> int:
            connection, count = Connection(server.port), 0
            while time.perf_counter() < stop:
                status, _ = connection.ask(path, goods[(seed + count) % len(goods)])
                assert status == 200, status
                count += 1
            return count

        with ThreadPoolExecutor(options.clients) as pool:
            return sum(pool.map(client, range(options.clients))) / options.throughput_seconds

    rates: dict[str, float] = {}
    for name, settings in (("batched", {}), ("one by one", {"max_batch": 1})):
        server = Server(base.parent, **settings)
        try:
            measure(server)
            rates[name] = measure(server)
        finally:
            server.stop()

    from keras_resnext.serving.server.servable import Servable

    version = max((f for f in base.iterdir() if f.name.isdecimal()), key=lambda folder: int(folder.name))
    servable = Servable(version, 60.0)
    signature = servable.signature("serving_bytes")
    for count in (1, 16):
        data = np.empty(count, object)
        data[:] = [image(size, seed) for seed in range(count)]
        for seconds in (2.0, options.throughput_seconds):
            stop, runs = time.perf_counter() + seconds, 0
            while time.perf_counter() < stop:
                servable.run(signature, {"image_bytes": data})
                runs += 1
        rates[f"bare session, {count} at once"] = runs * count / options.throughput_seconds
    servable.close()
    return {f"{name}, images a second": round(rate, 1) for name, rate in rates.items()}


def export_small(folder: Path, size: int) -> None:
    from keras_resnext import ResNeXt
    from keras_resnext.export import export_saved_model

    options = dict(blocks=(1, 1, 1, 1), groups=8, width_per_group=4, base_channels=16, stem_channels=16, name=NAME)
    export_saved_model(ResNeXt(**options, classes=10, input_shape=(size, size, 3)), folder)


@contextlib.contextmanager
def working_base(source: Path | None, size: int) -> Iterator[Path]:
    """A copy that may be changed: BASE/net."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder, NAME)
        if source is None:
            export_small(base, size)
        else:
            version = max((f for f in source.iterdir() if f.name.isdecimal()), key=lambda f: int(f.name))
            shutil.copytree(version, base / "1")
        yield base


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="folder of a model's versions; default a small ResNeXt")
    parser.add_argument("--size", type=int, default=64, help="pixels of the images that are sent")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--malformed", type=float, default=0.05, help="share of malformed requests")
    parser.add_argument("--swap-seconds", type=float, default=3.0, help="between two versions")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--throughput-seconds", type=float, default=8.0)
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parser.add_argument("--only", choices=("load", "killed", "faults", "throughput"))
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    results: dict[str, Row] = {}

    with working_base(options.base, options.size) as base:

        def with_server(work: Callable[[Server], Row]) -> Row:
            server = Server(base.parent, poll_seconds=0.2)
            try:
                return {**work(server), "exit code after SIGTERM": server.stop()}
            finally:
                server.stop(signal.SIGKILL)

        steps: dict[str, Callable[[], Row]] = {
            "load": lambda: with_server(lambda server: run_load(server, base, options, options.size)),
            "killed": lambda: run_killed(base, options, options.size),
            "faults": lambda: with_server(lambda server: run_faults(server, base, options.size)),
            "throughput": lambda: run_throughput(base, options, options.size),
        }
        for name, step in steps.items():
            if options.only in (None, name):
                results[name] = step()
                print(f"\n{name}")
                for key, value in results[name].items():
                    print(f"  {key:<52}{value}")
    if options.output:
        options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
