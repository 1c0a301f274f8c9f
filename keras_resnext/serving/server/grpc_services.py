"""TF Serving's gRPC interface: PredictionService and GetModelStatus, by the stubs of tensorflow-serving-api."""

import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np

from .admission import Gate
from .models import Version
from .running import aside
from .servable import Servable
from .serve_options import ServeOptions
from .service import Service
from .status import RequestError, invalid
from .tensors import Array, TensorSpec, check_rows

logger = logging.getLogger(__name__)


async def start_grpc(service: Service, options: ServeOptions) -> tuple[Any, int]:
    """(the running server, its port).

    Raises:
        OSError: the port is taken.
    """
    import grpc
    from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

    limits = [("grpc.max_receive_message_length", options.max_request), ("grpc.so_reuseport", 0)]
    server = grpc.aio.server(options=limits)
    prediction, models = _services(service, Gate(options))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(prediction, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(models, server)
    host = f"[{options.host}]" if ":" in options.host else options.host
    try:
        port = server.add_insecure_port(f"{host}:{options.grpc_port}")
    except RuntimeError as error:
        raise OSError(f"grpc_port={options.grpc_port!r} on {options.host}: {error}") from None
    await server.start()
    return server, int(port)


def _services(service: Service, gate: Gate) -> tuple[Any, Any]:
    import grpc
    import tensorflow as tf
    from google.protobuf.any_pb2 import Any as Packed
    from tensorflow_serving.apis import (
        classification_pb2,
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
    )

    async def answer(context: Any, request: Any, api: str, work: Callable[[Version, Servable], Awaitable[Any]]) -> Any:
        spec = request.model_spec

        async def run() -> Any:
            version = service.models.find(spec.name, *_chosen(spec))
            with service.models.using(version) as servable:
                return await work(version, servable)

        return await guarded(context, lambda: service.counted(spec.name, api, "GRPC", run))

    async def guarded(context: Any, work: Callable[[], Awaitable[Any]]) -> Any:
        try:
            gate.check({name: value for name, value in context.invocation_metadata() if isinstance(value, str)})
            return await work()
        except RequestError as error:
            code, message = error.code, error.message
        except Exception as error:
            logger.exception("a request failed")
            code, message = "INTERNAL", f"the server failed: {type(error).__name__}"
        # Behind the block: aborting raises, and the error would go along with all that its request held.
        return await context.abort(grpc.StatusCode[code], message)

    class Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
        async def Predict(self, request: Any, context: Any) -> Any:
            async def work(version: Version, servable: Servable) -> Any:
                name = request.model_spec.signature_name or "serving_default"
                signature = servable.signature(name)
                if set(request.inputs) != set(signature.inputs):
                    raise invalid(
                        f"input size does not match signature: got {sorted(request.inputs)}, expected "
                        f"{sorted(signature.inputs)}"
                    )
                size = request.ByteSize()
                arrays = await aside(size, _to_arrays, request.inputs, signature.inputs, service.options.max_request)
                outputs = await service.predict(version, signature, arrays, size)
                wanted = set(request.output_filter) or set(outputs)
                if unknown := sorted(wanted - set(outputs)):
                    raise invalid(f"output tensor alias not found in signature: {unknown[0]}")
                response = predict_pb2.PredictResponse(
                    outputs={k: tf.make_tensor_proto(v, shape=v.shape) for k, v in outputs.items() if k in wanted}
                )
                _fill(response.model_spec, version, name)
                return response

            return await answer(context, request, "Predict", work)

        async def Classify(self, request: Any, context: Any) -> Any:
            async def work(version: Version, servable: Servable) -> Any:
                name = request.model_spec.signature_name or "serving_default"
                size = request.ByteSize()
                examples = await aside(size, _examples, request.input, service.options.max_request)
                classes, scores = await service.classify(version, servable, name, examples, size)
                response = classification_pb2.ClassificationResponse()
                for labels, numbers in zip(classes.tolist(), scores.tolist(), strict=True):
                    row = response.result.classifications.add()
                    for label, score in zip(labels, numbers, strict=True):
                        row.classes.add(label=label.decode("utf-8", "replace"), score=score)
                _fill(response.model_spec, version, name)
                return response

            return await answer(context, request, "Classify", work)

        async def GetModelMetadata(self, request: Any, context: Any) -> Any:
            async def work(version: Version, servable: Servable) -> Any:
                if list(request.metadata_field) != ["signature_def"]:
                    raise invalid("metadata_field must be ['signature_def']")
                response = get_model_metadata_pb2.GetModelMetadataResponse()
                _fill(response.model_spec, version, "")
                signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=servable.definitions)
                packed = Packed()
                packed.Pack(signatures)
                response.metadata["signature_def"].CopyFrom(packed)
                return response

            return await answer(context, request, "GetModelMetadata", work)

    class ModelService(model_service_pb2_grpc.ModelServiceServicer):
        async def GetModelStatus(self, request: Any, context: Any) -> Any:
            async def work() -> Any:
                response = get_model_status_pb2.GetModelStatusResponse()
                for row in service.models.states(request.model_spec.name, _chosen(request.model_spec)[0]):
                    state = get_model_status_pb2.ModelVersionStatus.State.Value(row.state)
                    status = response.model_version_status.add(version=row.number, state=state)
                    status.status.error_code = 2 if row.error else 0
                    status.status.error_message = row.error
                return response

            return await guarded(context, work)

    return Prediction(), ModelService()


def _chosen(spec: Any) -> tuple[int | None, str | None]:
    """(version, label) of a ModelSpec."""
    choice = spec.WhichOneof("version_choice")
    return (
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
    )


def _fill(spec: Any, version: Version, signature_name: str) -> None:
    spec.name, spec.version.value, spec.signature_name = version.model, version.number, signature_name


def _to_arrays(inputs: Mapping[str, Any], specs: Mapping[str, TensorSpec], most: int) -> dict[str, Array]:
    """The tensors of a request by name, each of at most `most` bytes.

    Raises:
        RequestError: they do not fit `specs`, or hold other than they promise.
    """
    return {name: _to_array(proto, specs[name], most) for name, proto in inputs.items()}


def _to_array(proto: Any, spec: TensorSpec, most: int) -> Array:
    import tensorflow as tf

    try:
        dtype = tf.dtypes.as_dtype(proto.dtype)
    except TypeError as error:
        raise invalid(f"input {spec.name!r} is no tensor: {error}") from None
    strings = dtype == tf.string
    if np.dtype(object if strings else dtype.as_numpy_dtype) != spec.dtype:
        raise invalid(f"Expects arg[0] to be {spec.dtype_name} but {dtype.name} is provided, for input {spec.name!r}")
    # All of this before `make_ndarray`, which makes what the shape says: one value stands for any number of them.
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank or min(shape, default=0) < 0:
        raise invalid(f"input {spec.name!r} must have a shape")
    spec.check_shape(shape)
    check_rows(shape[0] if shape else 1)
    count = math.prod(shape)
    if count * spec.dtype.itemsize > most:
        raise invalid(f"input {spec.name!r} of shape {shape} is larger than {most} bytes")
    if strings and (proto.tensor_content or len(proto.string_val) != count):
        raise invalid(f"input {spec.name!r} of shape {shape} has {len(proto.string_val)} strings; expected {count}")
    try:
        array = np.asarray(tf.make_ndarray(proto))
    except (TypeError, ValueError) as error:
        raise invalid(f"input {spec.name!r} is no tensor: {error}") from None
    spec.check(array)
    return array


def _examples(given: Any, most: int) -> list[bytes]:
    """The serialized tf.Examples of an Input, of at most `most` bytes; what its context holds is in each of them.

    Raises:
        RequestError: they are too many or too large.
    """
    if given.WhichOneof("kind") != "example_list_with_context":
        check_rows(len(given.example_list.examples))
        return [example.SerializeToString() for example in given.example_list.examples]
    rows, context = given.example_list_with_context.examples, given.example_list_with_context.context
    check_rows(len(rows))
    if len(rows) * context.ByteSize() > most:
        raise invalid(f"examples of over {most} bytes, the context in each of them")
    found = []
    for example in rows:
        merged = type(example)()
        merged.CopyFrom(context)
        for name, feature in example.features.feature.items():
            merged.features.feature[name].CopyFrom(feature)
        found.append(merged.SerializeToString())
    return found
