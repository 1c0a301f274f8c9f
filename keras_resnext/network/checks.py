"""Checks of options; each error names the argument, its value and the rule that it breaks."""

import difflib
import fnmatch
from collections.abc import Iterable, Mapping, Sequence
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


# Words of timm's `create_model` for options of `ResNeXt`.
_OF_TIMM = {
    "num_classes": "classes=N",
    "pretrained": "weights='timm', or 'imagenet' for the most accurate",
    "in_chans": "input_shape=(height, width, channels)",
    "features_only": "include_top=False with out_indices=(0, 1, 2, 3)",
    "global_pool": "pooling='avg' with include_top=False",
    "checkpoint_path": "weights=PATH",
    "act_layer": "activation='relu' or 'silu'",
    "drop_rate": "include_top=False with a Dropout and a Dense layer behind it",
    "cardinality": "groups=N",
    "base_width": "width_per_group=N",
    "layers": "blocks=(…)",
}


def describe_choices(value: object, known: Iterable[str], also: Iterable[str] = ()) -> str:
    """The names nearest to `value`, as a question; where none is near all of the `known`, without those `also`."""
    known = list(known)
    near = difflib.get_close_matches(str(value), [*known, *also], n=2, cutoff=0.8)
    return f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(known)}"


def match_names(pattern: str | None, names: Mapping[str, Iterable[str]]) -> list[str]:
    """The keys of `names` of whose names one fits the shell pattern, whatever its case; all for None."""
    if pattern is not None and not isinstance(pattern, str):
        raise ValueError(f"pattern={pattern!r} must be a text such as '*d_32x4d'")
    return [
        key
        for key, own in names.items()
        if pattern is None or any(fnmatch.fnmatchcase(name.lower(), pattern.lower()) for name in own)
    ]


def describe_unknown(names: Iterable[str], known: Sequence[str], owner: str) -> str:
    """One sentence on the `names` that are not `known` options of `owner`, with the nearest known ones; "" for none."""
    unknown = sorted(set(names) - set(known))
    if not unknown:
        return ""
    if said := [f"{name} is timm's word; here it is {_OF_TIMM[name]}" for name in unknown if name in _OF_TIMM]:
        return "; ".join(said)
    near = [guess for name in unknown for guess in difflib.get_close_matches(name, known, n=1)]
    hint = f"did you mean {', '.join(near)}?" if near else f"choose from {', '.join(known)}"
    return f"{', '.join(unknown)}: no option of {owner}; {hint}"
