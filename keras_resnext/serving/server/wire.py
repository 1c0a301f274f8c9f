"""Messages of gRPC, from bytes to arrays, without TensorFlow: its import would cost each reader 400 MB."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np

from .status import invalid
from .tensors import PIECE, Array, check_rows

MOST_NAMES = 1024  # inputs and outputs that a request may name
MOST_AXES = 32
# TensorFlow's numbers of types (tensorflow/core/framework/types.proto): numpy's name, and the field of its values.
STRING = 7
_KINDS = {
    1: ("float32", "float_val"), 2: ("float64", "double_val"), 3: ("int32", "int_val"), 4: ("uint8", "int_val"),
    5: ("int16", "int_val"), 6: ("int8", "int_val"), STRING: ("string", "string_val"), 8: ("complex64", "scomplex_val"),
    9: ("int64", "int64_val"), 10: ("bool", "bool_val"), 14: ("bfloat16", "half_val"), 17: ("uint16", "int_val"),
    18: ("complex128", "dcomplex_val"), 19: ("float16", "half_val"), 22: ("uint32", "uint32_val"),
    23: ("uint64", "uint64_val"),
}  # fmt: skip

Schema = tuple[tuple[bytes, ...], str]


@dataclass(frozen=True)
class Asked:
    """The model that a message asks, and what it gives it: tensors by name, or serialized tf.Examples."""

    model: str
    version: int | None
    label: str | None
    signature: str
    inputs: Mapping[str, Array] = field(default_factory=dict)
    examples: list[bytes] = field(default_factory=list)
    outputs: tuple[str, ...] = ()


def schema_of(message: Any) -> Schema:
    """A generated message class as what another process makes it from: its files, and its name."""
    files: dict[str, bytes] = {}

    def add(file: Any) -> None:
        for needed in file.dependencies:
            add(needed)
        files[file.name] = file.serialized_pb

    add(message.DESCRIPTOR.file)
    return tuple(files.values()), message.DESCRIPTOR.full_name


@lru_cache(8)
def message_class(schema: Schema) -> Any:
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message_factory import GetMessageClass

    pool = DescriptorPool()
    for file in schema[0]:
        pool.AddSerializedFile(file)
    return GetMessageClass(pool.FindMessageTypeByName(schema[1]))


def read_predict(data: bytes, schema: Schema, most: int) -> Asked:
    """A PredictRequest whose tensors hold what they promise, of at most `most` bytes each.

    Raises:
        RequestError: they do not.
    """
    message = _parse(data, schema)
    for names in (message.inputs, message.output_filter):
        if len(names) > MOST_NAMES:
            raise invalid(f"a request that names {len(names)} tensors; expected at most {MOST_NAMES}")
    inputs = {name: _to_array(name, proto, most) for name, proto in message.inputs.items()}
    return replace(read_spec(message.model_spec), inputs=inputs, outputs=tuple(message.output_filter))


def read_classify(data: bytes, schema: Schema, most: int) -> Asked:
    """A ClassificationRequest of at most `most` bytes of tf.Examples; what its context holds is in each of them.

    Raises:
        RequestError: they are too many or too large.
    """
    message = _parse(data, schema)
    given = message.input
    if given.WhichOneof("kind") != "example_list_with_context":
        check_rows(len(given.example_list.examples))
        examples = [example.SerializeToString() for example in given.example_list.examples]
    else:
        together = given.example_list_with_context
        check_rows(len(together.examples))
        examples = with_context(together.context, list(together.examples), most)
    return replace(read_spec(message.model_spec), examples=examples)


def with_context(context: Any, examples: list[Any], most: int) -> list[bytes]:
    """Serialized tf.Examples, each with the features of `context` that it lacks.

    Raises:
        RequestError: they would be larger than `most` bytes.
    """
    if len(examples) * context.ByteSize() + sum(example.ByteSize() for example in examples) > most:
        raise invalid(f"examples of over {most} bytes, the context in each of them")
    found = []
    for example in examples:
        merged = type(context)()
        merged.CopyFrom(context)
        for name, feature in example.features.feature.items():
            merged.features.feature[name].CopyFrom(feature)
        found.append(merged.SerializeToString())
    return found


def _parse(data: bytes, schema: Schema) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return message_class(schema).FromString(data)
    except DecodeError as error:
        raise invalid(f"the message is no {schema[1].rpartition('.')[2]}: {error!s:.200}") from None


def read_spec(spec: Any) -> Asked:
    """What a ModelSpec names."""
    choice = spec.WhichOneof("version_choice")
    return Asked(
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
        spec.signature_name or "serving_default",
    )


def _to_array(name: str, proto: Any, most: int) -> Array:
    if proto.dtype not in _KINDS:
        raise invalid(f"input {name!r:.100} is no tensor: its type is {proto.dtype}")
    kind, kept_in = _KINDS[proto.dtype]
    dims = proto.tensor_shape.dim
    if proto.tensor_shape.unknown_rank or len(dims) > MOST_AXES or any(dim.size < 0 for dim in dims):
        raise invalid(f"input {name!r:.100} must have a shape, of at most {MOST_AXES} axes")
    # All of this before there is an array: one value stands for any number of them.
    shape = [dim.size for dim in dims]
    check_rows(shape[0] if shape else 1)
    count, values = math.prod(shape), getattr(proto, kept_in)
    dtype = np.dtype(object) if kind == "string" else _dtype(kind)
    if count * dtype.itemsize > most:
        raise invalid(f"input {name!r:.100} of shape {shape} is larger than {most} bytes")
    if kind == "string":
        if proto.tensor_content or len(values) != count:
            raise invalid(f"input {name!r:.100} of shape {shape} has {len(values)} strings; expected {count}")
        array = np.empty(count, object)
        array[:] = list(values)
        return array.reshape(shape)
    if proto.tensor_content:
        found = len(proto.tensor_content) / dtype.itemsize
        array = np.frombuffer(proto.tensor_content, dtype) if found == count else np.empty(0, dtype)
    else:
        pairs = 2 if dtype.kind == "c" else 1
        found = len(values) / pairs
        if 0 < found <= count and (found == int(found)):
            array = _values(values, dtype)
            array = np.concatenate([array, np.full(count - len(array), array[-1], dtype)])  # as TensorFlow fills it
        else:
            array = np.zeros(0 if found else count, dtype)
    if len(array) != count:
        raise invalid(f"input {name!r:.100} is no tensor: it has {found:g} values; expected {count}, of shape {shape}")
    return array.reshape(shape)


def _dtype(kind: str) -> np.dtype[Any]:
    if kind == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(kind)


def _values(values: Any, dtype: np.dtype[Any]) -> Array:
    """The numbers of a repeated field, in pieces, so that other threads may go on."""
    stored = dtype
    if dtype.kind == "c":
        stored = np.dtype(f"f{dtype.itemsize // 2}")
    elif dtype.name in ("float16", "bfloat16"):
        stored = np.dtype(np.uint16)
    array, rest = np.empty(len(values), stored), iter(values)
    try:
        for start in range(0, len(values), PIECE):
            piece = list(islice(rest, PIECE))
            array[start : start + len(piece)] = piece
    except OverflowError as error:
        raise invalid(f"a value does not fit its type: {error!s:.200}") from None
    return array.view(dtype)
