"""TF Serving's gRPC interface, PredictionService and GetModelStatus, with the messages of tensorflow-serving-api.

Messages arrive as bytes: the stubs of that package would parse them in the event loop, where 32 MB can take seconds.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from .admission import Gate
from .apart import APART, EXAMPLES_APART
from .models import Version
from .running import aside
from .servable import Servable
from .serve_options import ServeOptions
from .service import Service
from .status import RequestError, invalid
from .tensors import Array, TensorSpec, size_of
from .wire import Asked, Schema, read_classify, read_predict, read_spec, schema_of

logger = logging.getLogger(__name__)

Handler = Callable[[bytes, Any], Awaitable[bytes]]
PREDICTION, MODELS = "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"
LONGEST = 1000  # letters of an error: gRPC sends it in a header
MOST_STATUS = 1 << 16  # bytes of a request that only asks what there is


async def start_grpc(service: Service, options: ServeOptions) -> tuple[Any, int]:
    """(the running server, its port).

    Raises:
        OSError: the port is taken.
    """
    import grpc

    limits = [("grpc.max_receive_message_length", options.max_request), ("grpc.so_reuseport", 0)]
    server = grpc.aio.server(options=limits)
    for name, handlers in _services(service, Gate(options)).items():
        methods = {method: grpc.unary_unary_rpc_method_handler(work) for method, work in handlers.items()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, methods),))
    host = f"[{options.host}]" if ":" in options.host else options.host
    try:
        port = server.add_insecure_port(f"{host}:{options.grpc_port}")
    except RuntimeError as error:
        raise OSError(f"grpc_port={options.grpc_port!r} on {options.host}: {error}") from None
    await server.start()
    return server, int(port)


def _services(service: Service, gate: Gate) -> dict[str, dict[str, Handler]]:
    """What answers each method of each service: bytes to bytes."""
    import grpc
    from google.protobuf.any_pb2 import Any as Packed
    from google.protobuf.message import DecodeError
    from tensorflow_serving.apis import (
        classification_pb2,
        get_model_metadata_pb2,
        get_model_status_pb2,
        predict_pb2,
    )

    predicts, classifies = (
        schema_of(message) for message in (predict_pb2.PredictRequest, classification_pb2.ClassificationRequest)
    )
    most = service.options.max_request

    async def read(api: str, function: Callable[[bytes, Schema, int], Asked], data: bytes, schema: Schema) -> Asked:
        started, apart = time.perf_counter(), APART if api == "Predict" else EXAMPLES_APART
        try:
            return await service.in_time(service.read(function, data, schema, most, most=apart))
        except RequestError as error:
            service.metrics.request("", api, "GRPC", error.code, time.perf_counter() - started)
            raise

    async def answer(asked: Asked, api: str, work: Callable[[Version, Servable], Awaitable[bytes]]) -> bytes:
        async def run() -> bytes:
            version = service.models.find(asked.model, asked.version, asked.label)
            with service.models.using(version) as servable:
                return await work(version, servable)

        return await service.counted(asked.model, api, "GRPC", run)

    def parse(message: Any, data: bytes) -> Any:
        try:
            if len(data) <= MOST_STATUS:
                return message.FromString(data)
        except DecodeError as error:
            raise invalid(f"the message is no {message.DESCRIPTOR.name}: {error!s:.200}") from None
        raise invalid(f"a {message.DESCRIPTOR.name} of {len(data)} bytes; expected at most {MOST_STATUS}")

    def guarded(work: Callable[[bytes], Awaitable[bytes]]) -> Handler:
        async def handler(data: bytes, context: Any) -> bytes:
            try:
                gate.check({name: value for name, value in context.invocation_metadata() if isinstance(value, str)})
                return await work(data)
            except RequestError as error:
                code, message = error.code, error.message
            except Exception as error:
                logger.exception("a request failed")
                code, message = "INTERNAL", f"the server failed: {type(error).__name__}"
            finally:
                service.give_back_memory(len(data))
            # Behind the block and without the data: aborting raises, and the error would keep them.
            data = b""
            return bytes(await context.abort(grpc.StatusCode[code], message[:LONGEST]))

        return handler

    async def predict(data: bytes) -> bytes:
        asked = await read("Predict", read_predict, data, predicts)

        async def work(version: Version, servable: Servable) -> bytes:
            signature = servable.signature(asked.signature)
            if set(asked.inputs) != set(signature.inputs):
                raise invalid(
                    f"input size does not match signature: got {sorted(asked.inputs)}, expected "
                    f"{sorted(signature.inputs)}"
                )
            await aside(size_of(asked.inputs.values()), _check, asked.inputs, signature.inputs)
            outputs = await service.predict(version, signature, dict(asked.inputs))
            wanted = set(asked.outputs) or set(outputs)
            if unknown := sorted(wanted - set(outputs)):
                raise invalid(f"output tensor alias not found in signature: {unknown[0]}")
            kept = {name: array for name, array in outputs.items() if name in wanted}
            return await aside(size_of(kept.values()), _write_outputs, kept, version, asked.signature)

        return await answer(asked, "Predict", work)

    async def classify(data: bytes) -> bytes:
        asked = await read("Classify", read_classify, data, classifies)

        async def work(version: Version, servable: Servable) -> bytes:
            classes, scores = await service.classify(version, servable, asked.signature, asked.examples)
            return await aside(size_of((classes, scores)), _write_classes, classes, scores, version, asked.signature)

        return await answer(asked, "Classify", work)

    async def get_metadata(data: bytes) -> bytes:
        request = parse(get_model_metadata_pb2.GetModelMetadataRequest, data)

        async def work(version: Version, servable: Servable) -> bytes:
            if list(request.metadata_field) != ["signature_def"]:
                raise invalid("metadata_field must be ['signature_def']")
            response = get_model_metadata_pb2.GetModelMetadataResponse()
            _fill(response.model_spec, version, "")
            signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=servable.definitions)
            packed = Packed()
            packed.Pack(signatures)
            response.metadata["signature_def"].CopyFrom(packed)
            return bytes(response.SerializeToString())

        return await answer(read_spec(request.model_spec), "GetModelMetadata", work)

    async def get_status(data: bytes) -> bytes:
        request = parse(get_model_status_pb2.GetModelStatusRequest, data)
        response = get_model_status_pb2.GetModelStatusResponse()
        for row in service.models.states(request.model_spec.name, read_spec(request.model_spec).version):
            state = get_model_status_pb2.ModelVersionStatus.State.Value(row.state)
            status = response.model_version_status.add(version=row.number, state=state)
            status.status.error_code = 2 if row.error else 0
            status.status.error_message = row.error
        return bytes(response.SerializeToString())

    return {
        PREDICTION: {
            "Predict": guarded(predict),
            "Classify": guarded(classify),
            "GetModelMetadata": guarded(get_metadata),
        },
        MODELS: {"GetModelStatus": guarded(get_status)},
    }


def _fill(spec: Any, version: Version, signature_name: str) -> None:
    spec.name, spec.version.value, spec.signature_name = version.model, version.number, signature_name


def _check(arrays: Mapping[str, Array], specs: Mapping[str, TensorSpec]) -> None:
    """Raises RequestError unless the tensors of a request fit `specs`."""
    for name, array in arrays.items():
        spec = specs[name]
        if array.dtype != spec.dtype:
            given = "string" if array.dtype.kind == "O" else array.dtype.name
            raise invalid(f"Expects arg[0] to be {spec.dtype_name} but {given} is provided, for input {name!r}")
        spec.check(array)


def _write_outputs(outputs: Mapping[str, Array], version: Version, signature_name: str) -> bytes:
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    response = predict_pb2.PredictResponse(
        outputs={name: tf.make_tensor_proto(array, shape=array.shape) for name, array in outputs.items()}
    )
    _fill(response.model_spec, version, signature_name)
    return bytes(response.SerializeToString())


def _write_classes(classes: Array, scores: Array, version: Version, signature_name: str) -> bytes:
    from tensorflow_serving.apis import classification_pb2

    response = classification_pb2.ClassificationResponse()
    for labels, numbers in zip(classes.tolist(), scores.tolist(), strict=True):
        row = response.result.classifications.add()
        for label, score in zip(labels, numbers, strict=True):
            row.classes.add(label=label.decode("utf-8", "replace"), score=score)
    _fill(response.model_spec, version, signature_name)
    return bytes(response.SerializeToString())
