"""JSON to tensors and back, by TF Serving's rules and in its words (util/json_tensor.cc).

Stricter in one point: numbers that are not finite are refused, where TF Serving lets a network answer NaN for NaN.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import orjson

from .status import RequestError, invalid

Array = np.ndarray[Any, Any]

SHOWN = 100  # letters of a value that a message repeats
BYTES_SUFFIX = "_bytes"  # names whose strings are bytes
# Python's types for numpy's kinds; all others are integers'.
_TYPES: dict[str, set[type]] = {"f": {int, float}, "b": {bool}, "i": {int}}
NUMPY = orjson.OPT_SERIALIZE_NUMPY


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a signature: numpy's type, object for strings; shape with None for free, or None."""

    name: str
    tensor: str
    dtype: np.dtype[Any]
    dtype_name: str
    shape: tuple[int | None, ...] | None

    @property
    def expected(self) -> str:
        """Type and shape as messages give them."""
        shape = "of any shape" if self.shape is None else str([-1 if n is None else n for n in self.shape])
        return f"{self.dtype_name} {shape}"

    def check(self, array: Array) -> None:
        """Raises RequestError unless `array` has this shape and finite numbers."""
        fits = self.shape is None or (
            len(self.shape) == array.ndim
            and all(wanted in (None, size) for wanted, size in zip(self.shape, array.shape, strict=True))
        )
        if not fits:
            raise invalid(f"input {self.name!r} has shape {list(array.shape)}; expected {self.expected}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise invalid(f"input {self.name!r} holds NaN or infinity; expected finite numbers")


def parse_json(body: bytes, content_type: str = "") -> dict[str, Any]:
    """The object that a request's body holds.

    Raises:
        RequestError: it holds none.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    document: Any
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = _parse_slowly(body, content_type)  # which knows NaN, and where the error is
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {_shown(document)} Is not object")
    return document


def _parse_slowly(body: bytes, content_type: str) -> Any:
    try:
        return json.loads(body.decode("utf-8"))
    except json.JSONDecodeError as error:
        at, text = error.pos, error.msg
    except UnicodeDecodeError as error:
        at, text = error.start, "Invalid UTF-8"
    except RecursionError:
        at, text = 0, "Nested too deeply"
    except ValueError as error:  # an integer of thousands of digits
        at, text = 0, str(error).partition(";")[0]
    kind = content_type.partition(";")[0].strip().lower()
    # curl's -d calls everything a form.
    other = kind not in ("", "application/json", "text/json", "text/plain", "application/x-www-form-urlencoded")
    hint = f'; the body is {kind[:SHOWN]}, expected application/json, with pictures as {{"b64": …}}' if other else ""
    raise invalid(f"JSON Parse error: {text} at offset: {at}{hint}")


def read_signature_name(document: Mapping[str, Any]) -> str:
    """The signature asked for; empty or missing stands for the default one."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {_shown(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return name or "serving_default"


def read_inputs(document: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> tuple[dict[str, Array], bool]:
    """(input tensors by name, whether they came as rows) of a predict request.

    Raises:
        RequestError: they do not fit `specs`.
    """
    rows = "instances" in document
    if rows and "inputs" in document:
        text = "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist"
        raise invalid(f"JSON Value: {_shown(document)} {text}")
    if not rows and "inputs" not in document:
        raise invalid("Missing 'inputs' or 'instances' key")
    values = _read_rows(document["instances"], specs) if rows else _read_columns(document["inputs"], specs)
    arrays = {}
    for name, value in values.items():
        arrays[name] = to_array(value, specs[name], rows)
        specs[name].check(arrays[name])
    return arrays, rows


def _read_columns(inputs: Any, specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    if not isinstance(inputs, dict) or _is_base64(inputs):
        if len(specs) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                f"tensorinfo_map: {', '.join(sorted(specs))}"
            )
        return dict.fromkeys(specs, inputs)
    for name in specs:
        if name not in inputs:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
    return {name: inputs[name] for name in specs}


def _read_rows(instances: Any, specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    if not isinstance(instances, list):
        raise invalid(f"JSON Value: {_shown(instances)} Excepting 'instances' to be an list/array")
    if not instances:
        raise invalid("JSON Value: [] No values in 'instances' array")

    def is_object(value: Any) -> bool:
        return isinstance(value, dict) and not _is_base64(value)

    objects = is_object(instances[0])
    if not objects:
        if len(specs) > 1:
            raise invalid(
                "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
                f"tensorinfo_map: {', '.join(sorted(specs))}"
            )
        for number, row in enumerate(instances):
            if is_object(row):
                raise invalid(f"Expecting value/list but got object at item {number} of input list")
        return dict.fromkeys(specs, instances)
    for number, row in enumerate(instances):
        if not is_object(row):
            raise invalid(f"Expecting object but got list at item {number} of input list")
        if row.keys() != specs.keys():
            raise invalid(
                f"Failed to process element: {number} of 'instances' list. JSON object: {_shown(row)} keys must be "
                f"equal to: {','.join(sorted(specs))}"
            )
    return {name: [row[name] for row in instances] for name in specs}


def to_array(value: Any, spec: TensorSpec, rows: bool = False) -> Array:
    """Nested lists of one length a level to an array; the shape is still to be checked.

    Raises:
        RequestError: ragged lists, or values of another type than the tensor's.
    """
    shape: list[int] = []
    level = [value]
    while level and type(level[0]) is list:
        size = len(level[0])
        for number, item in enumerate(level):
            if type(item) is not list:
                text = f"JSON Value: {_shown(item)} found at incorrect level: {len(shape)} in the JSON DOM"
                raise _at(number, shape, rows, f"{text}. Expected a list of {size}, for {spec.expected}")
            if len(item) != size:
                text = f"Encountered list at unexpected size: {len(item)} at level: {len(shape)}"
                raise _at(number, shape, rows, f"{text} expected size: {size}")
        shape.append(size)
        level = list(chain.from_iterable(level))
    # Exact types, not numpy's idea of them: it reads true as 1, null as NaN and "1.5" as 1.5.
    if spec.dtype.kind == "O":
        leaves = np.empty(len(level), object)
        leaves[:] = [_to_bytes(item, number, shape, rows, spec) for number, item in enumerate(level)]
        return leaves.reshape(shape)
    allowed = _TYPES.get(spec.dtype.kind, _TYPES["i"])
    if not set(map(type, level)) <= allowed:
        number, wrong = next((n, item) for n, item in enumerate(level) if type(item) not in allowed)
        if type(wrong) is list:
            text = f"Encountered list at unexpected level: {len(shape)} expected < {len(shape)}"
            raise _at(number, shape, rows, text)
        text = f"JSON Value: {_shown(wrong)} Type: {_json_type(wrong)} is not of expected type: {spec.dtype_name}"
        raise _at(number, shape, rows, text)
    if spec.dtype.kind in "iu" and level:
        limits = np.iinfo(spec.dtype)
        for extreme in (min(level), max(level)):
            if not limits.min <= extreme <= limits.max:
                text = f"JSON Value: {_shown(extreme)} Type: Number is not of expected type: {spec.dtype_name}"
                raise _at(level.index(extreme), shape, rows, text)
    try:
        with np.errstate(over="ignore"):
            return np.array(level, spec.dtype).reshape(shape)
    except (OverflowError, ValueError) as error:  # an integer too large for any float; more than 64 levels
        raise invalid(f"input {spec.name!r}: {error}; expected {spec.expected}") from None


def _at(number: int, shape: list[int], rows: bool, text: str) -> RequestError:
    """An error at value `number` of a level, which says the row where there are rows."""
    if not rows or not shape:
        return invalid(text)
    row = number // max(int(np.prod(shape[1:])), 1)
    return invalid(f"Failed to process element: {row} of 'instances' list. Error: INVALID_ARGUMENT: {text}")


def _to_bytes(value: Any, number: int, shape: list[int], rows: bool, spec: TensorSpec) -> bytes:
    if _is_base64(value):
        data = decode_base64(value["b64"])
        if data is None:
            raise _at(number, shape, rows, "Unable to base64 decode")
        return data
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, dict):
        raise _at(number, shape, rows, f"JSON Value: {_shown(value)} not formatted correctly for base64 data")
    text = f"JSON Value: {_shown(value)} Type: {_json_type(value)} is not of expected type: {spec.dtype_name}"
    raise _at(number, shape, rows, text)


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def decode_base64(text: str) -> bytes | None:
    """The bytes, with or without the padding at the end as TF Serving reads them; None for what is no base64."""
    try:
        return binascii.a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)
    except (binascii.Error, ValueError):
        return None


def read_examples(document: Mapping[str, Any]) -> list[bytes]:
    """The serialized tf.Examples of a classify request; what `context` holds is in each of them.

    Raises:
        RequestError: there are none, or one is malformed.
    """
    examples = document.get("examples")
    if "examples" not in document:
        raise invalid(
            f"JSON Value: {_shown(document)} When method is classify, key 'examples' is expected and was not found"
        )
    if not isinstance(examples, list):
        raise invalid(f"JSON Value: {_shown(document)} Expecting 'examples' value to be an list/array")
    if not examples:
        raise invalid(f"JSON Value: {_shown(document)} 'examples' value is an empty array")
    context = document.get("context", {})
    return [_to_example(context, example) for example in examples]


def _to_example(context: Any, features: Any) -> bytes:
    import tensorflow as tf

    example = tf.train.Example()
    for given in (context, features):
        if not isinstance(given, dict):
            raise invalid(f"Example must be JSON object but got JSON {_json_type(given)}")
        for name, content in given.items():
            feature = tf.train.Feature()
            for value in content if isinstance(content, list) else [content]:
                _add_value(feature, name, value)
            example.features.feature[name].CopyFrom(feature)
    return bytes(example.SerializeToString())


def _add_value(feature: Any, name: str, value: Any) -> None:
    kind: str
    field: float | bytes
    if isinstance(value, float):
        kind, field = "float_list", value
    elif isinstance(value, int):  # true and false too
        kind, field = "int64_list", int(value)
    elif isinstance(value, str):
        kind, field = "bytes_list", value.encode("utf-8", "surrogatepass")
    elif _is_base64(value):
        data = decode_base64(value["b64"])
        if data is None:
            raise invalid("Unable to base64 decode")
        kind, field = "bytes_list", data
    else:
        raise invalid(f"Feature: {name} has element with unexpected JSON type: {_json_type(value)}")
    if feature.WhichOneof("kind") not in (None, kind):
        was = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}[feature.WhichOneof("kind")]
        raise invalid(f"Unexpected element type in feature: {name} expecting type: {was}")
    try:
        getattr(feature, kind).value.append(field)
    except (ValueError, OverflowError):
        raise invalid(f"Feature: {name} has a number out of range. Only int64 is supported.") from None


def write_outputs(outputs: Mapping[str, Array], rows: bool) -> bytes:
    """The body of a predict response.

    Raises:
        RequestError: rows are asked for and the outputs have no rows in common.
    """
    if not rows:
        columns: Any = {name: _jsonable(name, outputs[name]) for name in sorted(outputs)}
        return dump({"outputs": columns if len(columns) > 1 else next(iter(columns.values()))})
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
        return dump({"predictions": next(iter(values.values()))})
    predictions = [{name: value[row] for name, value in values.items()} for row in range(batch or 0)]
    return dump({"predictions": predictions})


def write_classifications(classes: Array, scores: Array) -> bytes:
    """The body of a classify response: [[label, score], …] for each example."""
    pairs = zip(_jsonable("classes", classes), _jsonable("scores", scores), strict=True)
    return dump({"results": [list(zip(labels, numbers, strict=True)) for labels, numbers in pairs]})


def dump(value: Any) -> bytes:
    """JSON in which a float32 is the shortest decimal that reads as the same float32; NaN as TF Serving writes it."""
    return orjson.dumps(value, option=NUMPY)


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


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (RecursionError, ValueError):
        text = "…"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _json_type(value: Any) -> str:
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return str(value)
    names: dict[type, str] = {dict: "Object", list: "Array", str: "String"}
    return names.get(type(value), "Number")
