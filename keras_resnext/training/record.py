"""What run.json says of a run, and whether one that is resumed is still the same."""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..data import Listing
from . import distribution
from .recipes import Recipe
from .session import CHECKPOINT, RUN
from .state import SavedState
from .step import compiles_by_xla
from .train_options import RunOptions

# What a run is resumed by the same of.
COMPARED = ("arguments", "recipe", "seed", "data", "backend", "policy", "validation_size")


def describe_run(
    model: keras.Model,
    training: Listing,
    validation: Listing | None,
    recipe: Recipe,
    options: RunOptions,
) -> dict[str, Any]:
    """What repeats a run, as JSON has it; in `options` the size of validation images is decided."""
    packages = ("keras_resnext", "keras", keras.backend.backend(), "numpy", "pillow")
    versions = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    data = {"training": training.fingerprint(), "images": len(training), "classes": len(training.classes)}
    if validation is not None:
        data |= {"validation": validation.fingerprint(), "validation_images": len(validation)}
    run = {
        "command": dict(options.command),
        "arguments": dict(options.arguments),
        "recipe": asdict(recipe),
        "found": dict(options.found),
        "seed": options.seed,
        "data": data,
        "validation_size": None if validation is None else options.validation_size,
        "backend": keras.backend.backend(),
        "device": distribution.describe_devices(),
        "devices": distribution.devices(),
        "policy": _policy(model),
        "xla": compiles_by_xla(model),
        "weights": digest(model),
        "versions": {"python": platform.python_version(), **versions},
    }
    return json.loads(json.dumps(run))  # tuples become lists, as they are when read again


def _policy(model: keras.Model) -> str:
    """What the layers compute in, such as "mixed_bfloat16"; the head may compute in float32 for all that."""
    layers = [layer for layer in model._flatten_layers(include_self=False) if layer.weights]
    return str(layers[0].dtype_policy.name)


def digest(model: keras.Model) -> str:
    """SHA-256 in hex of the weights and statistics that training starts with."""
    digest = hashlib.sha256()
    with distribution.apart():
        for weight in model.weights:
            digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(weight)).tobytes())
    return digest.hexdigest()


def find_checkpoint(folder: Path, run: dict[str, Any]) -> tuple[dict[str, Any], SavedState | None]:
    """What run.json says and the state to go on from; ({}, None) for a new run."""
    if not (folder / CHECKPOINT).exists():
        return {}, None
    try:
        before = json.loads((folder / RUN).read_text(encoding="utf-8"))
        if not isinstance(before, dict) or not isinstance(before.get("versions", {}), dict):
            raise ValueError("of another form")
    except (OSError, ValueError, RecursionError):
        raise ValueError(f"output={str(folder)!r} has a checkpoint but no readable {RUN}; choose another") from None
    changed = [
        f"{section}.{name}" if name else section
        for section in COMPARED
        for name in _differences(before.get(section), run[section])
    ]
    if changed:
        raise ValueError(
            f"output={str(folder)!r} holds a run with other arguments: {', '.join(changed)} differ; "
            "give the same ones to resume it, or another output"
        )
    run["weights"] = before.get("weights")  # those that the run began with
    return before, SavedState(folder / CHECKPOINT)


def find_changes(before: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What may be another in a run that is resumed, but that its results depend on: name to (before, now)."""
    old, new = ({"device": facts.get("device"), **facts.get("versions", {})} for facts in (before, run))
    return {name: (old.get(name), value) for name, value in new.items() if old.get(name) != value}


def _differences(before: Any, now: Any) -> list[str]:
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [""]
    return [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
