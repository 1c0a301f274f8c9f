"""What the tests of server and clients send, and the models that the server has for them."""

import base64
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE, CLASSES, TOP = 32, 6, 5
LABELS = ["zéro", "<b>one</b>", "it's", 'qua"ttro', "cinco", "sześć"]
IMAGES = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
NET, SLOW = "/v1/models/net", "/v1/models/slow"


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


PNGS = [encode(Image.fromarray(image)) for image in IMAGES]
PNG = PNGS[0]
JPEG = encode(noise(60, 40), "JPEG")
ASK_BYTES = {"signature_name": "serving_bytes", "instances": [b64(PNG)]}


def save_slow(path: Path) -> None:
    """A SavedModel of signatures that the exports lack; `serving_default` takes about x/10 seconds for each x."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.float32, "x")])
    def slow(x):
        rounds = tf.cast(tf.reduce_max(x) * 10, tf.int32)
        matrix = tf.random.uniform((700, 700), seed=1) + 0 * x[0]
        for _ in tf.range(rounds):
            matrix = tf.nn.softmax(matrix @ matrix)
        return {"y": x + 0 * matrix[0, 0]}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "image_bytes")])
    def heads(image_bytes):
        return {"head_bytes": tf.strings.substr(image_bytes, 0, 4), "length": tf.strings.length(image_bytes)}

    @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.int32, "a"), tf.TensorSpec((None,), tf.bool, "b")])
    def two(a, b):
        return {"sum": tf.reduce_sum(a, 1), "not_b": ~b, "raw_bytes": tf.fill((tf.shape(a)[0],), b"\xff\x00")}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.float32, "x")])
    def whole(x):
        return {"total": tf.math.log(tf.reduce_sum(x))}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.float32, "x")])
    def first(x):
        return {"y": x[: tf.minimum(1, tf.shape(x)[0])]}

    signatures = {"first": first, "heads": heads, "two": two, "whole": whole}
    tf.saved_model.save(tf.Module(), str(path), signatures={"serving_default": slow, **signatures})
    facts = {"image_size": [8, 12], "preprocessing": {"resize": 12, "interpolation": "bilinear"}}
    (path / "manifest.json").write_text(json.dumps(facts), encoding="utf-8")
