"""TF Serving's and TensorFlow's messages as far as they are used here, each declared once, without their packages.

TF Serving's own Python package brings gRPC along for these few fields, and TensorFlow's seconds of importing. Names
and numbers are those of the .proto files. A map is a repeated message of key and value. What is passed on unread,
tensors and examples, stays bytes: on the wire a message inside a message is nothing else.
"""

import functools
from typing import Any

_Fields = dict[str, tuple[int, str]]  # {field: (number, kind)}

# tensorflow_serving/apis: prediction_log, predict, classification, input, model.proto. What warms a version up.
_PREDICTION_LOG: dict[str, _Fields] = {
    "ModelSpec": {"name": (1, "string"), "signature_name": (3, "string")},
    "NamedTensor": {"key": (1, "string"), "value": (2, "bytes")},
    "PredictRequest": {"model_spec": (1, "ModelSpec"), "inputs": (2, "repeated NamedTensor")},
    "ExampleList": {"examples": (1, "repeated bytes")},
    "Input": {"example_list": (1, "ExampleList")},
    "ClassificationRequest": {"model_spec": (1, "ModelSpec"), "input": (2, "Input")},
    "PredictLog": {"request": (1, "PredictRequest")},
    "ClassifyLog": {"request": (1, "ClassificationRequest")},
    "PredictionLog": {"classify_log": (2, "ClassifyLog"), "predict_log": (6, "PredictLog")},
}
# tensorflow_serving/config/model_server_config.proto, sources/storage_path/file_system_storage_path_source.proto.
_MODEL_SERVER_CONFIG: dict[str, _Fields] = {
    "Latest": {"num_versions": (1, "uint32")},
    "All": {},
    "Specific": {"versions": (1, "repeated int64")},
    "ServableVersionPolicy": {"latest": (100, "Latest"), "all": (101, "All"), "specific": (102, "Specific")},
    "VersionLabel": {"key": (1, "string"), "value": (2, "int64")},
    "ModelConfig": {
        "name": (1, "string"),
        "base_path": (2, "string"),
        "model_platform": (4, "string"),
        "model_version_policy": (7, "ServableVersionPolicy"),
        "version_labels": (8, "repeated VersionLabel"),
    },
    "ModelConfigList": {"config": (1, "repeated ModelConfig")},
    "ModelServerConfig": {"model_config_list": (1, "ModelConfigList")},
}
# tensorflow/core/protobuf: saved_model, meta_graph.proto. Which tensors a signature takes and gives.
_SAVED_MODEL: dict[str, _Fields] = {
    "TensorInfo": {"name": (1, "string")},
    "NamedInfo": {"key": (1, "string"), "value": (2, "TensorInfo")},
    "SignatureDef": {"inputs": (1, "repeated NamedInfo"), "outputs": (2, "repeated NamedInfo")},
    "NamedSignature": {"key": (1, "string"), "value": (2, "SignatureDef")},
    "MetaGraphDef": {"signature_def": (5, "repeated NamedSignature")},
    "SavedModel": {"meta_graphs": (2, "repeated MetaGraphDef")},
}
_MESSAGES = {**_PREDICTION_LOG, **_MODEL_SERVER_CONFIG, **_SAVED_MODEL}


@functools.cache
def message_type(name: str) -> Any:
    """The class of a message declared above, in Google's protobuf."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    package = "keras_resnext"
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for message, fields in _MESSAGES.items():
        added = file.message_type.add(name=message)
        for key, (number, kind) in fields.items():
            row = added.field.add(name=key, number=number)
            row.label = row.LABEL_REPEATED if kind.startswith("repeated ") else row.LABEL_OPTIONAL
            kind = kind.removeprefix("repeated ")
            row.type = row.TYPE_MESSAGE if kind in _MESSAGES else getattr(row, f"TYPE_{kind.upper()}")
            if kind in _MESSAGES:
                row.type_name = f".{package}.{kind}"
    pool = descriptor_pool.DescriptorPool()  # of its own: the packages may be there and declare theirs
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
