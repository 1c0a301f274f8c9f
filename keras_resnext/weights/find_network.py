"""Finds the network in what a checkpoint holds, by the shape of its names, and tells what stands beside it."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..pytorch.unpickler import Placeholder
from .heads import Head, find_head
from .names import EMA_PREFIX, IGNORED

Array = Any

WEIGHT_KEYS = ("state_dict", "model", "model_state_dict")  # the usual places, in the order of preference
MAX_MAPPINGS = 10_000  # looked through for weights
SHOWN = 8

# Wrappers that stand anywhere in a name: torch.compile, FSDP, activation checkpointing.
_INNER = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_AVERAGE = re.compile(r"(^|[._])(ema|swa)([._]|$)")
_UNNAMED = re.compile(r"optim|sched|scaler|history|hyper_parameters|loops", re.IGNORECASE)

# How the first block shows itself: what stands before it, and the index of the first stage in a Sequential.
_MARKS = {
    "named": re.compile(
        r"(?:(?<=\.)|^)(?:layer1\.0\.conv[123](?:\.conv)?|stages\.0\.0\.conv[123]_(?:1x1|kxk)\.conv)\.weight$"
    ),
    "detectron2": re.compile(r"(?:(?<=\.)|^)res2\.0\.conv[123]\.weight$"),
    "positions": re.compile(r"(?:(?<=\.)|^)(\d{1,2})\.0\.conv[123]\.weight$"),
}
_DETECTRON2 = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^stem\.conv1\.norm\.", "bn1."),
        (r"^stem\.conv1\.", "conv1."),
        (r"^(layer\d\.\d+)\.conv(\d)\.norm\.", r"\1.bn\2."),
        (r"^(layer\d\.\d+)\.shortcut\.norm\.", r"\1.downsample.1."),
        (r"^(layer\d\.\d+)\.shortcut\.", r"\1.downsample.0."),
    )
)
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
    wrapper: str
    prefix: str
    kind: str
    first: int  # index of the first stage, of "positions"

    @property
    def place(self) -> str:
        return ".".join(part for part in (self.wrapper, self.prefix.removesuffix(".")) if part)


def find_network(data: Any, ema: bool = False, prefix: str | None = None) -> Network:
    """The network inside a loaded checkpoint, under whatever keys and prefixes.

    Args:
        data: what the file holds.
        ema: whether to take the moving average of the weights that training code keeps beside them.
        prefix: which of several networks, by the place that the error names; None where there is one.

    Raises:
        ValueError: no weights, no moving average, several networks and no prefix, or a prefix that leads to none.
    """
    states = dict(_states(data))
    candidates = [candidate for wrapper, state in states.items() for candidate in _candidates(wrapper, state)]
    if prefix is not None:
        candidates = _at(candidates, prefix)
    notes: list[str] = []
    averages = [candidate for candidate in candidates if _AVERAGE.search(candidate.place)]
    copies = False  # mmcv's averages stand beside the weights, under names of their own
    if ema and averages:
        candidates = averages
    elif ema:
        copies = any(name.startswith(EMA_PREFIX) for state in states.values() for name in state)
        if not copies:
            raise ValueError(
                "ema=True, but the checkpoint holds no moving average: no network under a key or prefix such as "
                f"model_ema, state_dict_ema or ema, and no entries named {EMA_PREFIX}…"
            )
    elif averages and len(averages) < len(candidates):
        candidates = [candidate for candidate in candidates if candidate not in averages]
        notes.append(f"the checkpoint also holds a moving average, {averages[0].place}: ema=True takes it")
    chosen = _choose(candidates, states, notes)
    if chosen is None:
        wrapper = max(states, key=lambda key: _numbers(states[key]), default=None)
        if wrapper is None:
            raise ValueError(_nothing(data))
        chosen = _Candidate(wrapper, "", "none", 0)  # whoever looks for blocks says what is missing
    return _network(chosen, states[chosen.wrapper], copies, notes)


def _numbers(state: Mapping[str, Array]) -> int:
    return sum(math.prod(array.shape) for array in state.values() if hasattr(array, "shape"))


def _states(data: Any) -> Iterator[tuple[str, dict[str, Array]]]:
    """Every dictionary that holds arrays by name, and the keys that lead to it; nearest first."""
    waiting: list[tuple[str, Any]] = [("", data)]
    seen: set[int] = set()
    while waiting and len(seen) < MAX_MAPPINGS:
        nested: list[tuple[str, Any]] = []
        for path, value in waiting:
            if not isinstance(value, Mapping) or id(value) in seen or len(seen) >= MAX_MAPPINGS:
                continue
            seen.add(id(value))
            named = {key: item for key, item in value.items() if isinstance(key, str)}
            if any(hasattr(item, "shape") for item in named.values()):
                yield path, {k: v for k, v in named.items() if hasattr(v, "shape") or isinstance(v, Placeholder)}
            if path.count(".") < 4:
                inner = {k: v for k, v in named.items() if isinstance(v, Mapping) and not _UNNAMED.search(k[:100])}
                nested += [(f"{path}.{k}" if path else k, v) for k, v in inner.items()]
        waiting = nested


def _candidates(wrapper: str, state: Mapping[str, Array]) -> list[_Candidate]:
    found: dict[tuple[str, str], int] = {}
    for original in state:
        name = _INNER.sub("", original)
        for kind, mark in _MARKS.items():
            # The mark is short and at the end: a long name is not searched from its beginning.
            if match := mark.search(name, max(0, name.rfind(".0.conv") - 10)):
                first = int(match[1]) if kind == "positions" else 0
                key = kind, name[: match.start()]
                found[key] = min(found.get(key, first), first)
    names = {_INNER.sub("", original) for original in state} if any(k == "positions" for k, _ in found) else set()
    return [
        _Candidate(wrapper, prefix, kind, first)
        for (kind, prefix), first in found.items()
        if kind != "positions" or (first > 1 and (f"{prefix}0.weight" in names or f"{prefix}0.0.weight" in names))
    ]


def _at(candidates: list[_Candidate], prefix: str) -> list[_Candidate]:
    wanted = prefix.strip(".")
    exact = [c for c in candidates if wanted in (c.place, c.prefix.removesuffix("."))]
    found = exact or [c for c in candidates if c.place.endswith(f".{wanted}")]
    if not found:
        raise ValueError(f"prefix={prefix!r} leads to no network; {_choices(candidates) or 'the checkpoint has none'}")
    return found


def _choose(
    candidates: list[_Candidate], states: Mapping[str, Mapping[str, Array]], notes: list[str]
) -> _Candidate | None:
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    for key in WEIGHT_KEYS:
        usual = [c for c in candidates if c.wrapper.split(".")[0] == key]
        if len(usual) == 1:
            others = [c for c in candidates if c is not usual[0]]
            notes.append(f"took {usual[0].place}, the usual place; {_choices(others)}")
            return usual[0]
    raise ValueError(
        f"the checkpoint holds {len(candidates)} networks; say which with prefix= (--prefix): {_choices(candidates)}"
    )


def _choices(candidates: list[_Candidate]) -> str:
    shown = [f"prefix={_short(c.place)!r}" for c in candidates[:SHOWN]]
    more = len(candidates) - SHOWN
    return ("there is " if shown else "") + ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _network(chosen: _Candidate, state: Mapping[str, Array], copies: bool, notes: list[str]) -> Network:
    weights: dict[str, Array] = {}
    originals: dict[str, str] = {}
    beside: dict[str, Array] = {}
    counters: Counter[str] = Counter()
    for original, value in state.items():
        name = _INNER.sub("", original)
        if original.startswith(EMA_PREFIX) or IGNORED.search(name):
            if not original.endswith("num_batches_tracked") and not original.startswith(EMA_PREFIX):
                counters[name.rsplit(".", 1)[-1]] += 1
            continue
        plain = _plain(name[len(chosen.prefix) :], chosen) if name.startswith(chosen.prefix) else ""
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
    return Network(chosen.wrapper, chosen.prefix, weights, originals, dict(left_out), _problem(head), tuple(notes))


def _plain(name: str, chosen: _Candidate) -> str:
    """A name behind the prefix, as torchvision, mmcls or timm would have it."""
    if chosen.kind == "positions":
        index, _, rest = name.partition(".")
        if not index.isdigit() or len(index) > 2:
            return name
        stems = {0: "conv1", 1: "bn1"}
        stage = int(index) - chosen.first
        return f"layer{stage + 1}.{rest}" if stage >= 0 else f"{stems.get(int(index), name)}.{rest}"
    if chosen.kind == "detectron2":
        name = re.sub(r"^res(\d)\.", lambda match: f"layer{int(match[1]) - 1}.", name)
        for pattern, replacement in _DETECTRON2:
            name = pattern.sub(replacement, name)
        return name
    name = re.sub(r"^layer0\.0\.", "conv1.", name)  # PSPNet's: the stem is a Sequential
    return re.sub(r"^layer0\.1\.", "bn1.", name)


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
    return (
        f"the head of the checkpoint cannot be read: {head.problem}. Load the network without it, include_top=False, "
        "or with a new head that must be trained, classes=…"
        if head.problem
        else ""
    )


def _short(text: str) -> str:
    text = text if len(text) <= 80 else f"{text[:60]}…{text[-15:]}"
    return text if text.isprintable() else repr(text)


def _nothing(data: Any) -> str:
    if isinstance(data, Mapping):
        objects = [f"{k!s:.40} ({v.name})" for k, v in data.items() if isinstance(v, Placeholder)][:4]
        if objects:
            return (
                f"no state_dict in the checkpoint: it holds pickled objects, {', '.join(objects)}, and none is built; "
                "where the model exists, torch.save(model.state_dict(), …) writes what can be read"
            )
    found = f"a dict with {sorted(str(k)[:40] for k in data)[:8]}" if isinstance(data, Mapping) else type(data).__name__
    return f"no state_dict in the checkpoint: expected weights, or a dictionary of them under any key; found {found}"
