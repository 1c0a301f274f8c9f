"""The state_dicts in what a checkpoint holds: arrays by name, and the keys that lead to them."""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from ..pytorch.rebuild import Namespace
from ..pytorch.unpickler import Placeholder

Array = Any
Keys = tuple[str, ...]  # that lead to a state_dict; positions in lists and tuples are "0", "1", …
State = dict[str, Array]  # arrays, and placeholders for objects, by name

MAX_CONTAINERS = 10_000  # looked through for weights
MAX_DEPTH = 8
MAX_ENTRIES = 100_000  # named arrays; a ResNeXt-152 with its head has 938
MAX_TEXT = 1 << 23  # characters of their names
MAX_NAME = 1000


def find_states(data: Any) -> dict[Keys, State]:
    """Every dictionary, list or namespace that holds arrays, by the keys that lead to it; nearest first.

    Raises:
        ValueError: more entries, or longer names, than any network has.
    """
    states: dict[Keys, State] = {}
    waiting: list[tuple[Keys, Any]] = [((), data)]
    seen: set[int] = set()
    entries = text = 0
    while waiting:
        nested: list[tuple[Keys, Any]] = []
        for keys, value in waiting:
            if id(value) in seen or len(seen) >= MAX_CONTAINERS:
                continue
            seen.add(id(value))
            state: State = {}
            for key, item in _items(value):
                entries, text = entries + 1, text + len(key)
                if entries > MAX_ENTRIES or text > MAX_TEXT or len(key) > MAX_NAME:
                    raise ValueError(
                        f"the checkpoint names more than {MAX_ENTRIES} arrays and containers, or one of them with more "
                        f"than {MAX_NAME} characters; no ResNeXt does"
                    )
                if is_array(item) or isinstance(item, Placeholder):
                    state[key] = item
                else:
                    nested.append(((*keys, key), item))
            if any(map(is_array, state.values())):
                states[keys] = state
        waiting = nested if nested and len(nested[0][0]) < MAX_DEPTH else []
    return states


def join_states(states: Mapping[Keys, State], keys: Keys = ()) -> State:
    """What stands below `keys` as one state_dict, its names joined by dots."""
    return {
        ".".join((*path[len(keys) :], name)): item
        for path, state in states.items()
        if path[: len(keys)] == keys
        for name, item in state.items()
    }


def count_numbers(state: Mapping[str, Array]) -> int:
    return sum(math.prod(array.shape) for array in state.values() if is_array(array))


def is_array(value: Any) -> bool:
    """Whether it is an array of any library; a dtype, which files may hold too, has a shape as well."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """The arrays, placeholders and containers directly in a container, by their names."""
    pairs: Any
    if isinstance(value, Namespace):
        value = value.attributes
    if isinstance(value, Mapping):
        pairs = ((str(key), item) for key, item in value.items() if isinstance(key, (str, int)))
    elif isinstance(value, (list, tuple)):
        pairs = value if _are_pairs(value) else ((str(index), item) for index, item in enumerate(value))
        pairs = itertools.islice(pairs, MAX_CONTAINERS)
    else:
        return
    for key, item in pairs:
        if is_array(item) or isinstance(item, (Placeholder, Namespace, Mapping, list, tuple)):
            yield key, item


def _are_pairs(value: list[Any] | tuple[Any, ...]) -> bool:
    """Whether these are the items of a state_dict: [("conv1.weight", array), …]."""
    return bool(value) and all(
        isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str) and is_array(item[1])
        for item in itertools.islice(value, MAX_CONTAINERS)
    )
