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
from .wire import Schema, message_class, with_context

MOST_OBJECTS = 8 * MOST_ROWS  # in the document of a request


EXPLAIN_FIELDS = ("image_bytes", "layer", "class", "method")


def read_predict_body(
    body: bytes, content_type: str, specs: Mapping[str, Mapping[str, TensorSpec]]
) -> tuple[str, dict[str, Array], bool]:
    """(signature's name, its inputs, whether they came as rows) of a predict request.

    Args:
        body, content_type: the request's.
        specs: inputs by signature; another signature gets none.

    Raises:
        RequestError: it does not fit `specs`.
    """
    document = parse_json(body, content_type)
    name = read_signature_name(document)
    return (name, *read_inputs(document, specs[name])) if name in specs else (name, {}, False)


def read_classify_body(body: bytes, content_type: str, example: Schema, most: int) -> tuple[str, list[bytes]]:
    """(signature's name, serialized tf.Examples of at most `most` bytes in all) of a classify request.

    Raises:
        RequestError: there are none, they are too many or too large, or one is malformed.
    """
    document = parse_json(body, content_type)
    return read_signature_name(document), read_examples(document, example, most)


def read_regress_body(body: bytes, content_type: str) -> str:
    """The signature's name in a request that gets no other answer than what this signature is for."""
    return read_signature_name(parse_json(body, content_type))


def read_explain_body(body: bytes, content_type: str) -> dict[str, Any]:
    """The fields of an explain request, the image as bytes.

    Raises:
        RequestError: the image is missing, or there is an unknown field.
    """
    document = parse_json(body, content_type)
    if unknown := sorted(document.keys() - set(EXPLAIN_FIELDS)):
        raise invalid(f"{unknown[0]!r:.100} is no field of :explain; expected {', '.join(EXPLAIN_FIELDS)}")
    for name in ("layer", "method"):
        if not isinstance(document.get(name, ""), str):
            raise invalid(f"{name!r} must be a text")
    given, index = document.get("image_bytes"), document.get("class")
    if not (index is None or type(index) is int):
        raise invalid(f"class={shown(index)} must be an integer")
    text = given.get("b64") if isinstance(given, dict) else None
    if not isinstance(text, str):
        raise invalid('expected {"image_bytes": {"b64": "…"}}, the image\'s bytes in base64')
    data = decode_base64(text)
    if data is None:
        raise invalid("Unable to base64 decode")
    return {**document, "image_bytes": data}


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


def read_examples(document: Mapping[str, Any], example: Schema, most: int) -> list[bytes]:
    """The serialized tf.Examples of a classify request; what `context` holds is in each of them.

    Args:
        document: the request.
        example: of tf.Example.
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
    context = _to_example(document.get("context", {}), example)
    return with_context(context, [_to_example(given, example) for given in examples], most)


def _to_example(features: Any, schema: Schema) -> Any:
    if not isinstance(features, dict):
        raise invalid(f"Example must be JSON object but got JSON {json_type(features)}")
    example = message_class(schema)()
    for name, content in features.items():
        feature = example.features.feature[name]
        for value in content if isinstance(content, list) else [content]:
            _add_value(feature, name, value)
    return example


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
