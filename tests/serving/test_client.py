"""The clients against TF Serving's rules on loopback: real predictions in TensorFlow's C session, and real failures."""

import contextlib
import io
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resnext import ResNeXt, preprocess_input
from keras_resnext.serving import (
    Client,
    GrpcClient,
    Metadata,
    ServingError,
    ServingTimeoutError,
    Signature,
    TensorInfo,
    VersionStatus,
)
from keras_resnext.serving.client.base_client import BaseClient
from keras_resnext.serving.client.errors import with_retries
from tests.model_server import CLASSIFY, ModelServer, serve_grpc, serve_rest

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_serving")
if keras.backend.backend() != "tensorflow":
    pytest.skip("export needs the TensorFlow backend", allow_module_level=True)

SIZE = 8
LABELS = ["zéro", "it's", "zwölf", "três", 'qua"ttro', "cinco", "sześć"]
CHANNELS, CLASSES, TOP = 5, len(LABELS), 5
RNG = np.random.default_rng(0)
KERNEL = RNG.normal(0, 0.1, (3, 3, 3, CHANNELS)).astype("float32")
HEAD = RNG.normal(0, 0.5, (CHANNELS, CLASSES)).astype("float32")
IMAGES = np.random.default_rng(1).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)
UNAVAILABLE, EXHAUSTED, DENIED, INTERNAL, TOO_LATE = 14, 8, 7, 13, 4

WITHOUT_FRAMEWORKS = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("keras", "tensorflow", "tensorflow_serving", "grpc", "jax", "torch", "h5py", "PIL"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import numpy as np
from keras_resnext.serving import Client, GrpcClient
import keras_resnext
client = Client(sys.argv[1], "net")
client.wait_until_ready(5)
images = np.load(sys.argv[2])
image = open(sys.argv[3], "rb").read()
found = client.predict_images([sys.argv[3], image])
assert found["top_labels"][0].tolist() == [label for label, _ in client.classify([image])[0]]
print(client.predict(images)["probabilities"].shape, client.features(images).shape, client.metadata().version)
for problem in (lambda: GrpcClient("localhost:8500", "net"), lambda: keras_resnext.ResNeXt50):
    try:
        problem()
    except ImportError as error:
        print(error)
assert not {"keras", "tensorflow", "grpc"} & set(sys.modules)
"""


def save_net(path: Path) -> None:
    """A small network with the four signatures of the exports, and one with an output of bytes."""
    from keras_resnext.export.image_decoding import decode_image

    def pooled(images: Any) -> Any:
        return tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(images / 255.0, KERNEL, 1, "SAME")), (1, 2))

    def ranked(data: Any) -> Any:
        spec = tf.TensorSpec((SIZE, SIZE, 3), tf.float32)
        images = tf.map_fn(lambda d: decode_image(d, (SIZE, SIZE), SIZE), data, fn_output_signature=spec)
        probabilities = tf.nn.softmax(pooled(images) @ HEAD)
        scores, classes = tf.math.top_k(probabilities, TOP)
        return probabilities, scores, classes, tf.gather(tf.constant(LABELS), classes)

    samples = tf.TensorSpec((None, SIZE, SIZE, 3), tf.float32, "images")

    @tf.function(input_signature=[samples])
    def serving_default(images: Any) -> Any:
        return {"probabilities": tf.nn.softmax(pooled(images) @ HEAD)}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "image_bytes")])
    def serving_bytes(image_bytes: Any) -> Any:
        return dict(zip(("probabilities", "top_scores", "top_classes", "top_labels"), ranked(image_bytes), strict=True))

    @tf.function(input_signature=[samples])
    def features(images: Any) -> Any:
        return {"features": pooled(images)}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "inputs")])
    def classify(inputs: Any) -> Any:
        parsed = tf.io.parse_example(inputs, {"image/encoded": tf.io.FixedLenFeature((), tf.string)})
        _, scores, _, labels = ranked(parsed["image/encoded"])
        return {"classes": labels, "scores": scores}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "image_bytes")])
    def heads(image_bytes: Any) -> Any:
        return {"head_bytes": tf.strings.substr(image_bytes, 0, 4), "length": tf.strings.length(image_bytes)}

    @tf.function(input_signature=[samples, tf.TensorSpec((), tf.float32, "scale")])
    def two(images: Any, scale: Any) -> Any:
        return {"sum": tf.reduce_sum(images) * scale}

    signatures = {f.__name__: f for f in (features, classify, heads, two)}
    signatures |= {"serving_default": serving_default, "serving_bytes": serving_bytes}
    tf.saved_model.save(tf.Module(), str(path), signatures=signatures)
    set_method_name(path, "classify", CLASSIFY)


def set_method_name(path: Path, signature: str, method_name: str) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    file = path / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    saved.meta_graphs[0].signature_def[signature].method_name = method_name
    file.write_bytes(saved.SerializeToString())


def expected(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features and probabilities, in numpy."""
    padded = np.pad(images / 255.0, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    features = np.maximum(np.einsum("nhwcij,ijcf->nhwf", windows, KERNEL), 0).mean((1, 2))
    logits = np.exp(features @ HEAD)
    return features, logits / logits.sum(-1, keepdims=True)


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


PNGS = [png(image) for image in IMAGES]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    path = tmp_path_factory.mktemp("net") / "3"
    save_net(path)
    server = ModelServer()
    server.add("net", 3, path)
    yield server
    server.close()


@pytest.fixture(scope="module")
def addresses(models: ModelServer) -> Iterator[dict[type[BaseClient], str]]:
    with serve_rest(models) as rest, serve_grpc(models) as grpc:
        yield {Client: rest.address, GrpcClient: grpc}


@pytest.fixture(params=[Client, GrpcClient], ids=["rest", "grpc"])
def kind(request: pytest.FixtureRequest) -> type[BaseClient]:
    return request.param


@pytest.fixture
def make(
    models: ModelServer, addresses: dict[type[BaseClient], str], kind: type[BaseClient]
) -> Iterator[Callable[..., Any]]:
    """Makes clients of one kind; afterwards the server is as it was."""
    models.requests.clear()
    with contextlib.ExitStack() as stack:
        yield lambda model="net", **options: stack.enter_context(kind(addresses[kind], model, **options))
    models.script.clear()
    models.requests.clear()
    models.labels.clear()
    models.models["net"][3].update(state="AVAILABLE", error="")
    models.models.pop("other", None)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "float32", "float64"])
def test_predict(make: Any, dtype: str) -> None:
    found = make().predict(IMAGES.astype(dtype))
    assert list(found) == ["probabilities"]
    assert found["probabilities"].dtype == np.float32
    np.testing.assert_allclose(found["probabilities"], expected(IMAGES)[1], atol=1e-6)


def test_predict_takes_fractions_lists_and_one_image(make: Any) -> None:
    image = IMAGES[:1] / 3
    found = make().predict(image.tolist())["probabilities"]
    assert found.shape == (1, CLASSES)
    np.testing.assert_allclose(found, expected(image)[1], atol=1e-6)


def test_features(make: Any) -> None:
    np.testing.assert_allclose(make().features(IMAGES), expected(IMAGES)[0], atol=1e-6)


def test_predict_images(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    path.write_bytes(PNGS[0])
    found = make().predict_images([path, str(path), *PNGS])
    wanted = expected(IMAGES[[0, 0, 0, 1, 2, 3]])[1]
    order = np.argsort(-wanted)[:, :TOP]
    assert {name: (value.dtype.kind, value.shape) for name, value in found.items()} == {
        "probabilities": ("f", (6, CLASSES)),
        "top_scores": ("f", (6, TOP)),
        "top_classes": ("i", (6, TOP)),
        "top_labels": ("U", (6, TOP)),
    }
    assert found["top_classes"].dtype == np.int32
    np.testing.assert_allclose(found["probabilities"], wanted, atol=1e-6)
    np.testing.assert_allclose(found["top_scores"], np.take_along_axis(wanted, order, 1), atol=1e-6)
    assert found["top_classes"].tolist() == order.tolist()
    assert found["top_labels"].tolist() == [[LABELS[i] for i in row] for row in order]


def test_classify(make: Any) -> None:
    found = make().classify(PNGS)
    wanted = expected(IMAGES)[1]
    order = np.argsort(-wanted)[:, :TOP]
    assert [[label for label, _ in row] for row in found] == [[LABELS[i] for i in row] for row in order]
    np.testing.assert_allclose(
        [[score for _, score in row] for row in found], np.take_along_axis(wanted, order, 1), atol=1e-6
    )


def test_outputs_named_bytes_are_bytes(make: Any) -> None:
    found = make().predict_images(PNGS, "heads")
    assert found["head_bytes"].tolist() == [b"\x89PNG"] * 4
    assert found["length"].tolist() == [len(data) for data in PNGS]


def test_metadata(make: Any) -> None:
    found = make().metadata()
    assert (type(found), found.model, found.version) == (Metadata, "net", 3)
    assert set(found.signatures) == {"serving_default", "serving_bytes", "features", "classify", "heads", "two"}
    assert found.signatures["serving_bytes"] == Signature(
        {"image_bytes": TensorInfo("string", (None,))},
        {
            "probabilities": TensorInfo("float32", (None, CLASSES)),
            "top_scores": TensorInfo("float32", (None, TOP)),
            "top_classes": TensorInfo("int32", (None, TOP)),
            "top_labels": TensorInfo("string", (None, TOP)),
        },
        "tensorflow/serving/predict",
    )
    assert found.signatures["classify"].method_name == CLASSIFY
    assert found.signatures["two"].inputs["scale"] == TensorInfo("float32", ())


def test_status(make: Any, models: ModelServer) -> None:
    models.models["net"][4] = {"state": "END", "error": "no space"}
    try:
        assert make().status() == [VersionStatus(3, "AVAILABLE"), VersionStatus(4, "END", "no space")]
        assert make(version=4).status() == [VersionStatus(4, "END", "no space")]
        assert make().metadata().version == 3
    finally:
        del models.models["net"][4]
    with pytest.raises(ServingError, match="Could not find any versions of model nothing") as error:
        make("nothing").status()
    assert error.value.code == "NOT_FOUND"


def test_versions_and_labels(make: Any, models: ModelServer) -> None:
    models.labels["net", "stable"] = 3
    assert make(label="stable").predict(IMAGES)["probabilities"].shape == (4, CLASSES)
    assert make(version=3).classify(PNGS[:1])[0][0][0] in LABELS
    with pytest.raises(ServingError, match="Unrecognized servable version label: canary") as error:
        make(label="canary").predict(IMAGES)
    assert error.value.code == "INVALID_ARGUMENT"
    with pytest.raises(ServingError, match=r"Specific\(net, 9\)") as error:
        make(version=9).predict(IMAGES)
    assert error.value.code == "NOT_FOUND"


def test_the_signatures_are_asked_for_once(make: Any, models: ModelServer) -> None:
    client = make()
    for _ in range(3):
        client.predict(IMAGES)
    client.features(IMAGES)
    assert len(models.requests) == 5
    models.script.append(INTERNAL)
    with pytest.raises(ServingError):
        client.predict(IMAGES)
    client.predict(IMAGES)  # and again after an error: another version may have come
    assert len(models.requests) == 8


def test_another_version_may_take_another_size(make: Any) -> None:
    client = make()
    old = Signature({"images": TensorInfo("float32", (None, 9, 9, 3))}, {"old": TensorInfo("float32", None)}, "")
    client._signatures = {"serving_default": old}
    np.testing.assert_allclose(client.predict(IMAGES)["probabilities"], expected(IMAGES)[1], atol=1e-6)


def test_headers_are_sent(make: Any, models: ModelServer) -> None:
    make(headers={"Authorization": "Bearer 7"}).status()
    assert models.headers["authorization"] == "Bearer 7"


@pytest.mark.parametrize("code", [UNAVAILABLE, EXHAUSTED])
def test_passing_errors_are_tried_again(make: Any, models: ModelServer, code: int) -> None:
    client = make()
    client.predict(IMAGES)
    models.requests.clear()
    models.script.extend([code, code])
    np.testing.assert_allclose(client.predict(IMAGES)["probabilities"], expected(IMAGES)[1], atol=1e-6)
    assert len(models.requests) == 3


def test_retries_end(make: Any, models: ModelServer) -> None:
    models.script.extend([UNAVAILABLE] * 9)
    with pytest.raises(ServingError, match="scripted: the server's busy") as error:
        make(retries=2).status()
    assert (error.value.code, len(models.requests)) == ("UNAVAILABLE", 3)
    assert not isinstance(error.value, TimeoutError)
    models.requests.clear()
    begin = time.monotonic()
    with pytest.raises(ServingTimeoutError, match=r"gave up after \d+ attempts; the last one: UNAVAILABLE: scripted"):
        make(retries=99, timeout=0.5).status()
    assert time.monotonic() - begin < 0.6
    assert 2 <= len(models.requests) <= 5


@pytest.mark.parametrize(
    ("code", "name"), [(DENIED, "PERMISSION_DENIED"), (INTERNAL, "INTERNAL"), (TOO_LATE, "DEADLINE_EXCEEDED")]
)
def test_lasting_errors_are_not_tried_again(make: Any, models: ModelServer, code: int, name: str) -> None:
    models.script.append(code)
    with pytest.raises(ServingError) as error:
        make().status()
    assert (error.value.code, len(models.requests)) == (name, 1)
    assert isinstance(error.value, TimeoutError) == (code == TOO_LATE)


def test_bad_input_is_told_and_not_tried_again(make: Any, models: ModelServer, kind: type) -> None:
    client = make()
    for call in (
        lambda: client.predict_images([PNGS[0], b"no image"]),
        lambda: client.classify([b"no image"]),
        lambda: client.classify(PNGS, "serving_bytes"),
    ):
        models.requests.clear()
        with pytest.raises(ServingError) as error:
            call()
        assert error.value.code == "INVALID_ARGUMENT"
        assert error.value.http_status == (400 if kind is Client else None)
        assert error.value.address == client.address
        assert error.value.message
        assert str(error.value).startswith(f"{client.address}: ")
        sent = [r for r in models.requests if not r.endswith(("/metadata", "GetModelMetadata"))]
        assert len(sent) == 1
    assert "method_name to be tensorflow/serving/classify" in error.value.message
    client.predict(IMAGES)


def test_unknown_model(make: Any, models: ModelServer) -> None:
    with pytest.raises(ServingError, match=r"Servable not found for request: Latest\(nothing\)") as error:
        make("nothing").predict(IMAGES)
    assert (error.value.code, len(models.requests)) == ("NOT_FOUND", 1)
    with pytest.raises(ServingError) as error:
        make("ä b%").classify(PNGS)
    assert error.value.message == "Servable not found for request: Latest(ä b%)"


def test_slow_answers_time_out(make: Any, models: ModelServer) -> None:
    models.script.append(("slow", 0.8))
    begin = time.monotonic()
    with pytest.raises(ServingTimeoutError, match=r"no answer within 0\.[23]\d* s") as error:
        make(timeout=0.3).status()
    assert time.monotonic() - begin < 0.6
    assert isinstance(error.value, TimeoutError)
    assert error.value.code == "DEADLINE_EXCEEDED"
    assert len(models.requests) == 1


def serve_kind(models: ModelServer, kind: type[BaseClient], port: int) -> Any:
    return serve_rest(models, port) if kind is Client else serve_grpc(models, port)


def test_a_server_that_comes_late(models: ModelServer, kind: Any) -> None:
    port = free_port()
    address = f"http://127.0.0.1:{port}" if kind is Client else f"127.0.0.1:{port}"
    with kind(address, "net", retries=1) as client, pytest.raises(ServingError) as error:
        client.status()
    assert error.value.code == "UNAVAILABLE"
    done = threading.Event()

    def serve_late() -> None:
        time.sleep(0.4)
        with serve_kind(models, kind, port):
            done.wait(20)

    thread = threading.Thread(target=serve_late)
    thread.start()
    try:
        with kind(address, "net", retries=20) as client:
            assert client.predict(IMAGES)["probabilities"].shape == (4, CLASSES)
    finally:
        done.set()
        thread.join()
        models.requests.clear()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_wait_until_ready(make: Any, models: ModelServer) -> None:
    row = models.models["net"][3]
    row["state"] = "LOADING"
    with pytest.raises(ServingTimeoutError, match=r"'net' was not ready within 0\.6 s; last seen: version 3 LOADING"):
        make().wait_until_ready(0.6)
    row.update(state="END", error="no space")
    with pytest.raises(ServingTimeoutError, match="last seen: version 3 END no space"):
        make().wait_until_ready(0.3)
    row.update(state="LOADING", error="")
    models.script.extend([UNAVAILABLE, EXHAUSTED])
    timer = threading.Timer(0.7, lambda: row.update(state="AVAILABLE"))
    timer.start()
    begin = time.monotonic()
    make(retries=0).wait_until_ready(10)
    assert 0.6 < time.monotonic() - begin < 2
    with pytest.raises(ServingTimeoutError, match="last seen: NOT_FOUND: Could not find any versions of model nothing"):
        make("nothing").wait_until_ready(0.3)
    models.script.append(DENIED)
    with pytest.raises(ServingError, match="PERMISSION_DENIED"):
        make().wait_until_ready(5)


def test_wait_until_ready_for_a_label(make: Any, models: ModelServer) -> None:
    client = make(label="canary")
    with pytest.raises(ServingTimeoutError, match="Unrecognized servable version label: canary"):
        client.wait_until_ready(0.3)
    models.labels["net", "canary"] = 3
    client.wait_until_ready(5)


def test_wait_until_ready_for_no_server(kind: Any) -> None:
    address = f"127.0.0.1:{free_port()}"
    with (
        kind(f"http://{address}" if kind is Client else address, "net") as client,
        pytest.raises(ServingTimeoutError, match="last seen: UNAVAILABLE"),
    ):
        client.wait_until_ready(0.4)


@pytest.mark.parametrize("step", ["close", "cut"])
def test_broken_connections_are_tried_again(models: ModelServer, addresses: Any, step: str) -> None:
    models.requests.clear()
    models.script.append(step)
    assert Client(addresses[Client], "net").status() == [VersionStatus(3, "AVAILABLE")]
    models.script.append(step)
    with pytest.raises(ServingError, match=r"broke off|closed connection") as error:
        Client(addresses[Client], "net", retries=0).status()
    assert (error.value.code, len(models.requests)) == ("UNAVAILABLE", 3)
    assert "port" not in error.value.message


def test_malformed_json(models: ModelServer, addresses: Any) -> None:
    models.requests.clear()
    models.script.append("garbage")
    with pytest.raises(ServingError, match="an answer that is not TF Serving's: '<html>no JSON") as error:
        Client(addresses[Client], "net").classify(PNGS)
    assert (error.value.code, len(models.requests)) == ("UNKNOWN", 1)


@pytest.mark.parametrize(
    "body", [b"[]", b"{}", b'{"model_version_status": [{}]}', b'{"results": 3}', b'{"outputs": [[1, 2], [3]]}']
)
def test_json_of_another_kind(body: bytes) -> None:
    """A server that is none of TF Serving's."""
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)) as address:
        client = Client(address, "net")
        client._signatures = {"serving_default": Signature({"a": TensorInfo("float32", None)}, {
            "b": TensorInfo("float32", None)}, "")}  # fmt: skip
        for call in (client.status, client.metadata, lambda: client.classify(PNGS)):
            with pytest.raises(ServingError, match="TF Serving's") as error:
                call()
            assert error.value.code == "UNKNOWN"
        with pytest.raises(ServingError, match="TF Serving's"):
            client.predict(IMAGES)


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that gives one answer to everything."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer_all() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1 << 20)
                    connection.sendall(answer)

    threading.Thread(target=answer_all, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_an_error_that_is_no_json() -> None:
    with answering(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 17\r\n\r\n<p>not for you</p") as address:
        with pytest.raises(ServingError) as error:
            Client(address, "net").status()
        assert str(error.value) == f"{address}: HTTP 403 (PERMISSION_DENIED): <p>not for you</p"


def test_the_grpc_port_is_told(addresses: Any) -> None:
    with pytest.raises(ServingError, match=r"is it TF Serving's REST port, 8501 by custom\?"):
        Client(f"http://{addresses[GrpcClient]}", "net", retries=0).status()


def test_dripping_answers_time_out(models: ModelServer, addresses: Any) -> None:
    """Each byte comes in time; all of them do not."""
    models.script.append(("drip", 0.05))
    begin = time.monotonic()
    with pytest.raises(ServingTimeoutError):
        Client(addresses[Client], "net", timeout=0.4).status()
    assert time.monotonic() - begin < 0.7


def test_rest_uses_paths_before_its_own(models: ModelServer, addresses: Any) -> None:
    models.requests.clear()
    with pytest.raises(ServingError, match=r"Malformed request: GET /ml/v1/models/net/labels/a%20b$"):
        Client(f"{addresses[Client]}/ml/", "net", label="a b").status()


def test_rest_without_keras_and_tensorflow(addresses: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", IMAGES)
    (tmp_path / "one.png").write_bytes(PNGS[0])
    arguments = [addresses[Client], str(tmp_path / "images.npy"), str(tmp_path / "one.png")]
    root = str(Path(__file__).parents[2])
    reply = subprocess.run(
        [sys.executable, "-c", WITHOUT_FRAMEWORKS, *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip
    assert reply.returncode == 0, reply.stderr
    assert reply.stdout.splitlines() == [
        f"(4, {CLASSES}) (4, {CHANNELS}) 3",
        "GrpcClient needs tensorflow-serving-api (No module named 'grpc'): pip install 'keras_resnext[grpc]'",
        "No module named 'keras'",
    ]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES[0], r"images of shape \(8, 8, 3\) and type uint8 must be .* image\[None\]"),
        (IMAGES[:0], "N ≥ 1"),
        (IMAGES[..., :1], r"\(4, 8, 8, 1\)"),
        (IMAGES > 3, "type bool"),
        (np.array(["cat.jpg"]), "must be numbers"),
    ],
)
def test_wrong_arrays(make: Any, models: ModelServer, images: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make().predict(images)
    assert not models.requests


def test_wrong_images(make: Any, models: ModelServer, tmp_path: Path) -> None:
    for samples in (b"one", "one.png", tmp_path, []):
        for call in (make().predict_images, make().classify):
            with pytest.raises(ValueError, match="must be a list of at least one path or bytes object"):
                call(samples)
    with pytest.raises(FileNotFoundError):
        make().classify([tmp_path / "none.png"])
    assert not models.requests


def test_wrong_signatures(make: Any) -> None:
    for call, message in (
        (lambda: make().predict(IMAGES, "none"), "'none' must be one of classify, features, heads, serving_bytes, ser"),
        (lambda: make().predict(IMAGES, "serving_bytes"), "takes string: call predict_images or classify"),
        (lambda: make().predict_images(PNGS, "features"), "takes float32: call predict"),
        (
            lambda: make().predict(IMAGES[:, :5]),
            r"\(4, 5, 8, 3\) must be \(N, 8, 8, 3\), which signature_name='serving_d",
        ),
        (lambda: make().predict(IMAGES, "two"), "'two' takes images, scale; it must take one input"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ""}, "model='' must be a name"),
        ({"model": "a/b"}, "without / and :"),
        ({"label": "a:b"}, "label='a:b'"),
        ({"version": -1}, "version=-1 must be"),
        ({"version": "3"}, "version='3' must be"),
        ({"version": 3, "label": "stable"}, "give one of them"),
        ({"timeout": 0}, "timeout=0 must be positive"),
        ({"timeout": float("nan")}, "timeout=nan must be positive"),
        ({"retries": -1}, "retries=-1 must be"),
        ({"retries": 1.5}, "retries=1.5 must be"),
    ],
)
def test_wrong_options(make: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_wrong_addresses() -> None:
    for address in ("localhost:8501", "ftp://localhost", "http://", "http://localhost:port", "http://host?a=b", ""):
        with pytest.raises(ValueError, match=r"address=.* must be http://HOST:PORT"):
            Client(address, "net")
    for address in ("http://localhost:8500", "", "a b"):
        with pytest.raises(ValueError, match=r"address=.* must be HOST:PORT, without http://"):
            GrpcClient(address, "net")


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


def test_threads_share_a_client(make: Any) -> None:
    client, found = make(), [None] * 4

    def ask(i: int) -> None:
        for _ in range(5):
            found[i] = client.predict(IMAGES[i : i + 1])["probabilities"]

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(np.concatenate(found), expected(IMAGES)[1], atol=1e-6)


def test_what_is_exported(make: Any, models: ModelServer, tmp_path: Path) -> None:
    """The project's own export in place of the small network."""
    from keras_resnext.export import export_saved_model

    keras.utils.set_random_seed(0)
    model = ResNeXt(blocks=(1, 1, 1), groups=2, base_channels=8, stem="cifar", stem_channels=8,
                    input_shape=(SIZE, SIZE, 3), classes=CLASSES)  # fmt: skip
    models.add("other", 1, export_saved_model(model, tmp_path, labels=LABELS))
    try:
        client = make("other")
        client.wait_until_ready(5)
        wanted = np.asarray(model(preprocess_input(IMAGES.astype("float32")), training=False))
        np.testing.assert_allclose(client.predict(IMAGES)["probabilities"], wanted, atol=1e-5)
        found = client.predict_images(PNGS)
        np.testing.assert_allclose(found["probabilities"], wanted, atol=1e-5)
        assert found["top_labels"][:, 0].tolist() == [LABELS[i] for i in wanted.argmax(-1)]
    finally:
        models.models["other"][1]["servable"].close()
