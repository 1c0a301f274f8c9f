"""Requests with which a version warms up before it is served (tensorflow/serving, saved_model_warmup.md)."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .serving_messages import message_type
from .version_folder import WARMUP_FILE

BATCH_SIZES = (1, 8)
MAX_RECORDS = 1000  # that TF Serving reads


def write_warmup(version: Path, signatures: Sequence[str], size: tuple[int, int]) -> None:
    """Writes a TFRecord of PredictionLogs into the folder `version`: every signature, each of `BATCH_SIZES`."""
    import tensorflow as tf

    file = version / WARMUP_FILE
    file.parent.mkdir()
    with tf.io.TFRecordWriter(str(file)) as writer:
        for signature in signatures:
            for batch in BATCH_SIZES:
                writer.write(_prediction_log(signature, batch, size).SerializeToString())


def read_warmup(version: Path) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """(signature name, input arrays) of each request in the folder `version`; none where it has no such file.

    Raises:
        ValueError: a file that holds something else.
    """
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2

    file = version / WARMUP_FILE
    if not file.is_file():
        return
    log_type = message_type("PredictionLog")
    try:
        for record in tf.data.TFRecordDataset(str(file)).take(MAX_RECORDS).as_numpy_iterator():
            log = log_type.FromString(record)
            if log.HasField("predict_log"):
                request = log.predict_log.request
                tensors = {
                    row.key: tf.make_ndarray(tensor_pb2.TensorProto.FromString(row.value)) for row in request.inputs
                }
            elif log.HasField("classify_log"):
                request = log.classify_log.request
                examples = np.empty(len(request.input.example_list.examples), object)
                examples[:] = list(request.input.example_list.examples)
                tensors = {"inputs": examples}
            else:  # sessions and regressions, which no export of this package has
                continue
            yield request.model_spec.signature_name or "serving_default", tensors
    except tf.errors.OpError as error:
        raise ValueError(f"{WARMUP_FILE}: {error.message}") from None


def _prediction_log(signature: str, batch: int, size: tuple[int, int]) -> Any:
    import tensorflow as tf

    stream = io.BytesIO()
    Image.new("RGB", size[::-1], (128, 128, 128)).save(stream, "PNG")
    log = message_type("PredictionLog")()
    if signature == "classify":
        request = log.classify_log.request
        feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[stream.getvalue()]))
        example = tf.train.Example(features=tf.train.Features(feature={"image/encoded": feature}))
        request.input.example_list.examples.extend([example.SerializeToString()] * batch)
    else:
        request = log.predict_log.request
        if signature == "serving_bytes":
            name, tensor = "image_bytes", tf.make_tensor_proto([stream.getvalue()] * batch)
        else:
            name, tensor = "images", tf.make_tensor_proto(np.zeros((batch, *size, 3), np.float32))
        request.inputs.add(key=name, value=tensor.SerializeToString())
    request.model_spec.signature_name = signature
    return log
