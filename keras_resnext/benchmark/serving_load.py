"""`keras-resnext serve` under the load of clients that ask for one image each."""

import base64
import http.client
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from .work import Seconds, Work

ROUNDS = 4  # images that each client asks for in a turn


def serve(work: Work) -> Callable[[], Seconds]:
    """Seconds for `work.batch` images, asked for by as many clients at once: JPEG files over REST, one a request."""
    code = "from keras_resnext.cli import run; run()"
    server = subprocess.Popen(
        [sys.executable, "-c", code, "serve", str(work.folder / "base"), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    page = next((line for line in server.stdout if line.startswith("page")), "")
    if not page:
        raise RuntimeError("the server did not start")
    port = int(page.rstrip("/\n").rpartition(":")[2])
    connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=120) for _ in range(work.batch)]
    body = _request(work.size)
    clients = ThreadPoolExecutor(work.batch)

    def ask(connection: http.client.HTTPConnection) -> None:
        for _ in range(ROUNDS):
            connection.request("POST", "/v1/models/base:predict", body)
            response = connection.getresponse()
            answer = response.read()
            if response.status != 200:
                raise RuntimeError(f"{response.status}: {answer[:200]!r}")

    def run() -> Seconds:
        start = time.perf_counter()
        list(clients.map(ask, connections))
        return Seconds((time.perf_counter() - start) / ROUNDS)

    return run


def _request(size: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((size, size)).save(stream, "JPEG", quality=90)
    row = {"b64": base64.b64encode(stream.getvalue()).decode()}
    return json.dumps({"signature_name": "serving_bytes", "instances": [row]}).encode()
