"""Answers in JSON, as TF Serving writes them (util/json_tensor.cc)."""

import base64
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import orjson

from .status import invalid
from .tensors import PIECE, Array, size_of

SMALL = 1 << 20  # bytes of outputs that are written at once
BYTES_SUFFIX = "_bytes"  # names whose strings are bytes


def write_outputs(outputs: Mapping[str, Array], rows: bool) -> bytes:
    """The body of a predict response.

    Raises:
        RequestError: rows are asked for and the outputs have no rows in common.
    """
    if not rows:
        columns: Any = {name: _jsonable(name, outputs[name]) for name in sorted(outputs)}
        return dump_in_pieces({"outputs": columns if len(columns) > 1 else next(iter(columns.values()))}, outputs)
    batch = None
    for name in sorted(outputs):
        if outputs[name].ndim == 0:
            raise invalid(f"Tensor name: {name} has no shape information ")
        size = len(outputs[name])
        if batch not in (None, size):
            raise invalid(f"Tensor name: {name} has inconsistent batch size: {size} expecting: {batch}")
        batch = size
    values = {name: _jsonable(name, outputs[name]) for name in sorted(outputs)}
    if len(values) == 1:
        return dump_in_pieces({"predictions": next(iter(values.values()))}, outputs)
    predictions = [{name: value[row] for name, value in values.items()} for row in range(batch or 0)]
    return dump_in_pieces({"predictions": predictions}, outputs)


def write_classifications(classes: Array, scores: Array) -> bytes:
    """The body of a classify response: [[label, score], …] for each example."""
    pairs = zip(_jsonable("classes", classes), _jsonable("scores", scores), strict=True)
    return dump({"results": [list(zip(labels, numbers, strict=True)) for labels, numbers in pairs]})


def dump(value: Any) -> bytes:
    """JSON in which a float32 is the shortest decimal that reads as the same float32; NaN as TF Serving writes it."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def dump_in_pieces(value: Any, outputs: Mapping[str, Array]) -> bytes:
    """What `dump` gives, of outputs that may be large: between two pieces other threads may go on."""
    return dump(value) if size_of(outputs.values()) <= SMALL else b"".join(_pieces(value))


def _pieces(value: Any) -> Iterator[bytes]:
    if isinstance(value, dict):
        yield b"{"
        for number, (key, item) in enumerate(value.items()):
            yield b"," * (number > 0) + orjson.dumps(key) + b":"
            yield from _pieces(item)
        yield b"}"
    elif (isinstance(value, list) and value and isinstance(value[0], (list, dict))) or (
        isinstance(value, np.ndarray) and value.size > PIECE
    ):
        for number, item in enumerate(value):
            yield b"," if number else b"["
            yield from _pieces(item)
        yield b"]"
    else:
        yield dump(value)


def _jsonable(name: str, array: Array) -> Any:
    if array.dtype.kind in "OS":
        return _nested([_to_json(name, text) for text in array.ravel().tolist()], array.shape)
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise invalid(f"Failed to write JSON value for tensor type: {array.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():  # which orjson would write as null
        names = {True: "NaN", False: "Infinity"}
        values = [
            number if np.isfinite(number) else orjson.Fragment("-" * bool(number < 0) + names[bool(np.isnan(number))])
            for number in array.ravel()
        ]
        return _nested(values, array.shape)
    return array[()] if array.ndim == 0 else np.ascontiguousarray(array)


def _nested(values: list[Any], shape: tuple[int, ...]) -> Any:
    """A flat list as nested ones."""
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape).tolist()


def _to_json(name: str, value: bytes) -> Any:
    if name.endswith(BYTES_SUFFIX):
        return {"b64": base64.b64encode(value).decode("ascii")}
    return value.decode("utf-8", "replace")
