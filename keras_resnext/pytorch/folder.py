"""Reads a folder as Hugging Face's hub has them: one file of weights, or an index of several (shards)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .checkpoint import Checkpoint, CheckpointError, read_checkpoint

FILES = ("model.safetensors", "pytorch_model.bin")  # in the order of preference, each alone or with an index
PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".tar", ".pkl")
MAX_INDEX = 1 << 24  # bytes
MAX_SHARDS = 1000


def is_hub_folder(path: str | os.PathLike[str]) -> bool:
    """Whether the folder holds weights under the hub's names."""
    return _weights_file(Path(path)) is not None


def weights_file(path: str | os.PathLike[str]) -> Path:
    """The file with the folder's weights, or the index of several.

    Raises:
        CheckpointError: there is none.
    """
    found = _weights_file(Path(path))
    if found is None:
        names = ", ".join(name for file in FILES for name in (file, f"{file}.index.json"))
        raise CheckpointError(f"{path}: a folder without weights; expected one of {names}, or the path of a file in it")
    return found


def read_folder(path: str | os.PathLike[str]) -> Checkpoint:
    """All weights in the folder as one checkpoint.

    Raises:
        CheckpointError: no weights under the hub's names, or an index that does not fit the files it names.
    """
    folder, found = Path(path), weights_file(path)
    if found.suffix != ".json":
        return read_checkpoint(found)
    weights: dict[str, Any] = {}
    shards = list_shards(found)
    checkpoint = None
    for name in shards:
        checkpoint = read_checkpoint(folder / name)
        if not isinstance(checkpoint.data, dict) or weights.keys() & checkpoint.data.keys():
            raise CheckpointError(f"{folder / name}: it must hold named arrays that no other shard holds")
        weights |= checkpoint.data
    assert checkpoint is not None
    return Checkpoint(checkpoint.format, weights)


def _weights_file(folder: Path) -> Path | None:
    """Safetensors before pickles; beside a config.json the only file of its kind may have any name."""
    safe, pickled = FILES
    for file, suffixes in ((safe, (".safetensors",)), (pickled, PICKLES)):
        for name in (file, f"{file}.index.json"):
            if (folder / name).is_file():
                return folder / name
        others = [path for path in folder.glob("*") if path.name.endswith(suffixes)]
        if others and (folder / "config.json").is_file():
            return others[0] if len(others) == 1 else None
    return None


def list_shards(index: Path) -> list[str]:
    """The files that an index names, all in its own folder."""
    if index.stat().st_size > MAX_INDEX:
        raise CheckpointError(f"{index}: {index.stat().st_size} bytes, and at most {MAX_INDEX} are read")
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index}: no index of weights ({type(error).__name__})") from error
    outside = [name for name in shards if type(name) is not str or name != os.path.basename(name) or name in ("", "..")]
    if outside or not 0 < len(shards) <= MAX_SHARDS:
        raise CheckpointError(f"{index}: it must name 1 to {MAX_SHARDS} files in its own folder")
    return shards
