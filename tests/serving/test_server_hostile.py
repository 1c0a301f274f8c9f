"""Requests that are made to hurt are refused before they cost anything, and nobody else notices."""

import asyncio
import contextlib
import gc
import gzip
import logging
import os
import socket
import threading
import time
import weakref

import numpy as np
import pytest

from keras_resnext.serving.server.apart import Readers
from keras_resnext.serving.server.models import Models
from keras_resnext.serving.server.responses import write_outputs
from keras_resnext.serving.server.running import within
from keras_resnext.serving.server.servable import Servable
from keras_resnext.serving.server.signature import Signature
from keras_resnext.serving.server.status import RequestError, invalid
from keras_resnext.serving.server.tensors import MOST_ROWS, TensorSpec, shown
from keras_resnext.serving.server.wire import _KINDS, STRING, read_predict, schema_of
from tests.serving.material import ASK_BYTES, NET, b64

BYTES = "serving_bytes"


@pytest.mark.parametrize("seconds", [5.0, 0.05], ids=["refused", "late"])
def test_what_a_refused_request_held_is_free_at_once(seconds):
    class Document:
        pass

    async def ask():
        async def work():
            document = Document()
            held.append(weakref.ref(document))
            try:
                await asyncio.sleep(1.0 if seconds < 1 else 0)
                raise KeyError(document)
            except KeyError:
                raise invalid("no") from None

        with pytest.raises(RequestError) as error:
            await within(seconds, work(), invalid("late"))
        return error.value.message

    held = []
    gc.disable()
    try:
        assert asyncio.run(ask()) == ("no" if seconds > 1 else "late")
        assert held[0]() is None
    finally:
        gc.enable()


def rows_by_the_million():
    return b'{"signature_name":"serving_bytes","instances":[' + b",".join([b'{"b64":""}'] * 400_000) + b"]}"


def numbers_by_the_million():
    return b'{"instances":[' + b"1.5," * 7_000_000 + b"1]}"


ATTACKS = {  # path, headers, body, what the answer says
    "rows": (
        ":predict", {"content-encoding": "gzip"}, lambda: gzip.compress(rows_by_the_million()),
        "a request of over 131072 objects; expected at most 16384 rows",
    ),
    "numbers": (":predict", {}, numbers_by_the_million, "a request of 7000001 rows; expected at most 16384"),
    "chunks": (":predict", {}, lambda: iter([b" "] * 60_000), "Expecting value"),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_bystanders_do_not_notice(plain, attack):
    """While it is looked at, the status is answered: no wait is as long as half of what the attack takes."""
    call, headers, body, message = ATTACKS[attack]
    answers, waits, data = [], [], body()
    assert plain.ask(NET)[0] == 200
    thread = threading.Thread(target=lambda: answers.append(plain.ask(NET + call, data, headers)))
    began = time.monotonic()
    thread.start()
    while thread.is_alive():
        started = time.monotonic()
        assert plain.ask(NET)[0] == 200
        waits.append(time.monotonic() - started)
    took = time.monotonic() - began
    assert answers[0][0] == 400
    assert message in answers[0][1]["error"]
    assert max(waits) < max(took / 2, 0.2), "the server stood still"


def test_rows_and_contexts_are_bounded(plain):
    rows = plain.ask(f"{NET}:predict", {"signature_name": BYTES, "inputs": [""] * 20_000})[1]
    assert rows == {"error": f"a request of 20000 rows; expected at most {MOST_ROWS}"}
    started = time.monotonic()
    for context, count in (("x" * (1 << 20), 100), ([1] * 8000, 8000)):
        body = {"signature_name": "classify", "context": {"c": context}, "examples": [{}] * count}
        status, answer, _ = plain.ask(f"{NET}:classify", body)
        assert (status, "examples of over" in answer["error"]) == (400, True)
    assert time.monotonic() - started < 5


def test_a_reader_that_dies_is_one_request_s_error():
    """What ends it, and what its next request gets."""

    async def ask():
        readers = Readers(1.0, 1 << 20)
        try:
            for function, argument, code in (
                (os.abort, None, "INTERNAL"),
                (time.sleep, 30, "DEADLINE_EXCEEDED"),
                (bytearray, 4 << 30, "RESOURCE_EXHAUSTED"),
                (len, 3, "INTERNAL"),
            ):
                with pytest.raises(RequestError) as error:
                    await readers.run(function, *(() if argument is None else (argument,)))
                assert error.value.code == code
                assert await readers.run(len, bytes(1 << 20)) == 1 << 20
        finally:
            readers.close()

    asyncio.run(ask())


def test_a_message_does_not_write_all_that_it_shows_the_beginning_of():
    started = time.monotonic()
    assert shown([[0] * 1_000_000] * 1000) == "[[" + "0, " * 32 + "0,…"
    assert time.monotonic() - started < 1


def test_good_requests_are_answered_beside_bad_ones(plain):
    """They wait together, and would go through the network together."""
    bad = [
        b"\xff\xd8\xff\xe9\xfe",
        b"GIF89a\xe9\xff",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff",
        b"BM\xff\xfe",
        b"\xe9",
        b"",
    ]
    statuses = {"good": [], "bad": []}

    def ask(kind, body):
        for _ in range(4):
            statuses[kind].append(plain.ask(f"{NET}:predict", body)[0])

    threads = [threading.Thread(target=ask, args=("good", ASK_BYTES)) for _ in range(6)]
    threads += [
        threading.Thread(target=ask, args=("bad", {"signature_name": BYTES, "instances": [b64(data)]})) for data in bad
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses["good"]) == {200}
    assert set(statuses["bad"]) == {400}


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid"), "INVALID_ARGUMENT", "image 0 is not a JPEG, PNG"),
        (MemoryError("17 GB"), "INTERNAL", "the network failed: MemoryError: 17 GB"),
    ],
)
def test_whatever_a_network_raises_is_one_request_s_error(monkeypatch, error, code, message):
    pytest.importorskip("tensorflow")

    def fail(*_):
        raise error

    spec = TensorSpec("image_bytes", "", np.dtype(object), "string", (None,))
    servable, inputs = object.__new__(Servable), {"image_bytes": np.array([b"\xe9"], object)}
    monkeypatch.setattr(servable, "_call", lambda signature: fail, raising=False)
    with pytest.raises(RequestError) as refused:
        servable.run(Signature(BYTES, "", {"image_bytes": spec}, {}, True), inputs)
    assert refused.value.code == code
    assert refused.value.message.startswith(message)


def test_grpc_tensors_hold_what_they_promise(plain):
    """Some bytes can promise gigabytes: one value stands for any number of them."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import classification_pb2, predict_pb2, prediction_service_pb2_grpc

    def tensor(dtype, shape, **values):
        proto = tf.make_tensor_proto(0.0)
        proto.Clear()
        proto.dtype = dtype
        for size in shape:
            proto.tensor_shape.dim.add(size=size)
        for name, value in values.items():
            if name == "tensor_content":
                proto.tensor_content = value
            else:
                getattr(proto, name).append(value)
        return proto

    many = classification_pb2.ClassificationRequest()
    many.model_spec.name, many.model_spec.signature_name = "net", "classify"
    both = many.input.example_list_with_context
    both.context.features.feature["c"].bytes_list.value.append(b"x" * (1 << 20))
    for _ in range(100):
        both.examples.add()
    predicts = [
        ("net", "images", "serving_default", tensor(1, (2**40, 32, 32, 3), float_val=1.0), "rows; expected at most"),
        ("net", "images", "serving_default", tensor(1, (9000, 32, 32, 3), float_val=1.0), "is larger than 33554432"),
        ("net", "images", "serving_default", tensor(1, (-1, 32, 32, 3), float_val=1.0), "must have a shape"),
        ("net", "images", "serving_default", tensor(1, (1, *(2**30,) * 8), float_val=1.0), "is larger"),
        ("net", "images", "serving_default", tensor(1, (2, 32, 32, 3), tensor_content=b"1234"), "is no tensor"),
        ("net", "image_bytes", BYTES, tensor(7, (10_000,), string_val=b"x"), "has 1 strings; expected 10000"),
        ("net", "image_bytes", BYTES, tensor(77, (1,)), "is no tensor"),
        ("slow", "x", "serving_default", tensor(1, (2**62,), float_val=1.0), "rows; expected at most"),
    ]
    started = time.monotonic()
    with grpc.insecure_channel(plain.grpc_address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        calls = [(stub.Classify, many, "examples of over 33554432 bytes")]
        for model, name, signature, proto, message in predicts:
            request = predict_pb2.PredictRequest(inputs={name: proto})
            request.model_spec.name, request.model_spec.signature_name = model, signature
            calls.append((stub.Predict, request, message))
        for call, request, message in calls:
            with pytest.raises(grpc.RpcError) as error:
                call(request, timeout=20)
            assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert message in error.value.details()
        fine = predict_pb2.PredictRequest(inputs={"x": tensor(1, (3,), float_val=0.0)})
        fine.model_spec.name = "slow"
        assert len(tf.make_ndarray(stub.Predict(fine, timeout=20).outputs["y"])) == 3, "one value for all is a tensor"
    assert time.monotonic() - started < 10


def test_tensors_are_read_as_tensorflow_reads_them():
    tf = pytest.importorskip("tensorflow")
    pb2 = pytest.importorskip("tensorflow_serving.apis.predict_pb2")
    schema, numbers = schema_of(pb2.PredictRequest), np.arange(6).reshape(2, 3)
    for kind, dtype in ((k, tf.dtypes.as_dtype(k)) for k in _KINDS if k != STRING):
        full = tf.make_tensor_proto(numbers.astype(dtype.as_numpy_dtype))
        listed = tf.make_tensor_proto(numbers.flat[1], dtype, shape=(2, 3))  # one value for all
        none = tf.make_tensor_proto(np.zeros((0, 3), dtype.as_numpy_dtype))
        for proto in (full, listed, none):
            data = pb2.PredictRequest(inputs={"x": proto}).SerializeToString()
            found, expected = read_predict(data, schema, 1 << 20).inputs["x"], tf.make_ndarray(proto)
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape), kind
            np.testing.assert_array_equal(found, expected)


def test_large_answers_are_written_as_small_ones(monkeypatch):
    arrays = {
        "a": np.random.default_rng(0).normal(size=(3, 4, 50)).astype("f4"),
        "b": np.array([[b"x"], [b"y"], [b"z"]]),
    }
    for outputs in (arrays, {"a": arrays["a"]}, {"b": arrays["b"]}):
        for rows in (False, True):
            monkeypatch.undo()
            whole = write_outputs(outputs, rows)
            monkeypatch.setattr("keras_resnext.serving.server.responses.SMALL", 0)
            monkeypatch.setattr("keras_resnext.serving.server.responses.PIECE", 20)
            assert write_outputs(outputs, rows) == whole


def test_pages_from_elsewhere_may_not_post(plain):
    """A browser sends a form's post before it asks anybody, and only keeps the answer from the page."""
    for origin in ("https://elsewhere.example", "http://localhost:1", "null"):
        status, answer, _ = plain.ask(f"{NET}:predict", ASK_BYTES, {"origin": origin})
        assert (status, f"pages of {origin!r} may not ask" in answer["error"]) == (403, True)
    own = {"origin": f"http://localhost:{plain.port}", "host": f"localhost:{plain.port}"}
    proxied = {"origin": "https://models.example", "sec-fetch-site": "same-origin"}
    for headers in (own, proxied):
        assert plain.ask(f"{NET}:predict", ASK_BYTES, headers)[0] == 200


def test_a_body_with_two_lengths_is_refused(plain):
    head = b"POST /v1/models/net:predict HTTP/1.1\r\nHost: localhost\r\n"
    head += b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", plain.port), 10) as connection:
        connection.sendall(head + b"0\r\n\r\nGET /v1/models/net HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(1 << 16):
                answer += piece
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1, "what follows is no request of its own"


@pytest.mark.parametrize("text", ["model_config_list {", "a {" * 5000])
def test_a_models_config_that_cannot_be_read_is_told_once(tmp_path, caplog, text):
    (tmp_path / "net" / "1").mkdir(parents=True)
    (tmp_path / "net" / "1" / "saved_model.pb").touch()
    (tmp_path / "models.config").write_text(text)

    async def watch():
        models = Models(tmp_path, 0.01, 1.0)
        watching = asyncio.create_task(models.watch())
        await asyncio.sleep(0.3)
        watching.cancel()

    with caplog.at_level(logging.INFO):
        asyncio.run(watch())
    (record,) = caplog.records
    assert "models.config is no ModelServerConfig" in record.getMessage()
