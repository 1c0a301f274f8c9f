"""How far a case goes: the reader, `info`, `from_pytorch`, `convert`; and what PyTorch itself reads in it."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnext.pytorch.checkpoint import CheckpointError, read_checkpoint
from keras_resnext.pytorch.rebuild import Namespace

OTHER_BITS = "other bits"


def visit(data: Any, limit: int = 5000) -> int:
    """Touch what was read, each object once: a view out of bounds would crash here. Returns the number of objects."""
    seen: set[int] = set()
    waiting: list[Any] = [data]
    while waiting and len(seen) < limit:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        children: Iterable[Any] = ()
        if isinstance(value, np.ndarray):
            assert not value.flags.writeable or not value.size
            value.tobytes() if value.size < 1 << 20 else value.flat[-1]
        elif isinstance(value, dict):
            children = value.values()
        elif isinstance(value, Namespace):
            children = value.attributes.values()
        elif isinstance(value, (list, tuple, set, frozenset)):
            children = value
        waiting.extend(children)
    return len(seen)


def read(path: Path) -> str:
    visit(read_checkpoint(path).data)
    return "read"


def describe(path: Path) -> str:
    """Through `info`: "a ResNeXt" where nothing is wrong with the weights."""
    from keras_resnext.weights.info import describe_file

    return "described, not whole" if describe_file(path).problem else "described"


def load(path: Path) -> str:
    """Through `from_pytorch`; what it loaded must be what the file holds."""
    import keras

    from keras_resnext import from_pytorch
    from keras_resnext.weights.assign import state_dict
    from keras_resnext.weights.find_network import find_network
    from keras_resnext.weights.names import canonical_names

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells what it leaves out
        loaded = state_dict(from_pytorch(path))
        held = find_network(read_checkpoint(path).data).weights
        keras.backend.clear_session()
    entries = {canonical: loaded[name] for name, canonical in canonical_names(loaded).items()}
    for name, canonical in canonical_names(held).items():
        expected = np.asarray(held[name]).astype("float32")
        if canonical in entries and not np.array_equal(entries[canonical], expected, equal_nan=True):
            raise AssertionError(f"{name} was loaded with other numbers")
    return "loaded"


def convert(path: Path) -> str:
    """Through `convert`, which leaves nothing where it fails."""
    from keras_resnext.conversion import convert as run

    target = path.with_name("converted.weights.h5")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run(path, target)
    finally:
        left = [file.name for file in path.parent.iterdir() if file not in (path, target)]
        assert not left, f"left behind: {left}"
    target.unlink()
    return "converted"


TARGETS = {"read": read, "info": describe, "load": load, "convert": convert}


def compare_with_torch(path: Path) -> str:
    """What torch.load(weights_only=True) and this reader make of the file: "both", or who alone reads it and why.

    Raises:
        AssertionError: both read it, and not the same.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            theirs = torch.load(path, weights_only=True)
        except pickle.UnpicklingError as error:
            return _ours(path, f"torch: {_reason(error)}")
        except Exception as error:
            return _ours(path, f"torch: {type(error).__name__}, {_reason(error)}")
    try:
        ours = read_checkpoint(path).data
    except CheckpointError as error:
        return f"torch alone: {_reason(error)}"
    difference = _difference(ours, theirs)
    if difference == OTHER_BITS and _is_unstable(path, theirs):
        return "both; torch hands out memory that it never filled"
    if difference:
        raise AssertionError(f"another value than torch's: {difference}")
    return "both, equal"


def _is_unstable(path: Path, before: Any) -> bool:
    """Whether torch's tensors change from one reading to the next, with other bytes left in freed memory."""
    import torch

    for byte in (0x11, 0xEE):
        poison = [torch.full((size,), byte, dtype=torch.uint8) for size in range(1, 200)]
        del poison
        if _difference(_as_arrays(before), torch.load(path, weights_only=True)):
            return True
    return False


def _as_arrays(value: Any) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return (
            value.detach().float().numpy().astype("bfloat16")
            if value.dtype == torch.bfloat16
            else value.detach().numpy()
        )
    if isinstance(value, dict):
        return {key: _as_arrays(item) for key, item in value.items()}
    return [_as_arrays(item) for item in value] if isinstance(value, (list, tuple)) else value


def _ours(path: Path, reason: str) -> str:
    try:
        read_checkpoint(path)
    except CheckpointError:
        return "neither"
    return f"this reader alone; {reason}"


def _reason(error: Exception) -> str:
    """What an error says, without the names and numbers of one file."""
    text = str(error).split(": ", 1)[-1] if isinstance(error, CheckpointError) else str(error)
    text = text.split("WeightsUnpickler error: ")[-1]
    return re.sub(r"'[^']*'|\S*\d\S*", "…", " ".join(text.split()))[:70]


def _difference(ours: Any, theirs: Any, depth: int = 0) -> str:
    """Where the two values differ, "" for nowhere; by bits for tensors."""
    import torch

    if depth > 40:
        return ""
    if isinstance(theirs, torch.Tensor):
        if type(ours).__name__ == "Placeholder":
            return ""  # of a type that no weight has
        if not isinstance(ours, np.ndarray) or ours.shape != tuple(theirs.shape):
            return f"{ours!r:.80} for a tensor {tuple(theirs.shape)}"
        if ours.dtype.name != str(theirs.dtype).removeprefix("torch."):
            return f"{ours.dtype} for {theirs.dtype}"
        raw = (
            torch.empty(theirs.numel(), dtype=theirs.dtype).copy_(theirs.detach().flatten()).view(torch.uint8).numpy()
            if theirs.numel()
            else np.empty(0, "uint8")
        )
        return "" if np.array_equal(np.ascontiguousarray(ours).reshape(-1).view(np.uint8), raw) else OTHER_BITS
    if isinstance(theirs, dict):
        if not isinstance(ours, dict) or len(ours) != len(theirs):
            return f"{ours!r:.80} for {theirs!r:.80}"
        pairs = zip(ours.values(), theirs.values(), strict=True)
        return next(filter(None, (_difference(a, b, depth + 1) for a, b in pairs)), "")
    if isinstance(theirs, (list, tuple)):
        if not isinstance(ours, (list, tuple)) or len(ours) != len(theirs):
            return f"{ours!r:.80} for {theirs!r:.80}"
        pairs = zip(ours, theirs, strict=True)
        return next(filter(None, (_difference(a, b, depth + 1) for a, b in pairs)), "")
    if isinstance(theirs, (bool, int, str, bytes, type(None))):
        return "" if ours == theirs else f"{ours!r:.80} for {theirs!r:.80}"
    if isinstance(theirs, float):
        return "" if ours == theirs or (ours != ours and theirs != theirs) else f"{ours!r} for {theirs!r}"
    if isinstance(theirs, torch.device):
        return "" if str(ours).split(":")[0] == theirs.type else f"{ours!r:.80} for {theirs!r}"
    return ""  # sets and classes: nothing that a weight is made of
