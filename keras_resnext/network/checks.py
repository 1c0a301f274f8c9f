"""Checks of options; each error names the argument, its value and the rule that it breaks."""

import difflib
from collections.abc import Iterable, Sequence
from numbers import Integral, Real


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(map(repr, choices))}")


def check_positive(**values: int) -> None:
    for name, value in values.items():
        if not is_integer(value) or value < 1:
            raise ValueError(f"{name}={value!r} must be a positive integer")


def check_range(name: str, value: int, low: int, high: int) -> None:
    if not is_integer(value) or not low <= value <= high:
        raise ValueError(f"{name}={value!r} must be an integer from {low} to {high}")


def check_sequence(name: str, value: object) -> None:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{name}={value!r} must be a tuple or a list of integers")


def check_share(name: str, value: float, *, one: bool) -> None:
    """Raises ValueError unless `value` is a number from 0 to 1; `one` says whether 1 itself is allowed."""
    if not isinstance(value, Real) or not (0 <= value <= 1 if one else 0 <= value < 1):
        raise ValueError(f"{name}={value!r} must be a number of at least 0 and {'at most' if one else 'below'} 1")


def is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_per_stage(num_stages: int, **sequences: Sequence[int]) -> None:
    for name, values in sequences.items():
        check_sequence(name, values)
        if len(values) != num_stages:
            raise ValueError(f"{name}={tuple(values)!r} must have one entry per stage: num_stages={num_stages}")
        check_positive(**{f"{name}[{i}]": value for i, value in enumerate(values)})


def describe_unknown(names: Iterable[str], known: Sequence[str], owner: str) -> str:
    """One sentence on the `names` that are not `known` options of `owner`, with the nearest known ones; "" for none."""
    unknown = sorted(set(names) - set(known))
    if not unknown:
        return ""
    near = [guess for name in unknown for guess in difflib.get_close_matches(name, known, n=1)]
    hint = f"did you mean {', '.join(near)}?" if near else f"choose from {', '.join(known)}"
    return f"{', '.join(unknown)}: no option of {owner}; {hint}"
