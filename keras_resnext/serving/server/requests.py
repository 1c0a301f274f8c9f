"""The documents that requests hold, by TF Serving's rules and in its words (util/json_tensor.cc)."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from .status import invalid
from .tensors import (
    MOST_ROWS,
    SHOWN,
    Array,
    TensorSpec,
    check_rows,
    decode_base64,
    is_base64,
    json_type,
    shown,
    to_array,
)

MOST_OBJECTS = 8 * MOST_ROWS  # in the document of a request


def parse_json(body: bytes, content_type: str = "") -> dict[str, Any]:
    """The object that a request's body holds.

    Raises:
        RequestError: it holds none.
    """
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    if body.count(b"{") > MOST_OBJECTS:  # parsed, they would take 25 times the memory
        raise invalid(f"a request of over {MOST_OBJECTS} objects; expected at most {MOST_ROWS} rows")
    document: Any
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = _parse_slowly(body, content_type)  # which knows NaN, and where the error is
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {shown(document)} Is not object")
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
    hint = f'; the body is {kind[:SHOWN]}, expected application/json, with images as {{"b64": …}}' if other else ""
    raise invalid(f"JSON Parse error: {text} at offset: {at}{hint}")


def read_signature_name(document: Mapping[str, Any]) -> str:
    """The signature asked for; empty or missing stands for the default one."""
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {shown(document)} not formatted correctly. 'signature_name' key must be a string value."
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
        raise invalid(f"JSON Value: {shown(document)} {text}")
    if not rows and "inputs" not in document:
        raise invalid("Missing 'inputs' or 'instances' key")
    for given in (document.get("instances"), *_columns(document.get("inputs"))):
        check_rows(len(given) if isinstance(given, list) else 1)
    values = _read_rows(document["instances"], specs) if rows else _read_columns(document["inputs"], specs)
    arrays = {}
    for name, value in values.items():
        arrays[name] = to_array(value, specs[name], rows)
        specs[name].check(arrays[name])
    return arrays, rows


def _columns(inputs: Any) -> Iterable[Any]:
    return inputs.values() if isinstance(inputs, dict) else (inputs,)


def _read_columns(inputs: Any, specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    if not isinstance(inputs, dict) or is_base64(inputs):
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
        raise invalid(f"JSON Value: {shown(instances)} Excepting 'instances' to be an list/array")
    if not instances:
        raise invalid("JSON Value: [] No values in 'instances' array")

    def is_object(value: Any) -> bool:
        return isinstance(value, dict) and not is_base64(value)

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
                f"Failed to process element: {number} of 'instances' list. JSON object: {shown(row)} keys must be "
                f"equal to: {','.join(sorted(specs))}"
            )
    return {name: [row[name] for row in instances] for name in specs}


def read_examples(document: Mapping[str, Any], most: int) -> list[bytes]:
    """The serialized tf.Examples of a classify request; what `context` holds is in each of them.

    Args:
        document: the request.
        most: bytes that all of them may take.

    Raises:
        RequestError: there are none, they are too many or too large, or one is malformed.
    """
    examples = document.get("examples")
    if "examples" not in document:
        raise invalid(
            f"JSON Value: {shown(document)} When method is classify, key 'examples' is expected and was not found"
        )
    if not isinstance(examples, list):
        raise invalid(f"JSON Value: {shown(document)} Expecting 'examples' value to be an list/array")
    if not examples:
        raise invalid(f"JSON Value: {shown(document)} 'examples' value is an empty array")
    check_rows(len(examples))
    context, found, left = document.get("context", {}), list[bytes](), most
    for example in examples:
        found.append(_to_example(context, example))
        left -= len(found[-1])
        if left < 0:
            raise invalid(f"examples of over {most} bytes, the context in each of them")
    return found


def _to_example(context: Any, features: Any) -> bytes:
    import tensorflow as tf

    example = tf.train.Example()
    for given in (context, features):
        if not isinstance(given, dict):
            raise invalid(f"Example must be JSON object but got JSON {json_type(given)}")
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
    elif is_base64(value):
        data = decode_base64(value["b64"])
        if data is None:
            raise invalid("Unable to base64 decode")
        kind, field = "bytes_list", data
    else:
        raise invalid(f"Feature: {name} has element with unexpected JSON type: {json_type(value)}")
    if feature.WhichOneof("kind") not in (None, kind):
        was = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}[feature.WhichOneof("kind")]
        raise invalid(f"Unexpected element type in feature: {name} expecting type: {was}")
    try:
        getattr(feature, kind).value.append(field)
    except (ValueError, OverflowError):
        raise invalid(f"Feature: {name} has a number out of range. Only int64 is supported.") from None
