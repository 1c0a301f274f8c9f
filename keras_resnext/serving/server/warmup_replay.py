"""Reads the requests with which a version warms up: assets.extra/tf_serving_warmup_requests."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

FILE = "assets.extra/tf_serving_warmup_requests"
MAX_RECORDS = 1000  # as TF Serving

# Of prediction_log.proto and those it holds (tensorflow_serving/apis): {field: (number, kind)}. Tensors and examples
# stay bytes, which on the wire a message is.
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "Spec": {"signature_name": (3, "string")},
    "Entry": {"key": (1, "string"), "value": (2, "bytes")},
    "Predict": {"model_spec": (1, "Spec"), "inputs": (2, "repeated Entry")},
    "Examples": {"examples": (1, "repeated bytes")},
    "Input": {"example_list": (1, "Examples")},
    "Classify": {"model_spec": (1, "Spec"), "input": (2, "Input")},
    "PredictLog": {"request": (1, "Predict")},
    "ClassifyLog": {"request": (1, "Classify")},
    "Log": {"classify_log": (2, "ClassifyLog"), "predict_log": (6, "PredictLog")},
}


def read_warmup(version: Path) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """(signature name, input arrays) of each request; none where the version has no such file.

    Raises:
        ValueError: a file that holds something else.
    """
    import tensorflow as tf

    file = version / FILE
    if not file.is_file():
        return
    log = _log_type()
    try:
        for record in tf.data.TFRecordDataset(str(file)).take(MAX_RECORDS).as_numpy_iterator():
            entry = log.FromString(record)
            kind = entry.WhichOneof("log")
            if kind == "predict_log":
                request = entry.predict_log.request
                tensors = {row.key: tf.make_ndarray(_tensor(row.value)) for row in request.inputs}
            elif kind == "classify_log":
                request = entry.classify_log.request
                examples = np.empty(len(request.input.example_list.examples), object)
                examples[:] = list(request.input.example_list.examples)
                tensors = {"inputs": examples}
            else:  # sessions and regressions, which no export of this package has
                continue
            yield request.model_spec.signature_name or "serving_default", tensors
    except tf.errors.OpError as error:
        raise ValueError(f"{FILE}: {error.message}") from None


def _tensor(data: bytes) -> Any:
    from tensorflow.core.framework import tensor_pb2

    return tensor_pb2.TensorProto.FromString(data)


@functools.cache
def _log_type() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="warmup.proto", package="warmup", syntax="proto3")
    for message, fields in _MESSAGES.items():
        added = file.message_type.add(name=message)
        for key, (number, kind) in fields.items():
            row = added.field.add(name=key, number=number)
            row.label = row.LABEL_REPEATED if kind.startswith("repeated ") else row.LABEL_OPTIONAL
            kind = kind.removeprefix("repeated ")
            row.type = row.TYPE_MESSAGE if kind in _MESSAGES else getattr(row, f"TYPE_{kind.upper()}")
            if kind in _MESSAGES:
                row.type_name = f".warmup.{kind}"
            if message == "Log":
                row.oneof_index = 0
        if message == "Log":
            added.oneof_decl.add(name="log")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("warmup.Log"))
