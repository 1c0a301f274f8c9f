"""Requests with which TF Serving warms a version up before it serves it (tensorflow/serving, saved_model_warmup.md)."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

BATCH_SIZES = (1, 8)
FILE = "assets.extra/tf_serving_warmup_requests"


def write_warmup(path: Path, signatures: list[str], size: tuple[int, int]) -> None:
    """Writes a TFRecord of PredictionLogs into the version folder `path`: every signature, each of `BATCH_SIZES`."""
    import tensorflow as tf

    file = path / FILE
    file.parent.mkdir()
    with tf.io.TFRecordWriter(str(file)) as writer:
        for signature in signatures:
            for batch in BATCH_SIZES:
                writer.write(_prediction_log(signature, batch, size))


def _prediction_log(signature: str, batch: int, size: tuple[int, int]) -> bytes:
    """A PredictionLog, on the wire: TF Serving's package would bring gRPC along for these few fields.

    tensorflow_serving/apis/{prediction_log,predict,classification,input,model}.proto; each number is a field's.
    """
    import tensorflow as tf

    stream = io.BytesIO()
    Image.new("RGB", size[::-1], (128, 128, 128)).save(stream, "PNG")
    model_spec = _field(1, _field(3, signature.encode()))
    if signature == "classify":
        feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[stream.getvalue()]))
        example = tf.train.Example(features=tf.train.Features(feature={"image/encoded": feature}))
        examples = _field(1, example.SerializeToString()) * batch
        return _field(2, _field(1, model_spec + _field(2, _field(1, examples))))  # classify_log.request.input
    if signature == "serving_bytes":
        name, tensor = b"image_bytes", tf.make_tensor_proto([stream.getvalue()] * batch)
    else:
        name, tensor = b"images", tf.make_tensor_proto(np.zeros((batch, *size, 3), np.float32))
    entry = _field(1, name) + _field(2, tensor.SerializeToString())
    return _field(6, _field(1, model_spec + _field(2, entry)))  # predict_log.request.inputs


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    low = bytes([value & 0x7F | (0x80 if value > 0x7F else 0)])
    return low if value <= 0x7F else low + _varint(value >> 7)
