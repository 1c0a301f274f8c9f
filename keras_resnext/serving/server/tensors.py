"""Nested lists of JSON to tensors, by TF Serving's rules and in its words (util/json_tensor.cc).

Stricter in one point: numbers that are not finite are refused, where TF Serving lets a network answer NaN for NaN.
"""

import binascii
import json
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from .status import RequestError, invalid

Array = np.ndarray[Any, Any]

SHOWN = 100  # letters of a value that a message repeats
MOST_ROWS = 1 << 14  # of a request
PIECE = 1 << 17  # numbers after which other threads, the event loop's among them, may go on
# Python's types for numpy's kinds; all others are integers'.
_TYPES: dict[str, set[type]] = {"f": {int, float}, "b": {bool}, "i": {int}}


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

    def check_shape(self, shape: Sequence[int]) -> None:
        """Raises RequestError unless a tensor may have this shape."""
        fits = self.shape is None or (
            len(self.shape) == len(shape)
            and all(wanted in (None, size) for wanted, size in zip(self.shape, shape, strict=True))
        )
        if not fits:
            raise invalid(f"input {self.name!r} has shape {list(shape)}; expected {self.expected}")

    def check(self, array: Array) -> None:
        """Raises RequestError unless `array` has this shape and finite numbers."""
        self.check_shape(array.shape)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise invalid(f"input {self.name!r} holds NaN or infinity; expected finite numbers")


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
                text = f"JSON Value: {shown(item)} found at incorrect level: {len(shape)} in the JSON DOM"
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
    if len(level) > PIECE:
        spec.check_shape(shape)
    pieces = [slice(start, start + PIECE) for start in range(0, len(level), PIECE)]
    if not all(set(map(type, level[piece])) <= allowed for piece in pieces):
        number, wrong = next((n, item) for n, item in enumerate(level) if type(item) not in allowed)
        if type(wrong) is list:
            text = f"Encountered list at unexpected level: {len(shape)} expected < {len(shape)}"
            raise _at(number, shape, rows, text)
        text = f"JSON Value: {shown(wrong)} Type: {json_type(wrong)} is not of expected type: {spec.dtype_name}"
        raise _at(number, shape, rows, text)
    if spec.dtype.kind in "iu" and level:
        limits = np.iinfo(spec.dtype)
        for extreme in (min(level), max(level)):
            if not limits.min <= extreme <= limits.max:
                text = f"JSON Value: {shown(extreme)} Type: Number is not of expected type: {spec.dtype_name}"
                raise _at(level.index(extreme), shape, rows, text)
    try:
        array = np.empty(len(level), spec.dtype)
        with np.errstate(over="ignore"):
            for piece in pieces:
                array[piece] = level[piece]
        return array.reshape(shape)
    except (OverflowError, ValueError) as error:  # an integer too large for any float; more than 64 levels
        raise invalid(f"input {spec.name!r}: {error}; expected {spec.expected}") from None


def _at(number: int, shape: list[int], rows: bool, text: str) -> RequestError:
    """An error at value `number` of a level, which says the row where there are rows."""
    if not rows or not shape:
        return invalid(text)
    row = number // max(int(np.prod(shape[1:])), 1)
    return invalid(f"Failed to process element: {row} of 'instances' list. Error: INVALID_ARGUMENT: {text}")


def _to_bytes(value: Any, number: int, shape: list[int], rows: bool, spec: TensorSpec) -> bytes:
    if is_base64(value):
        data = decode_base64(value["b64"])
        if data is None:
            raise _at(number, shape, rows, "Unable to base64 decode")
        return data
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, dict):
        raise _at(number, shape, rows, f"JSON Value: {shown(value)} not formatted correctly for base64 data")
    text = f"JSON Value: {shown(value)} Type: {json_type(value)} is not of expected type: {spec.dtype_name}"
    raise _at(number, shape, rows, text)


def is_base64(value: Any) -> bool:
    """Whether a value of JSON stands for bytes."""
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def decode_base64(text: str) -> bytes | None:
    """The bytes, as absl::Base64Unescape reads them for TF Serving; None for what is not base64.

    Whitespace counts for nothing, and the padding, of = or ., is there whole or not at all.
    """
    try:
        letters = text.encode("ascii").translate(None, string.whitespace.encode())
        data = letters.rstrip(b"=.")
        missing = -len(data) % 4
        if len(letters) - len(data) not in (0, missing):
            return None
        return binascii.a2b_base64(data + b"=" * missing, strict_mode=True)
    except (binascii.Error, ValueError):
        return None


def size_of(arrays: Iterable[Array]) -> int:
    """Bytes of all values, of strings too."""
    return sum(sum(map(len, array.flat)) if array.dtype.kind == "O" else array.nbytes for array in arrays)


def check_rows(count: int) -> None:
    """Raises RequestError for more than `MOST_ROWS`; called before anything is done for each of them."""
    if count > MOST_ROWS:
        raise invalid(f"a request of {count} rows; expected at most {MOST_ROWS}")


def shown(value: Any) -> str:
    """A value as messages repeat it."""
    text = ""
    try:
        for piece in json.JSONEncoder(ensure_ascii=False).iterencode(value):  # which may be the whole body
            text += piece[: SHOWN + 1]
            if len(text) > SHOWN:
                return f"{text[:SHOWN]}…"
    except (RecursionError, ValueError):
        return "…"
    return text


def json_type(value: Any) -> str:
    """What RapidJSON calls the type."""
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return str(value)
    names: dict[type, str] = {dict: "Object", list: "Array", str: "String"}
    return names.get(type(value), "Number")
