"""A client of TF Serving's gRPC interface, by the stubs of tensorflow-serving-api."""

import re
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from .base_client import Array, BaseClient
from .errors import ServingError, ServingTimeoutError
from .metadata import Signature

OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # 4 MB by default: a batch of features has more
    # A channel holds back its own attempts to connect, by default longer than ours are apart.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


@dataclass(eq=False, repr=False)
class GrpcClient(BaseClient):
    """Asks a TF Serving over gRPC: the methods of `Client`, arrays as they are in memory, one lasting connection.

        with GrpcClient("localhost:8500", "resnext50") as client:
            client.predict(images)["probabilities"]

    Needs TensorFlow and tensorflow-serving-api: `pip install 'keras_resnext[grpc]'`. Threads may share a client.

    Args:
        address: "HOST:8500", without a scheme.
        credentials: grpc.ChannelCredentials, such as grpc.ssl_channel_credentials(); default no encryption.
        model, version, label, timeout, retries, headers: as in `Client`; `retries` counts the attempts after
            UNAVAILABLE, as where no connection is made, and RESOURCE_EXHAUSTED, and `headers` are gRPC metadata.

    Raises:
        ValueError: an argument out of range.
        ImportError: tensorflow-serving-api is missing.
    """

    _: KW_ONLY
    credentials: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        address = self.address
        if not isinstance(address, str) or not re.fullmatch(r"(unix:)?[^\s:/][^\s]*", address) or "://" in address:
            raise ValueError(f"address={address!r} must be HOST:PORT, without http://")
        try:
            import grpc
            from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc
        except ModuleNotFoundError as error:
            raise ImportError(
                f"GrpcClient needs tensorflow-serving-api ({error}): pip install 'keras_resnext[grpc]'"
            ) from error
        self._metadata_pairs = [(name.lower(), value) for name, value in self._headers.items()]
        self._rpc_error = grpc.RpcError
        if self.credentials is None:
            self._channel = grpc.insecure_channel(address, options=OPTIONS)
        else:
            self._channel = grpc.secure_channel(address, self.credentials, options=OPTIONS)
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def _send_predict(self, name: str, signature: Signature, values: Array, timeout: float) -> dict[str, Array]:
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        ((key, info),) = signature.inputs.items()
        if info.dtype != "string":
            values = values.astype(info.dtype, copy=False)
        tensor = tf.make_tensor_proto(values, shape=values.shape)
        request = predict_pb2.PredictRequest(model_spec=self._spec(name), inputs={key: tensor})
        answer = self._call(self._prediction.Predict, request, timeout)
        return {name: _to_array(name, tf.make_ndarray(tensor)) for name, tensor in sorted(answer.outputs.items())}

    def _send_classify(self, name: str, images: list[bytes], timeout: float) -> list[list[tuple[str, float]]]:
        import tensorflow as tf
        from tensorflow_serving.apis import classification_pb2

        request = classification_pb2.ClassificationRequest(model_spec=self._spec(name))
        for data in images:
            feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[data]))
            example = tf.train.Example(features=tf.train.Features(feature={"image/encoded": feature}))
            request.input.example_list.examples.append(example)
        answer = self._call(self._prediction.Classify, request, timeout)
        return [[(row.label, row.score) for row in found.classes] for found in answer.result.classifications]

    def _fetch_metadata(self, timeout: float) -> dict[str, Any]:
        from google.protobuf.json_format import MessageToDict
        from tensorflow_serving.apis import get_model_metadata_pb2 as messages

        request = messages.GetModelMetadataRequest(model_spec=self._spec(), metadata_field=["signature_def"])
        answer = self._call(self._prediction.GetModelMetadata, request, timeout)
        signatures = messages.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(signatures)
        return {
            "model_spec": {"name": answer.model_spec.name, "version": answer.model_spec.version.value},
            "metadata": {"signature_def": MessageToDict(signatures, preserving_proto_field_name=True)},
        }

    def _fetch_status(self, timeout: float) -> dict[str, Any]:
        from tensorflow_serving.apis import get_model_status_pb2 as messages

        request = messages.GetModelStatusRequest(model_spec=self._spec())
        answer = self._call(self._models.GetModelStatus, request, timeout)
        rows = [
            {
                "version": row.version,
                "state": messages.ModelVersionStatus.State.Name(row.state),
                "status": {"error_message": row.status.error_message},
            }
            for row in answer.model_version_status
        ]
        return {"model_version_status": rows}

    def _spec(self, signature_name: str = "") -> Any:
        from tensorflow_serving.apis import model_pb2

        spec = model_pb2.ModelSpec(name=self.model, signature_name=signature_name)
        if self.version is not None:
            spec.version.value = self.version
        elif self.label is not None:
            spec.version_label = self.label
        return spec

    def _call(self, method: Callable[..., Any], request: Any, timeout: float) -> Any:
        try:
            return method(request, timeout=timeout, metadata=self._metadata_pairs)
        except self._rpc_error as error:
            code = error.code().name
            if code == "DEADLINE_EXCEEDED":
                raise ServingTimeoutError(self.address, message=f"no answer within {timeout:.3g} s") from error
            raise ServingError(self.address, code, error.details() or "no message") from error


def _to_array(name: str, array: Array) -> Array:
    """Strings as REST gives them: text, unless the name says bytes."""
    if array.dtype != object or name.endswith("_bytes"):
        return array
    return np.array([text.decode("utf-8", "replace") for text in array.ravel()], np.str_).reshape(array.shape)
