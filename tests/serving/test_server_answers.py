"""The development server answers as TF Serving does: both clients, raw REST, metrics, batches and Grad-CAM."""

import asyncio
import base64
import io
import re
import threading
import time

import numpy as np
import pytest
from PIL import Image

from keras_resnext import preprocess_input
from keras_resnext.serving import Client, GrpcClient
from keras_resnext.serving.server.tensors import decode_base64
from tests.serving.material import ASK_BYTES, CLASSES, IMAGES, JPEG, LABELS, NET, PNG, PNGS, SIZE, SLOW, b64


def test_both_clients_agree_with_keras(plain, model):
    expected = model.predict(preprocess_input(IMAGES), verbose=0)
    clients = [Client(plain.address, "net"), GrpcClient(plain.grpc_address, "net")]
    for client in clients:
        client.wait_until_ready(5)
        np.testing.assert_allclose(client.predict(IMAGES)["probabilities"], expected, atol=1e-6)
        found = client.predict_images(PNGS)
        np.testing.assert_allclose(found["probabilities"], expected, atol=1e-5)
        assert found["top_labels"][:, 0].tolist() == [LABELS[i] for i in expected.argmax(1)]
        assert [[label for label, _ in row] for row in client.classify(PNGS)] == found["top_labels"].tolist()
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
    assert (listed["net"]["explains"], listed["slow"]["explains"]) == ("keras", None)


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
        found = [re.search(rf'{name}_{what}{{model_name="net"}} (\d+)', text) for what in ("sum", "count")]
        return [int(match[1]) if match else 0 for match in found]  # nothing before the first batch

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


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("YWJj", b"abc"), ("YWI=", b"ab"), ("YWI", b"ab"), ("YQ==", b"a"), ("YQ", b"a"), ("YQ..", b"a"), ("", b""),
        (" Y W\nI\r\n=\t\v\f", b"ab"), ("YQ=\n=", b"a"), ("YR==", b"a"),
        ("YQ=", None), ("YWI==", None), ("YWJj=", None), ("Y", None), ("====", None), ("YW=I", None), ("-_-_", None),
        ("YW\u00a0I", None), ("YWé", None), ("YW\0I", None),
    ],
)  # fmt: skip
def test_base64_is_read_as_tf_serving_reads_it(text, data):
    """The table follows absl::Base64Unescape: whitespace anywhere, = or . whole or left out."""
    assert decode_base64(text) == data


def test_base64_in_lines(plain):
    """What `base64 cat.jpg` and most mail programs write."""
    wrapped = {"b64": base64.encodebytes(PNG).decode()}
    assert "\n" in wrapped["b64"].rstrip()
    body = {"signature_name": "serving_bytes", "instances": [wrapped]}
    assert plain.ask(f"{NET}:predict", body)[:2] == plain.ask(f"{NET}:predict", ASK_BYTES)[:2]
    examples = {"signature_name": "classify", "examples": [{"image/encoded": wrapped}]}
    assert plain.ask(f"{NET}:classify", examples)[0] == 200
