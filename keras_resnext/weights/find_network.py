"""Finds the network in what a checkpoint holds, by the shape of its names, and tells what stands beside it."""

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..pytorch.unpickler import Placeholder
from .heads import Head, find_head, is_head_name
from .names import EMA_PREFIX, IGNORED
from .naming import INNER, MARK_LENGTH, MARKS, plain_name
from .states import Array, Keys, State, count_numbers, find_states, join_states

WEIGHT_KEYS = ("state_dict", "model", "model_state_dict")  # the usual places, in the order of preference
SHOWN = 8
WAYS_OUT = "Load the network without its head, include_top=False, or with a new one that must be trained, classes=…"

_AVERAGE = re.compile(r"(^|[._])(ema|swa|shadow|averaged?|avg|polyak)([._]|$)")
_TRAINING = re.compile(r"optim|sched|scaler|history|hyper_parameters|loops", re.IGNORECASE)
_BODY = re.compile(r"(backbone|encoder|trunk|body|base|base_model|features|feature_extractor|cnn)$")
_LAST = re.compile(r"(layer\d\.0\.conv3(\.conv)?|stages\.\d\.0\.conv3_1x1\.conv)\.weight")
_INSIDE = re.compile(r"(layer\d+|stages|conv\d+|norm\d*|bn\d+|gn\d+|ln\d+|stem)\.")


@dataclass(frozen=True)
class Network:
    """The weights of one network in a checkpoint.

    Attributes:
        wrapper: keys that lead to the state_dict, joined by dots; "" for none.
        prefix: what stands before the network's names there, such as "module.encoder_q."; "" for none.
        weights: name without the prefix, as torchvision, mmcls or timm have it, to array; the head is `fc`.
        originals: the same names, to those in the checkpoint.
        left_out: what stands beside the network, by group ("neck.*"), with the number of its entries.
        head_problem: why the head could not be read; "" where it could, or where there is none.
        notes: what was chosen, one sentence each.
    """

    wrapper: str
    prefix: str
    weights: dict[str, Array]
    originals: dict[str, str]
    left_out: dict[str, int]
    head_problem: str
    notes: tuple[str, ...]

    def describe_left_out(self) -> str:
        """Such as "neck.* (12), total_ops (55)"; "" for nothing."""
        groups = sorted(self.left_out.items(), key=lambda group: (-group[1], group[0]))
        more = [f"{len(groups) - 2 * SHOWN} more groups"] if len(groups) > 2 * SHOWN else []
        return ", ".join([f"{_short(name)} ({count})" for name, count in groups[: 2 * SHOWN]] + more)


@dataclass(frozen=True)
class _Candidate:
    keys: Keys
    prefix: str
    kind: str
    first: int  # index of the first stage, of "positions"

    @property
    def place(self) -> str:
        return ".".join((*self.keys, *([self.prefix.removesuffix(".")] if self.prefix else [])))


def find_network(data: Any, ema: bool = False, prefix: str | None = None) -> Network:
    """The network inside a loaded checkpoint, under whatever keys and prefixes.

    Args:
        data: what the file holds.
        ema: whether to take the moving average of the weights that training code keeps beside them.
        prefix: which of several networks, by the place that the error names; None where there is one.

    Raises:
        ValueError: no weights, no moving average, several networks and no prefix, or a prefix that leads to none.
    """
    states = find_states(data)
    candidates = _usable(states)
    if not candidates:  # dictionaries in dictionaries, down to each layer
        joined: dict[Keys, State] = {(): join_states(states)}
        candidates = _usable(joined)
        states = joined if candidates else states
    if prefix is not None:
        candidates = _at(candidates, prefix)
    notes: list[str] = []
    averages = [candidate for candidate in candidates if _AVERAGE.search(candidate.place)]
    copies = False  # mmcv's averages stand beside the weights, under names of their own
    if ema and averages:
        candidates = averages
    elif ema:
        copies = any(_is_copy(name) for state in states.values() for name in state)
        if not copies:
            raise ValueError(
                "ema=True, but the checkpoint holds no moving average: no network under a key or prefix such as "
                f"model_ema, state_dict_ema or ema, and no entries named {EMA_PREFIX}…"
            )
    elif averages and len(averages) < len(candidates):
        candidates = [candidate for candidate in candidates if candidate not in averages]
        notes.append(f"the checkpoint also holds a moving average, {averages[0].place}: ema=True takes it")
    chosen = _choose(candidates, notes)
    if chosen is None:
        if not states:
            raise ValueError(_nothing(data))
        largest = max(states, key=lambda keys: count_numbers(states[keys]))
        chosen = _Candidate(largest, "", "none", 0)  # whoever looks for blocks says what is missing
    chosen, state = _with_siblings(chosen, states)
    return _network(chosen, state, copies, notes)


def _is_copy(name: str) -> bool:
    """Whether an entry is one of mmcv's averages, whose names have `_` for every dot."""
    return name.startswith(EMA_PREFIX) and "." not in name


def _usable(states: Mapping[Keys, State]) -> list[_Candidate]:
    """The networks in all dictionaries; those that an optimizer keeps of them only where there are no others."""
    found = [candidate for keys, state in states.items() for candidate in _candidates(keys, state)]
    return [c for c in found if not any(map(_TRAINING.search, c.keys))] or found


def _with_siblings(chosen: _Candidate, states: Mapping[Keys, State]) -> tuple[_Candidate, State]:
    """The network's dictionary, with those beside it where it is a part of a model: {"backbone": …, "head": …}."""
    own = states[chosen.keys]
    if not chosen.keys or chosen.kind == "none":
        return chosen, own
    parent = chosen.keys[:-1]
    siblings = {
        keys: state
        for keys, state in states.items()
        if keys[: len(parent)] == parent and keys[: len(chosen.keys)] != chosen.keys
        if not any(map(_TRAINING.search, keys)) and not _candidates(keys, state)
    }
    beside = join_states(siblings, parent)
    if not (_BODY.match(chosen.keys[-1]) or any(is_head_name(name.partition(".")[0]) for name in beside)):
        return chosen, own
    key = chosen.keys[-1]
    moved = replace(chosen, keys=parent, prefix=f"{key}.{chosen.prefix}")
    return moved, {f"{key}.{name}": item for name, item in own.items()} | beside


def _candidates(keys: Keys, state: State) -> list[_Candidate]:
    found: dict[tuple[str, str], int] = {}
    for original in state:
        name = INNER.sub("", original)
        for kind, mark in MARKS.items():
            if match := mark.search(name, max(0, len(name) - MARK_LENGTH)):
                first = int(match[1]) if kind == "positions" else 0
                key = kind, name[: match.start()]
                found[key] = min(found.get(key, first), first)
    names = {INNER.sub("", original) for original in state} if any(k == "positions" for k, _ in found) else set()
    return [
        _Candidate(keys, prefix, kind, first)
        for (kind, prefix), first in found.items()
        if kind != "positions" or (first > 1 and (f"{prefix}0.weight" in names or f"{prefix}0.0.weight" in names))
    ]


def _at(candidates: list[_Candidate], prefix: str) -> list[_Candidate]:
    wanted = prefix.strip(".")
    exact = [c for c in candidates if wanted in (c.place, c.prefix.removesuffix("."))]
    found = exact or [c for c in candidates if f".{wanted}." in f".{c.place}."]
    if not found:
        raise ValueError(f"prefix={prefix!r} leads to no network; {_choices(candidates) or 'the checkpoint has none'}")
    return found


def _choose(candidates: list[_Candidate], notes: list[str]) -> _Candidate | None:
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    for key in WEIGHT_KEYS:
        usual = [c for c in candidates if c.keys[:1] == (key,)]
        if len(usual) == 1:
            others = [c for c in candidates if c is not usual[0]]
            notes.append(f"took {usual[0].place}, the usual place; {_choices(others)}")
            return usual[0]
    raise ValueError(
        f"the checkpoint holds {len(candidates)} networks; say which with prefix= (--prefix): {_choices(candidates)}"
    )


def _choices(candidates: Sequence[_Candidate]) -> str:
    shown = [f"prefix={_short(c.place)!r}" for c in candidates[:SHOWN]]
    more = len(candidates) - SHOWN
    return ("there is " if shown else "") + ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _network(chosen: _Candidate, state: Mapping[str, Array], copies: bool, notes: list[str]) -> Network:
    weights: dict[str, Array] = {}
    originals: dict[str, str] = {}
    beside: dict[str, Array] = {}
    counters: Counter[str] = Counter()
    for original, value in state.items():
        name = INNER.sub("", original)
        if _is_copy(original) or IGNORED.search(name):
            if not original.endswith("num_batches_tracked") and not _is_copy(original):
                counters[name.rsplit(".", 1)[-1]] += 1
            continue
        rest = name[len(chosen.prefix) :] if name.startswith(chosen.prefix) else ""
        plain = plain_name(rest, chosen.kind, chosen.first)
        if not plain or not (_INSIDE.match(plain) or chosen.kind == "none"):
            beside[name] = value
            continue
        if plain in weights:
            raise ValueError(f"the checkpoint names one entry twice: {originals[plain]} and {original}")
        if isinstance(value, Placeholder):
            raise ValueError(f"{original} must be an array and is an object, {value.name}")
        average = state.get(EMA_PREFIX + original.replace(".", "_")) if copies else None
        weights[plain], originals[plain] = value if average is None else average, original
    head = find_head(beside, chosen.prefix, _features(weights))
    if head.name:
        for kind in ("weight", "bias"):
            if (original := f"{head.name}.{kind}") in beside:
                average = state.get(EMA_PREFIX + original.replace(".", "_")) if copies else None
                weights[f"fc.{kind}"] = beside.pop(original) if average is None else average
                beside.pop(original, None)
                originals[f"fc.{kind}"] = original
        if "fc.bias" not in weights and len(weights["fc.weight"].shape) == 2:
            weights["fc.bias"], originals["fc.bias"] = np.zeros(weights["fc.weight"].shape[0], "float32"), head.name
            notes.append(f"the head, {head.name}, has no bias: it is 0")
    left_out = counters + Counter(_group(name, chosen.prefix) for name in beside)
    if chosen.kind == "detectron2":
        notes.append("Detectron2's networks mostly take BGR images: if this one does, bgr=True turns its kernel round")
    return Network(
        ".".join(chosen.keys), chosen.prefix, weights, originals, dict(left_out), _problem(head), tuple(notes)
    )


def _features(weights: Mapping[str, Array]) -> int:
    """Channels of the last stage, 0 if they cannot be seen."""
    last = max(filter(_LAST.fullmatch, weights), default="")
    return int(weights[last].shape[0]) if last and len(weights[last].shape) else 0


def _group(name: str, prefix: str) -> str:
    """The first part of a name that the network's prefix does not have, with the parts before it."""
    parts, shared = name.split(".", 20), prefix.split(".", 20)[:-1]
    common = next((i for i, pair in enumerate(zip(parts, shared, strict=False)) if pair[0] != pair[1]), None)
    common = min(len(parts), len(shared)) if common is None else common
    return ".".join(parts[: common + 1]) + (".*" if len(parts) > common + 1 else "")


def _problem(head: Head) -> str:
    return f"the head of the checkpoint cannot be read: {head.problem}" if head.problem else ""


def _short(text: str) -> str:
    text = text if len(text) <= 80 else f"{text[:60]}…{text[-15:]}"
    return text if text.isprintable() else repr(text)


def _key(key: Any) -> str:
    """A dictionary's key in a message; of a tuple only its type, for its parts may be long."""
    return str(key)[:40] if isinstance(key, (str, int, float)) else type(key).__name__


def _nothing(data: Any) -> str:
    if isinstance(data, Mapping):
        objects = [f"{_key(k)} ({v.name})" for k, v in data.items() if isinstance(v, Placeholder)][:4]
        if objects:
            return (
                f"no state_dict in the checkpoint: it holds pickled objects, {', '.join(objects)}, and none is built; "
                "where the model exists, torch.save(model.state_dict(), …) writes what can be read"
            )
    keys = itertools.islice(data, SHOWN) if isinstance(data, Mapping) else ()
    found = f"a dict with {sorted(map(_key, keys))}" if isinstance(data, Mapping) else type(data).__name__
    return f"no state_dict in the checkpoint: expected weights, or a dictionary of them under any key; found {found}"
