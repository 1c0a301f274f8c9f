"""Reads a checkpoint from a file or from a folder: one file of weights, or an index of several (shards) as on hubs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .checkpoint import Checkpoint, CheckpointError, read_checkpoint

PYTORCH_SUFFIXES = (".pth", ".pt", ".safetensors", ".tar", ".ckpt", ".bin", ".pkl")
FILES = ("model.safetensors", "pytorch_model.bin")  # in the order of preference, each alone or with an index
PICKLES = tuple(suffix for suffix in PYTORCH_SUFFIXES if suffix != ".safetensors")
MAX_INDEX = 1 << 24  # bytes
MAX_SHARDS = 1000
SHOWN = 4


def is_checkpoint_folder(path: str | os.PathLike[str]) -> bool:
    """Whether the folder holds PyTorch weights."""
    return os.path.isdir(path) and bool(_candidates(Path(path)))


def list_weights_files(path: str | os.PathLike[str]) -> list[Path]:
    """The file itself; of a folder the one file that holds its weights, or all shards that an index names.

    Raises:
        CheckpointError: a folder without weights or with several checkpoints, or a broken index.
    """
    if not os.path.isdir(path):
        return [Path(path)]
    found = _candidates(Path(path))
    if not found:
        names = ", ".join(name for file in FILES for name in (file, f"{file}.index.json"))
        suffixes = ", ".join(PYTORCH_SUFFIXES)
        raise CheckpointError(f"{path}: a folder without weights; expected one of {names}, or one file in {suffixes}")
    if len(found) > 1:
        shown = ", ".join(file.name for file in found[:SHOWN]) + (", …" if len(found) > SHOWN else "")
        raise CheckpointError(f"{path}: a folder with {len(found)} checkpoints, {shown}; give the path of one")
    return [found[0].with_name(name) for name in list_shards(found[0])] if found[0].suffix == ".json" else found


def read_weights(path: str | os.PathLike[str]) -> Checkpoint:
    """The checkpoint in a file, or all weights in a folder as one.

    Raises:
        CheckpointError, OSError: as `list_weights_files` and `read_checkpoint`, or shards that do not fit together.
    """
    files = list_weights_files(path)
    if len(files) == 1:
        return read_checkpoint(files[0])
    weights: dict[str, Any] = {}
    for file in files:
        checkpoint = read_checkpoint(file)
        if not isinstance(checkpoint.data, dict) or weights.keys() & checkpoint.data.keys():
            raise CheckpointError(f"{file}: it must hold named arrays that no other shard holds")
        weights |= checkpoint.data
    return Checkpoint(checkpoint.format, weights)


def _candidates(folder: Path) -> list[Path]:
    """The file, or the index, under the hub's names; else every file that a suffix says to be a checkpoint.

    Where there is a safetensors file, pickles do not count.
    """
    files = sorted(file for file in folder.iterdir() if file.is_file())
    for usual, suffixes in zip(FILES, ((".safetensors",), PICKLES), strict=True):
        for name in (usual, f"{usual}.index.json"):
            if (folder / name).is_file():
                return [folder / name]
        if found := [file for file in files if file.name.lower().endswith(suffixes)]:
            return found
    return []


def list_shards(index: Path) -> list[str]:
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
