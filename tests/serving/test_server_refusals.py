"""Bad requests, content types and broken images get a 4xx answer that says what is wrong, over REST and gRPC."""

import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from keras_resnext.serving import GrpcClient, ServingError
from tests.serving.material import CLASSES, IMAGES, JPEG, NET, PNG, SIZE, SLOW, b64, encode, noise

ROW = IMAGES[0].tolist()

RAGGED = [[[[0, 0, 0]] * SIZE] * (SIZE - 1) + [[[0, 0, 0]] * (SIZE - 1)]]

ASK, SLOW_ASK, CLASSIFY, EXPLAIN = f"{NET}:predict", f"{SLOW}:predict", f"{NET}:classify", f"{NET}:explain"

BYTES, TWO, EXAMPLES = ({"signature_name": name} for name in ("serving_bytes", "two", "classify"))

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
    (EXPLAIN, {"image_bytes": b64(b"no image")}, 400, "the image is not a JPEG, PNG, GIF or BMP"),
    (EXPLAIN, {"image_bytes": b64(PNG), "layer": "layer9"}, 400, "layer='layer9' is no layer"),
    (EXPLAIN, {"image_bytes": b64(PNG), "class": CLASSES}, 400, "must be an integer in 0..5"),
    (EXPLAIN, {"image_bytes": b64(PNG), "method": "magic"}, 400, "must be one of grad_cam"),
    (EXPLAIN, {"image_bytes": b64(PNG), "colour": 1}, 400, "is no field of :explain"),
    (f"{SLOW}:explain", {"image_bytes": b64(PNG)}, 400, "cannot be explained: it does not hold its Keras model"),
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


def claiming(kind: bytes, width: int, height: int) -> bytes:
    """The beginning of a PNG of that size, for an image that would need far more memory than its file."""
    chunk = kind + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


GIF = encode(noise(50, 40, "L"), "GIF")
GIF = GIF[:10] + b"\0" + GIF[11:]  # no table of colours
GIF_FRAME = b",\0\0\0\0\xff\xff\xff\xff\0\2\0"

DATA = [
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
    ("empty", b"", "image 0 is not a JPEG, PNG, GIF or BMP (it is empty)"),
    ("text", b"<svg/>", "image 0 is not a JPEG, PNG, GIF or BMP (it looks like SVG)"),
    ("WebP", encode(noise(50, 40), "WEBP"), "image 0 is not a JPEG, PNG, GIF or BMP (it looks like WebP)"),
    ("PNG without its size", PNG[:8] + claiming(b"abCd", 1, 1)[8:], "(it looks like a PNG that does not begin with"),
    ("JPEG bomb", b"\xff\xd8\xff\xfe\0\4xxyy\xff\xff\xff\xc0\0\x11\x08\xff\xff\xff\xff", "more than 178956970"),
    ("GIF bomb", GIF[:13] + b"!\xfe\1a\0" + GIF_FRAME, "more than 178956970"),
    ("bomb", claiming(b"IHDR", 30_000, 30_000), "more than 178956970 pixels"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "message"), [row[1:] for row in DATA], ids=[row[0] for row in DATA])
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
    import tensorflow as tf
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
