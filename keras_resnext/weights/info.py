"""What a file of weights is, told from the file alone: nothing is built and no framework is loaded."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..network.architectures import identify
from ..network.checks import is_integer
from ..network.costs import StageCost, count_costs
from ..network.layer_cfg import Norm
from ..network.stages import USUAL_SIZES
from ..network.structure import Structure
from ..pytorch.checkpoint import CheckpointError
from ..pytorch.folder import list_weights_files, read_weights
from .download import sha256
from .expected import expected_shapes
from .find_network import WAYS_OUT, find_network
from .fit import blaming_the_checkpoint
from .hub import fetch_from_hub
from .infer import infer_built, infer_from_names, infer_norm
from .keras_archive import read_config
from .keras_files import KERAS_SUFFIXES, read_keras_weights
from .layouts import detect_layout
from .names import canonical_names
from .published import find_by_sha256

FORMATS = {
    "zip": "torch.save, zip",
    "legacy": "torch.save, legacy (before 1.6)",
    "safetensors": "safetensors",
    ".keras": "Keras model",
    ".weights.h5": "Keras weights",
}


@dataclass(frozen=True)
class FileInfo:
    """One file of weights, or a folder of one or of its shards.

    Attributes:
        path, size, sha256: the file or folder, its bytes and their hash in hex; of shards one after the other.
        format: a value of `FORMATS`.
        wrapper: the key under which the weights are, "" for none.
        prefix: what stands before the network's names, "" for nothing.
        left_out: what stands beside the network, in groups with counts: "neck.* (12), total_ops (55)".
        layout: whose names the entries have: "torchvision", "mmcls", "timm", "keras_resnext" or "unknown".
        architecture: a name of `list_architectures()`, else a description.
        structure: as read off the weights and, of a .keras file, its layers; None where they are no ResNeXt's.
        classes: of the head, None for none.
        parameters: trainable numbers; running statistics and counters are not among them.
        dtypes: of the entries, the most frequent first.
        averaged: whether the file also holds a moving average of the weights.
        published: name of the published checkpoint with the same first digits of the SHA-256; None for none. The
            sources publish 32 bits (`PublishedWeights.sha256_prefix`), which can be forged.
        problem: why the weights are no ResNeXt's, or what is missing and too much; "" where all is right.
        image_size: (height, width) in pixels that `costs` are counted at.
        costs: parameters and multiply-accumulates of each stage; empty where the weights are no ResNeXt's. Strides
            leave no trace in weights: those of a .keras file are its own, for other files the usual ones are taken.
    """

    path: Path
    size: int
    sha256: str
    format: str
    wrapper: str
    prefix: str
    left_out: str
    layout: str
    architecture: str
    structure: Structure | None
    classes: int | None
    parameters: int
    dtypes: tuple[str, ...]
    averaged: bool
    published: str | None
    problem: str
    image_size: tuple[int, int]
    costs: tuple[StageCost, ...]


def describe_file(
    path: str | os.PathLike[str], image_size: int | None = None, *, prefix: str | None = None
) -> FileInfo:
    """Reads off a file what it is.

    Args:
        path: a PyTorch checkpoint or a folder of one, .keras or .weights.h5; "hf://owner/name@revision".
        image_size: height and width in pixels to count operations at; default as a .keras file fixes it, else the
            architecture's.
        prefix: as in `from_pytorch`.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: a file that is none of these, or that is damaged. It is a ValueError.
    """
    path = Path(fetch_from_hub(path))
    if not path.exists():
        raise FileNotFoundError(f"file={str(path)!r}: there is no such file")
    if not path.is_file() and not path.is_dir():
        raise CheckpointError(f"file={str(path)!r}: not a regular file")
    with blaming_the_checkpoint():
        return _describe(path, image_size, prefix)


def _describe(path: Path, image_size: int | None, prefix: str | None) -> FileInfo:
    suffix = next((suffix for suffix in KERAS_SUFFIXES if path.name.endswith(suffix)), "")
    if suffix:
        form, averaged, network = suffix, False, find_network(read_keras_weights(path))
    else:
        checkpoint = read_weights(path)
        form, network = checkpoint.format, find_network(checkpoint.data, prefix=prefix)
        averaged = _has_average(checkpoint.data)
    state = network.weights
    layers = _layers(path) if suffix == ".keras" else {}
    canonical = canonical_names(state)
    shapes = {name: tuple(state[original].shape) for original, name in canonical.items()}
    structure, problem = None, ""
    try:
        structure = infer_from_names({name: array.shape for name, array in state.items()}, _norm(layers))
    except ValueError as error:
        problem = str(error)
    else:
        expected = expected_shapes(structure)
        differences = {
            "missing": expected.keys() - shapes.keys(),
            "unexpected": shapes.keys() - expected.keys(),
            "of another shape": {name for name, shape in shapes.items() if expected.get(name, shape) != shape},
        }
        problem = "; ".join(
            f"{len(names)} {what}: {', '.join(sorted(names)[:8])}" for what, names in differences.items() if names
        )
        with suppress(KeyError, TypeError, IndexError, ValueError):  # a ResNeXt's weights inside another model
            structure = infer_built(structure, layers) if layers else structure
        head_problem = f"{network.head_problem}. {WAYS_OUT}" if network.head_problem else ""
        problem = "; ".join(filter(None, (problem, head_problem)))
    files = list_weights_files(path)
    digest = sha256(*files)
    usual = structure.usual_size if structure else USUAL_SIZES["imagenet"]
    size = (image_size, image_size) if image_size else _fixed_size(layers) or (usual, usual)
    statistics = (".running_mean", ".running_var")
    kinds = [array.dtype.name for array in state.values()]
    return FileInfo(
        path=path,
        size=sum(file.stat().st_size for file in files),
        sha256=digest,
        format=FORMATS[form],
        wrapper=network.wrapper,
        prefix=network.prefix,
        left_out=network.describe_left_out(),
        layout="keras_resnext" if suffix else detect_layout(network.originals.values()) if structure else "unknown",
        architecture=_architecture(structure),
        structure=structure,
        classes=next(iter(shapes.get("fc.weight", ())), None),
        parameters=sum(int(np.prod(shape)) for name, shape in shapes.items() if not name.endswith(statistics)),
        dtypes=tuple(sorted(set(kinds), key=kinds.count, reverse=True)),
        averaged=averaged,
        published=row.name if (row := find_by_sha256(digest)) else None,
        problem=problem,
        image_size=size,
        costs=count_costs(structure, size) if structure else (),
    )


def _has_average(data: Any) -> bool:
    try:
        find_network(data, ema=True)
    except ValueError:
        return False
    return True


def _architecture(structure: Structure | None) -> str:
    """The table's name, else a description such as "ResNeXt-50 (3, 4, 6, 3), 8 groups of 4, 1 input channels"."""
    if structure is None:
        return "no ResNeXt"
    row = identify(structure)
    if row is not None and structure.in_channels == 3:
        return row.name
    attention = "SE-" if structure.se_ratio else f"{structure.attention.upper()}-" if structure.attention else ""
    kind = attention + ("ResNeXt" if structure.groups > 1 else "ResNet")
    groups = f"{structure.groups} groups of {structure.width_per_group}"
    return f"{kind}-{structure.depth} {structure.blocks}, {groups}, {structure.in_channels} input channels"


def _layers(path: Path) -> dict[str, dict[str, Any]]:
    """The layers of a .keras file by their names; {} where it is no functional model."""
    try:
        return {layer["config"]["name"]: layer for layer in read_config(path)["config"]["layers"]}
    except (KeyError, TypeError):
        return {}


def _norm(layers: Mapping[str, Mapping[str, Any]]) -> Norm | None:
    with suppress(KeyError, TypeError, ValueError):
        return infer_norm(layers)
    return None


def _fixed_size(layers: Mapping[str, Mapping[str, Any]]) -> tuple[int, int] | None:
    """(height, width) of the images that a .keras file's network takes; None where it leaves them free."""
    for layer in layers.values():
        shape = layer["config"].get("batch_shape")
        if isinstance(shape, list) and len(shape) == 4 and all(is_integer(n) and n > 0 for n in shape[1:3]):
            return shape[1], shape[2]
    return None
