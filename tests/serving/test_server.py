"""The development server as its users meet it: real processes on loopback, asked by both clients and raw."""

import asyncio
import base64
import contextlib
import gzip
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resnext import ResNeXt, preprocess_input
from keras_resnext.serving import Client, GrpcClient, ServingError
from tests.support import randomise

tf = pytest.importorskip("tensorflow")
pytest.importorskip("uvicorn")
pytest.importorskip("tensorflow_serving")
if keras.backend.backend() != "tensorflow":
    pytest.skip("export needs the TensorFlow backend", allow_module_level=True)

SIZE, CLASSES = 32, 6
LABELS = ["zéro", "<b>one</b>", "zwölf", 'qua"ttro', "cinco", "sześć"]
KEY = "a key, of 16 bit".replace(" ", "_")
IMAGES = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
START = """
import os, sys, json
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
sys.argv[0] = "keras-resnext"
from keras_resnext.cli.serving_commands import _log_to_standard_error
from keras_resnext.serving.server import ServeOptions, serve
_log_to_standard_error()
serve(sys.argv[1], ServeOptions(port=0, **json.loads(sys.argv[2])), lambda line: print(line, flush=True))
"""


class Server:
    """A process that serves `base`; ready when its address is first asked for."""

    def __init__(self, base: Path, **options: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, str(base), json.dumps(options)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        self._lines: list[str] = []
        self._reading = threading.Lock()

    def _read_until(self, mark: str) -> str:
        with self._reading:  # of several threads one would read the line, and the others wait for ever
            while not any(line.startswith(mark) for line in self._lines):
                assert self.process.stdout
                line = self.process.stdout.readline()
                assert line, self.process.communicate()[1]
                self._lines.append(line)
        return next(line for line in self._lines if line.startswith(mark))

    @property
    def port(self) -> int:
        return int(re.search(r":(\d+)/", self._read_until("page"))[1])

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def grpc_address(self) -> str:
        return self._read_until("gRPC").split()[1]

    def ask(self, path, body=None, headers=None, method=None, timeout=30):
        """(status, JSON or text, headers) of one request; a body that is no bytes becomes JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        try:
            connection.request(method or ("GET" if data is None else "POST"), path, data, headers or {})
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        with contextlib.suppress(ValueError):
            return response.status, json.loads(text), dict(response.getheaders())
        return response.status, text, dict(response.getheaders())

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.communicate(timeout=30)
        finally:
            self.process.kill()
        return self.process.returncode


def save_slow(path: Path) -> None:
    """`serving_default` takes about x/10 seconds for each x; `grad_cam` stands for a signature that explains."""

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.float32, "x")])
    def slow(x):
        rounds = tf.cast(tf.reduce_max(x) * 10, tf.int32)
        matrix = tf.random.uniform((700, 700), seed=1) + 0 * x[0]
        for _ in tf.range(rounds):
            matrix = tf.nn.softmax(matrix @ matrix)
        return {"y": x + 0 * matrix[0, 0]}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "image_bytes")])
    def explained(image_bytes):
        return {"heat": tf.ones((tf.shape(image_bytes)[0], 2, 3))}

    @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.int32, "a"), tf.TensorSpec((None,), tf.bool, "b")])
    def two(a, b):
        return {"sum": tf.reduce_sum(a, 1), "not_b": ~b, "raw_bytes": tf.fill((tf.shape(a)[0],), b"\xff\x00")}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.float32, "x")])
    def whole(x):
        return {"total": tf.math.log(tf.reduce_sum(x))}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.float32, "x")])
    def first(x):
        return {"y": x[: tf.minimum(1, tf.shape(x)[0])]}

    module = tf.Module()
    signatures = {"first": first, "serving_default": slow, "grad_cam": explained, "two": two, "whole": whole}
    tf.saved_model.save(module, str(path), signatures=signatures)
    facts = {"image_size": [8, 12], "preprocessing": {"resize": 12, "interpolation": "bilinear"}}
    (path / "manifest.json").write_text(json.dumps(facts), encoding="utf-8")


@pytest.fixture(scope="module")
def model():
    options = dict(blocks=(1, 1, 1, 1), groups=4, width_per_group=4, base_channels=8, stem_channels=8)
    return randomise(ResNeXt(**options, classes=CLASSES, input_shape=(SIZE, SIZE, 3), name="net"))


@pytest.fixture(scope="module")
def base(model, tmp_path_factory):
    from keras_resnext.export import export_saved_model

    path = tmp_path_factory.mktemp("base")
    export_saved_model(model, path / "net", labels=LABELS, keras_file=True)
    save_slow(path / "slow" / "1")
    return path


@pytest.fixture(scope="module")
def servers(base, tmp_path_factory):
    """All at once: most of a start is loading TensorFlow."""
    swapped = tmp_path_factory.mktemp("swapped")
    shutil.copytree(base, swapped, dirs_exist_ok=True)
    strict = dict(
        max_request=65536, request_timeout=1.5, queue=2, max_batch=2, workers=1, head_timeout=1.0, connections=20,
        api_key=KEY,
    )  # fmt: skip
    running = {
        "plain": Server(base, grpc_port=0, batch_timeout=0.005),
        "strict": Server(base, **strict),
        "swapped": Server(swapped, poll=0.1, drain=20.0),
    }
    running["swapped"].base = swapped
    yield running
    for server in running.values():
        server.process.kill()
        server.process.communicate()


@pytest.fixture(scope="module")
def plain(servers):
    return servers["plain"]


@pytest.fixture(scope="module")
def strict(servers):
    return servers["strict"]


@pytest.fixture(scope="module")
def swapped(servers):
    return servers["swapped"]


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


PNG = encode(Image.fromarray(IMAGES[0]))
NET, SLOW = "/v1/models/net", "/v1/models/slow"


# ---- what works ----


def test_both_clients_agree_with_keras(plain, model):
    expected = model.predict(preprocess_input(IMAGES), verbose=0)
    clients = [Client(plain.address, "net"), GrpcClient(plain.grpc_address, "net")]
    pngs = [encode(Image.fromarray(image)) for image in IMAGES]
    for client in clients:
        client.wait_until_ready(5)
        np.testing.assert_allclose(client.predict(IMAGES)["probabilities"], expected, atol=1e-6)
        found = client.predict_images(pngs)
        np.testing.assert_allclose(found["probabilities"], expected, atol=1e-5)
        assert found["top_labels"][:, 0].tolist() == [LABELS[i] for i in expected.argmax(1)]
        assert [[label for label, _ in row] for row in client.classify(pngs)] == found["top_labels"].tolist()
        assert client.features(IMAGES).shape == (3, model.get_layer("fc").input.shape[-1])
        metadata = client.metadata()
        assert (metadata.model, metadata.version) == ("net", 1)
        assert set(metadata.signatures) == {"serving_default", "serving_bytes", "features", "classify"}
        assert metadata.signatures["serving_default"].inputs["images"].shape == (None, SIZE, SIZE, 3)
        assert [(row.version, row.state) for row in client.status()] == [(1, "AVAILABLE")]
        client.close()


def test_rows_and_columns(plain):
    rows = plain.ask(f"{NET}:predict", {"instances": IMAGES.tolist()})
    columns = plain.ask(f"{NET}/versions/1:predict", {"inputs": {"images": IMAGES.tolist()}})
    assert rows[0] == columns[0] == 200
    assert rows[1]["predictions"] == columns[1]["outputs"]
    named = plain.ask(f"{NET}:predict", {"instances": [{"images": IMAGES[0].tolist()}], "signature_name": ""})
    assert named[1]["predictions"] == [pytest.approx(rows[1]["predictions"][0], abs=1e-6)]
    assert "total;dur=" in rows[2]["server-timing"]
    # The shortest decimals that read as the same float32, as TF Serving writes them.
    assert all(str(np.float32(x)) == repr(x) or float(np.float32(x)) != x for x in rows[1]["predictions"][0])

    several = plain.ask(
        f"{SLOW}:predict", {"signature_name": "two", "instances": [{"a": [1, 2], "b": True}, {"b": False, "a": [3, 4]}]}
    )[1]
    raw = b64(b"\xff\x00")
    assert several == {
        "predictions": [{"not_b": False, "raw_bytes": raw, "sum": 3}, {"not_b": True, "raw_bytes": raw, "sum": 7}]
    }
    assert plain.ask(f"{SLOW}:predict", {"signature_name": "whole", "inputs": [1.0]})[1] == {"outputs": 0.0}
    status, text, _ = plain.ask(f"{SLOW}:predict", {"signature_name": "whole", "inputs": [0.0]})
    assert (status, text) == (200, {"outputs": -np.inf}), "as TF Serving writes it, which Python's JSON reads"


def test_base64_with_line_breaks_and_without_padding(plain):
    """As `base64` of a shell and Python's encodebytes write it, which TF Serving reads."""
    body = {"signature_name": "serving_bytes", "instances": [b64(PNG)]}
    expected = plain.ask(f"{NET}:predict", body)[1]
    broken = base64.encodebytes(PNG).decode()
    assert "\n" in broken
    for text in (broken, broken.replace("\n", "\r\n\t "), f" {broken.rstrip().rstrip('=')}"):
        assert plain.ask(f"{NET}:predict", {**body, "instances": [{"b64": text}]})[:2] == (200, expected)


def test_a_request_larger_than_a_batch_runs_in_pieces(plain):
    answer = plain.ask(f"{NET}:predict", {"instances": IMAGES[[0] * 40].tolist()})[1]["predictions"]
    assert len(answer) == 40
    np.testing.assert_allclose(answer, answer[:1] * 40, atol=1e-6)


def test_status_metadata_and_list(plain):
    status = {"error_code": "OK", "error_message": ""}
    row = {"version": "1", "state": "AVAILABLE", "status": status}
    assert plain.ask(NET)[:2] == (200, {"model_version_status": [row]})
    assert plain.ask(f"{NET}/versions/1")[1] == {"model_version_status": [row]}
    assert plain.ask(NET, method="HEAD")[0] == 200
    metadata = plain.ask(f"{NET}/versions/1/metadata")[1]
    assert metadata["model_spec"] == {"name": "net", "signature_name": "", "version": "1"}
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["images"]["dtype"] == "DT_FLOAT"
    listed = {model["name"]: model["versions"][0] for model in plain.ask("/v1/models")[1]["models"]}
    assert (listed["net"]["explains"], listed["slow"]["explains"]) == ("keras", "signature")


def test_metrics_have_tf_servings_names(plain):
    def count(status):
        text = plain.ask("/monitoring/prometheus/metrics")[1]
        found = re.search(
            rf'^:tensorflow:serving:request_count{{model_name="net",status="{status}"}} (\d+)$', text, re.M
        )
        return int(found[1]) if found else 0

    before = count("OK"), count("INVALID_ARGUMENT")
    plain.ask(f"{NET}:predict", {"instances": IMAGES.tolist()})
    plain.ask(f"{NET}:predict", {"instances": [1]})
    plain.ask("/v1/models/made-up:predict", {"instances": [1]})
    assert (count("OK"), count("INVALID_ARGUMENT")) == (before[0] + 1, before[1] + 1)
    text = plain.ask("/monitoring/prometheus/metrics")[1]
    buckets = re.findall(
        r'request_latency_bucket{model_name="net",API="Predict",entrypoint="REST",le="([^"]+)"} (\d+)',
        text,
    )
    counts = [int(n) for _, n in buckets]
    assert len(counts) == 34
    assert counts == sorted(counts)
    assert buckets[-1][0] == "+Inf"
    assert "# TYPE :tensorflow:serving:request_latency histogram" in text
    assert ":tensorflow:serving:runtime_latency_count" in text
    assert "made-up" not in text


def test_what_waits_together_runs_together_and_a_broken_image_fails_alone(plain):
    def rows():
        text = plain.ask("/monitoring/prometheus/metrics")[1]
        name = ":keras_resnext:serving:batch_rows"
        return [int(re.search(rf'{name}_{what}{{model_name="net"}} (\d+)', text)[1]) for what in ("sum", "count")]

    answers = {}

    def ask(i):
        data = JPEG[:300] if i == 5 else PNG
        answers[i] = plain.ask(f"{NET}:predict", {"signature_name": "serving_bytes", "instances": [b64(data)]})

    before = rows()
    threads = [threading.Thread(target=ask, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answers[i][0] for i in range(16)] == [400 if i == 5 else 200 for i in range(16)]
    after = rows()
    assert after[0] - before[0] == 16
    assert after[1] - before[1] < 16, "some went together"


@pytest.fixture(scope="module")
def jobs():
    """A function that makes jobs of the rows `x`, as requests do."""
    from keras_resnext.serving.server.batching import Job

    loop = asyncio.new_event_loop()
    yield lambda *xs: [Job({"x": np.array(x, "float32")}, len(x), 0, 0.0, loop.create_future()) for x in xs]
    loop.close()


def test_answers_of_a_joined_batch_are_each_ones_own(base, jobs):
    from keras_resnext.serving.server.batching import run_batch
    from keras_resnext.serving.server.servable import Servable

    servable = Servable(base / "slow" / "1", 0.3)
    plain, odd = servable.signature("serving_default"), servable.signature("first")
    found = run_batch(servable, plain, jobs([0, 0.001], [0.002], [0.003] * 3), 16)
    assert [result["y"].tolist() for result in found] == [pytest.approx(x) for x in ([0, 0.001], [0.002], [0.003] * 3)]
    found = run_batch(servable, odd, jobs([1, 2], [3], [4, 5]), 16)
    assert [result["y"].tolist() for result in found] == [[1], [3], [4]], "outputs that promise rows and have others"
    started = time.monotonic()
    found = run_batch(servable, plain, jobs([1000], [1000], [1000], [1000]), 16)
    assert [error.code for error in found] == ["DEADLINE_EXCEEDED"] * 4
    assert time.monotonic() - started < 1, "it is not tried again in halves"
    servable.close()


# ---- what does not ----

ROW = IMAGES[0].tolist()
RAGGED = [[[[0, 0, 0]] * SIZE] * (SIZE - 1) + [[[0, 0, 0]] * (SIZE - 1)]]
ASK, SLOW_ASK, CLASSIFY, EXPLAIN = f"{NET}:predict", f"{SLOW}:predict", f"{NET}:classify", f"{NET}:explain"
BYTES, TWO, EXAMPLES = ({"signature_name": name} for name in ("serving_bytes", "two", "classify"))
IMAGE = {**BYTES, "instances": [b64(PNG)]}
BAD = [
    # path, body, HTTP status, what the message says
    ("/v1/models/nobody:predict", {"instances": [1]}, 404, "Latest(nobody); models served: net, slow"),
    (f"{NET}/versions/7:predict", {"instances": [1]}, 404, "Specific(net, 7); versions served: 1"),
    (f"{NET}/versions/{2**70}:predict", {"instances": [1]}, 400, "Failed to convert version"),
    (f"{NET}/labels/stable:predict", {"instances": [1]}, 400, "Unrecognized servable version label: stable"),
    (ASK, {"instances": [1], "signature_name": "x"}, 400, '"x" not found in signature def; there are'),
    (ASK, {"instances": [1], "signature_name": 3}, 400, "'signature_name' key must be a string value"),
    (f"{NET}:regress", {"examples": [{}]}, 400, "Expected regression signature method_name"),
    (f"{NET}:train", {}, 400, "Malformed request: POST /v1/models/net:train; expected"),
    (ASK, None, 400, "Malformed request: GET"),
    ("/v1/models/nobody", None, 404, "Could not find any versions of model nobody"),
    (f"{NET}/versions/7", None, 404, "Could not find version 7 of model net"),
    (ASK, b"", 400, "JSON Parse error: The document is empty"),
    (ASK, b"instances", 400, "JSON Parse error: Expecting value at offset: 0"),
    (ASK, b'{"instances": [1,]}', 400, "at offset: 17"),
    (ASK, b'{"instances": "\xff"}', 400, "Invalid UTF-8 at offset: 15"),
    (ASK, b"[" * 100_000, 400, "Nested too deeply"),
    (ASK, b'{"instances": ' + b"[" * 300 + b"]" * 300 + b"}", 400, "expected float32 [-1, 32, 32, 3]"),
    (ASK, b'{"instances": [' + b"9" * 9000 + b"]}", 400, ""),
    (ASK, b"[1]", 400, "Is not object"),
    (ASK, {}, 400, "Missing 'inputs' or 'instances' key"),
    (ASK, {"inputs": 1, "instances": [1]}, 400, "only one of 'inputs' or 'instances'"),
    (ASK, {"instances": 3}, 400, "to be an list/array"),
    (ASK, {"instances": []}, 400, "No values in 'instances'"),
    (ASK, {"inputs": []}, 400, "has shape [0]; expected float32 [-1, 32, 32, 3]"),
    (ASK, {"instances": RAGGED}, 400, "unexpected size: 31 at level: 2 expected size: 32"),
    (ASK, {"instances": [ROW, [1]]}, 400, "process element: 1 of 'instances' list"),
    (ASK, {"instances": [ROW[:4]]}, 400, "has shape [1, 4, 32, 3]; expected float32 [-1, 32, 32, 3]"),
    (ASK, {"inputs": ROW}, 400, "has shape [32, 32, 3]; expected float32 [-1, 32, 32, 3]"),
    (ASK, {"instances": [[["a"]]]}, 400, 'JSON Value: "a" Type: String is not of expected type: float32'),
    (ASK, {"instances": [[[True]]]}, 400, "JSON Value: true Type: True is not of expected type"),
    (ASK, {"instances": [[None]]}, 400, "JSON Value: null Type: Null is not of expected type"),
    (ASK, {"instances": [{"pixels": ROW}]}, 400, "keys must be equal to: images"),
    (ASK, {"instances": [ROW, {"images": ROW}]}, 400, "Expecting value/list but got object at item 1"),
    (ASK, {"instances": [{"images": ROW}, ROW]}, 400, "Expecting object but got list at item 1"),
    (ASK, {"inputs": {"pixels": [ROW]}}, 400, "Missing named input: images in 'inputs' object"),
    (ASK, {"inputs": [[[[float("nan")] * 3] * 32] * 32]}, 400, "expected finite numbers"),
    (ASK, {"inputs": [[[[1e39] * 3] * 32] * 32]}, 400, "holds NaN or infinity"),
    (SLOW_ASK, {**TWO, "instances": [[1, 2]]}, 400, "multiple input tensors required"),
    (SLOW_ASK, {**TWO, "inputs": [[1, 2]]}, 400, "multiple input tensors required"),
    (SLOW_ASK, {**TWO, "inputs": {"a": [[1, 2.5]], "b": [True]}}, 400, "2.5 Type: Number is not of"),
    (SLOW_ASK, {**TWO, "inputs": {"a": [[1, 2**31]], "b": [True]}}, 400, "2147483648 Type: Number"),
    (SLOW_ASK, {**TWO, "inputs": {"a": [[1, 2]], "b": [1]}}, 400, "expected type: bool"),
    (SLOW_ASK, {**TWO, "inputs": {"a": [[1, 2]], "b": [True, True]}}, 400, "different batch sizes: [1, 2]"),
    (SLOW_ASK, {"signature_name": "whole", "instances": [1]}, 400, "has no shape information"),
    (ASK, {**BYTES, "instances": [3]}, 400, "expected type: string"),
    (ASK, {**BYTES, "instances": [{"b64": "?"}]}, 400, "Unable to base64 decode"),
    (ASK, {**BYTES, "instances": [{"b64": 3}]}, 400, "keys must be equal to: image_bytes"),
    (CLASSIFY, {}, 400, "key 'examples' is expected"),
    (CLASSIFY, {**EXAMPLES, "examples": []}, 400, "empty array"),
    (CLASSIFY, {**EXAMPLES, "examples": [3]}, 400, "must be JSON object but got JSON Number"),
    (CLASSIFY, {**EXAMPLES, "examples": [{"a": None}]}, 400, "unexpected JSON type: Null"),
    (CLASSIFY, {**EXAMPLES, "examples": [{"a": [1, "b"]}]}, 400, "expecting type: int64"),
    (CLASSIFY, {**EXAMPLES, "examples": [{}]}, 400, ""),
    (CLASSIFY, {"examples": [{}]}, 400, "method_name to be tensorflow/serving/classify"),
    (EXPLAIN, {}, 400, 'expected {"image_bytes": {"b64"'),
    (EXPLAIN, {"image_bytes": b64(b"no image")}, 400, "is no image that Pillow knows"),
    (EXPLAIN, {"image_bytes": b64(PNG), "layer": "layer9"}, 400, "layer='layer9' is no layer"),
    (EXPLAIN, {"image_bytes": b64(PNG), "class": CLASSES}, 400, "must be an integer in 0..5"),
    (EXPLAIN, {"image_bytes": b64(PNG), "method": "magic"}, 400, "must be one of grad_cam"),
    (EXPLAIN, {"image_bytes": b64(PNG), "colour": 1}, 400, "is no field of :explain"),
    (f"{SLOW}:explain", {"image_bytes": b64(PNG), "layer": "x"}, 400, "cannot be chosen"),
    ("/nowhere", None, 404, "Not Found: GET /nowhere"),
    ("/page/../app.py", None, 404, "Not Found"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "status", "message"), BAD, ids=[f"{i}" for i in range(len(BAD))])
def test_bad_requests(plain, path, body, status, message):
    found, answer, headers = plain.ask(path, body)
    assert (found, list(answer)) == (status, ["error"]), answer
    assert message in answer["error"]
    assert answer["error"]
    assert len(answer["error"]) < 700
    assert headers["content-type"] == "application/json"


def test_content_types(plain):
    for kind in ("image/png", "multipart/form-data; boundary=x"):
        status, answer, _ = plain.ask(f"{NET}:predict", PNG, {"content-type": kind})
        assert status == 400
        assert f"the body is {kind.partition(';')[0]}, expected application/json" in answer["error"]
    form = {"content-type": "application/x-www-form-urlencoded"}  # what curl -d says of everything
    assert plain.ask(f"{NET}:predict", {"instances": IMAGES.tolist()}, form)[0] == 200
    assert plain.ask(f"{NET}:predict", b"x", {"content-encoding": "br"})[0] == 415


def noise(width, height, mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def claiming(kind: bytes, width: int, height: int) -> bytes:
    """The beginning of a PNG of that size, for an image that would need far more memory than its file."""
    import struct
    import zlib

    chunk = kind + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


JPEG = encode(noise(60, 40), "JPEG")
DECODED = [
    ("one pixel", encode(noise(1, 1)), ""),
    ("grey", encode(noise(50, 40, "L"), "JPEG"), ""),
    ("CMYK", encode(noise(50, 40, "CMYK"), "JPEG"), ""),
    ("palette", encode(noise(50, 40, "P")), ""),
    ("alpha", encode(noise(50, 40, "RGBA")), ""),
    ("16 bits", encode(Image.fromarray(np.full((40, 50), 40_000, np.uint16))), ""),
    ("animated", encode(noise(50, 40), "GIF", save_all=True, append_images=[noise(40, 50)]), ""),
    ("BMP", encode(noise(50, 40), "BMP"), ""),
    ("narrow", encode(noise(3000, 1)), ""),
    ("truncated JPEG", JPEG[: len(JPEG) // 2], "expected images that are whole"),
    ("truncated PNG", PNG[: len(PNG) // 2], "expected images that are whole"),
    ("head of a GIF", b"GIF89a", "expected images that are whole"),
    ("empty", b"", "image 0 is no image that this model decodes: empty"),
    ("text", b"<svg/>", "6 bytes that begin with b'<svg/>'; expected JPEG, PNG, GIF or BMP"),
    ("bomb", claiming(b"IHDR", 30_000, 30_000), "more than 178956970 pixels"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "message"), [row[1:] for row in DECODED], ids=[row[0] for row in DECODED])
def test_images(plain, data, message):
    requests = [
        (":predict", {"signature_name": "serving_bytes", "instances": [b64(data)]}),
        (":classify", {"signature_name": "classify", "examples": [{"image/encoded": b64(data)}]}),
    ]
    for call, body in requests:
        status, answer, _ = plain.ask(NET + call, body)
        assert status == (400 if message else 200), answer
        assert message in answer.get("error", "")


def test_several_images_that_are_too_large_together(plain):
    data = claiming(b"IHDR", 10_000, 10_000)
    status, answer, _ = plain.ask(f"{NET}:predict", {"signature_name": "serving_bytes", "instances": [b64(data)] * 2})
    assert (status, "more than 178956970 pixels in a request" in answer["error"]) == (400, True)


def test_grpc_refuses_as_rest_does(plain):
    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    client = GrpcClient(plain.grpc_address, "nobody", retries=0)
    with pytest.raises(ServingError, match="Servable not found") as refused:
        client.metadata()
    assert refused.value.code == "NOT_FOUND"
    with pytest.raises(ServingError, match="Could not find any versions"):
        client.status()
    client = GrpcClient(plain.grpc_address, "net", retries=0)
    with pytest.raises(ServingError, match="expected images that are whole"):
        client.predict_images([JPEG[:100]])
    with grpc.insecure_channel(plain.grpc_address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for inputs, message in [
            ({}, r"got \[\], expected \['images'\]"),
            ({"images": tf.make_tensor_proto([[1.0]])}, r"has shape \[1, 1\]; expected float32 \[-1, 32, 32, 3\]"),
            ({"images": tf.make_tensor_proto(IMAGES)}, "Expects arg\\[0\\] to be float32 but uint8 is provided"),
            ({"images": tf.make_tensor_proto(np.full((1, 32, 32, 3), np.nan, "float32"))}, "NaN"),
        ]:
            request = predict_pb2.PredictRequest(inputs=inputs)
            request.model_spec.name = "net"
            with pytest.raises(grpc.RpcError) as error:
                stub.Predict(request, timeout=10)
            assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert re.search(message, error.value.details())


# ---- explaining ----


def test_explain_is_grad_cam_of_the_keras_model(plain, model):
    from keras_resnext.explain import grad_cam

    images = preprocess_input(IMAGES[:1])
    other = (int(model.predict(images, verbose=0).argmax()) + 1) % CLASSES  # not the one that would be taken anyway
    body = {"image_bytes": b64(PNG), "layer": "layer2_0_relu", "class": other}
    status, answer, _ = plain.ask(f"{NET}:explain", body)
    assert status == 200
    expected = grad_cam(model, images, layer="layer2_0_relu", class_index=other)[0]
    np.testing.assert_allclose(answer["heat"], expected, atol=1e-4)
    assert answer["class"]["name"] == LABELS[other]
    assert "layer2_0_relu" in answer["layers"]
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["image"]["b64"]))))
    assert (seen == IMAGES[0]).all()
    assert plain.ask(f"{NET}/versions/1:explain", {"image_bytes": b64(PNG)})[1]["class"]["index"] in range(CLASSES)
    answer = plain.ask(f"{SLOW}:explain", {"image_bytes": b64(PNG)})[1]
    assert answer["heat"] == [[1.0] * 3] * 2
    assert Image.open(io.BytesIO(base64.b64decode(answer["image"]["b64"]))).size == (12, 8)


# ---- limits ----


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
    fine = gzip.compress(json.dumps(IMAGE).encode())
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
    assert strict.ask(ASK, IMAGE, with_key())[0] == 200, "what was given up runs no more"


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


# ---- versions ----


def copy_version(base: Path, old: int, new: int, name: str = "net") -> None:
    shutil.copytree(base / name / str(old), base / name / ".incoming")
    (base / name / ".incoming").rename(base / name / str(new))


def wait_for(what, seconds=20.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.05)
    pytest.fail("it did not happen")
    return None


def states(server, name="net"):
    answer = server.ask(f"/v1/models/{name}")[1]
    return {int(row["version"]): row["state"] for row in answer.get("model_version_status", [])}


def test_versions_are_swapped_while_requests_run(swapped):
    failures, answered, stop = [], [], threading.Event()
    wait_for(lambda: states(swapped).get(1) == "AVAILABLE")

    def load():
        while not stop.is_set():
            status, answer, _ = swapped.ask(f"{NET}:predict", IMAGE)
            answered.append(status)
            if status != 200:
                failures.append(answer)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for new in (2, 3):
            copy_version(swapped.base, new - 1, new)
            wait_for(lambda new=new: states(swapped).get(new - 1) == "END")
            shutil.rmtree(swapped.base / "net" / str(new - 1))
        (swapped.base / "net" / "4").mkdir()
        (swapped.base / "net" / "4" / "saved_model.pb").write_bytes(b"no model")
        wait_for(lambda: states(swapped).get(4) == "END")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert len(answered) > 20
    status = swapped.ask(f"{NET}/versions/4")[1]["model_version_status"][0]["status"]
    assert status["error_code"] == "UNKNOWN"
    assert status["error_message"]
    assert swapped.ask(f"{NET}/metadata")[1]["model_spec"]["version"] == "3", "what does not load takes nothing away"
    shutil.rmtree(swapped.base / "net" / "4")
    wait_for(lambda: 4 not in states(swapped))


def test_a_new_model_appears_and_a_removed_one_goes(swapped):
    shutil.copytree(swapped.base / "net" / "3", swapped.base / "other" / "1")
    wait_for(lambda: states(swapped, "other") == {1: "AVAILABLE"})
    shutil.rmtree(swapped.base / "other")
    wait_for(lambda: not states(swapped, "other"))
    assert swapped.ask("/v1/models/other:predict", {"instances": [1]})[0] == 404


def test_labels_from_models_config(swapped):
    from keras_resnext.serving.model_base import label_version

    copy_version(swapped.base, 3, 5)
    label_version(swapped.base / "net", "stable", 3)
    label_version(swapped.base / "net", "canary", 5)
    wait_for(lambda: states(swapped) == {3: "AVAILABLE", 5: "AVAILABLE"})
    for label, version in (("stable", 3), ("canary", 5)):
        client = Client(swapped.address, "net", label=label)
        client.wait_until_ready(10)
        assert client.metadata().version == version
        assert client.predict(IMAGES)["probabilities"].shape == (3, CLASSES)
    (swapped.base / "models.config").write_text("model_config_list {", encoding="utf-8")
    time.sleep(0.5)
    assert swapped.ask(f"{NET}/labels/stable/metadata")[0] == 200, "what cannot be read changes nothing"


def test_sigterm_lets_requests_end(swapped):
    """The last of its server: what runs is answered, what comes later finds nobody, and the exit code is 0."""
    answers = []
    port = swapped.port
    thread = threading.Thread(target=lambda: answers.append(swapped.ask(f"{SLOW}:predict", {"instances": [30]})))
    thread.start()
    time.sleep(0.3)
    assert swapped.stop() == 0
    thread.join()
    assert answers[0][:2] == (200, {"predictions": [30.0]})
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)


# ---- the command ----


def command(*arguments, **environment):
    code = "from keras_resnext.cli import run; run()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, **environment}, cwd=Path(__file__).parents[2],
    )  # fmt: skip


def test_what_the_command_refuses(tmp_path, base, plain):
    cases = [
        ((tmp_path / "missing.keras",), "there is no such file"),
        ((tmp_path,), "holds no model: expected BASE/NAME/VERSION/saved_model.pb"),
        ((base, "--port", plain.port), "cannot listen there: Address already in use"),
        ((base, "--host", "no.such.host.invalid"), "cannot listen there"),
        ((base, "--labels", "x"), "the exports in BASE"),
        ((base, "--api-key", "a b"), "api_key='…' must be visible ASCII characters"),
        ((base, "--max-batch", 0), "greater than or equal to 1"),
    ]
    for arguments, message in cases:
        result = command("serve", *arguments)
        assert (result.returncode, result.stdout) == (2, "")
        assert len(result.stderr.splitlines()) == 1
        assert message in result.stderr


def test_missing_extras_are_named(base):
    absent = "import sys; sys.modules[{!r}] = None; sys.argv = ['keras-resnext', 'serve', {!r}, '--port', '0', *{!r}]\n"
    absent += "from keras_resnext.cli import run; run()"
    for module, options, extra in (("uvicorn", [], "serve"), ("tensorflow_serving", ["--grpc-port", "0"], "grpc")):
        code = absent.format(module, str(base), options)
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert result.returncode == 2
        assert f"pip install 'keras_resnext[{extra}]'" in result.stderr.splitlines()[-1]


def test_a_keras_file_is_exported_once_and_served(model, tmp_path):
    file = tmp_path / "mine.keras"
    model.save(file)
    (tmp_path / "labels.txt").write_text("\n".join(LABELS), encoding="utf-8")
    code = "from keras_resnext.cli import run; run()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", str(file), "--port", "0"], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "KERAS_HOME": str(tmp_path / "home")},
    )  # fmt: skip
    try:
        assert process.stdout
        address = next(line for line in process.stdout if line.startswith("page")).split()[1].rstrip("/")
        client = Client(address, "mine")
        expected = model.predict(preprocess_input(IMAGES), verbose=0)
        np.testing.assert_allclose(client.predict(IMAGES)["probabilities"], expected, atol=1e-6)
        assert client.predict_images([PNG])["top_labels"][0][0] == LABELS[expected[0].argmax()]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(30) == 0
        finally:
            process.kill()
    (version,) = (tmp_path / "home").rglob("saved_model.pb")
    assert (version.parent / "assets.extra" / "model.keras").is_file()
    from keras_resnext.serving.server.exported import export_to_cache

    written = version.stat().st_mtime_ns
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_HOME", str(tmp_path / "home"))
        assert export_to_cache(file) == version.parent.parent
    assert version.stat().st_mtime_ns == written
