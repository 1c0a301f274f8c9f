"""Whether values are of the types that a dataclass says of its fields, for those that a user gives by name."""

import types
import typing
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

_NAMES = {int: "a whole number", float: "a number", str: "a word", bool: "true or false", type(None): "null"}


def check_types(owner: type, values: Mapping[str, Any]) -> None:
    """Raises ValueError for a value that is not of the type of the field of `owner` with its name."""
    hints = typing.get_type_hints(owner)
    for name, value in values.items():
        kinds = typing.get_args(hints[name]) if isinstance(hints[name], types.UnionType) else (hints[name],)
        if not any(_is_a(value, kind) for kind in kinds):
            raise ValueError(f"{name}={value!r} must be {' or '.join(map(_name, kinds))}")


def _name(kind: Any) -> str:
    if typing.get_origin(kind) is not tuple:
        return _NAMES.get(kind, str(kind))
    parts = typing.get_args(kind)
    return "a list of numbers" if parts[-1] is Ellipsis else f"a list of {len(parts)} numbers"


def _is_a(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is tuple:
        parts = typing.get_args(kind)
        fits = isinstance(value, tuple) and (parts[-1] is Ellipsis or len(value) == len(parts))
        return fits and all(_is_a(part, parts[0]) for part in value)
    if kind in (int, float):
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    return isinstance(value, kind)
