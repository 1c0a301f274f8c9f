"""What run.json says of a run: what repeats it, when it ran, and what came out."""

import hashlib
import json
import os
import platform
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..data import Listing
from . import distribution
from .continuation import check_same, continued, is_lengthened
from .recipe import Recipe
from .run_folder import CHECKPOINT, FAILED, FINISHED, INTERRUPTED, RUN, RUNNING, STOPPED_EARLY, write
from .state import SavedState
from .step import compiles_by_xla
from .train_options import RunOptions


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
        "lengthened": [],
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


def find_checkpoint(
    folder: Path, run: dict[str, Any], recipe: Recipe, steps_per_epoch: int
) -> tuple[dict[str, Any], SavedState | None, Recipe]:
    """What run.json says, the state to go on from, and the recipe to go on by; ({}, None, recipe) for a new run.

    Adds to `run` what the run brings along: the weights that it began with, and whether it was lengthened.

    Raises:
        ValueError: a run with other arguments than `run` (`check_same`), or what is saved cannot be read.
    """
    if not (folder / CHECKPOINT).exists():
        return {}, None, recipe
    try:
        before = json.loads((folder / RUN).read_text(encoding="utf-8"))
        if not isinstance(before, dict) or not isinstance(before.get("versions", {}), dict):
            raise ValueError("of another form")
    except (OSError, ValueError, RecursionError):
        raise ValueError(f"output={str(folder)!r} has a checkpoint but no readable {RUN}; choose another") from None
    check_same(str(folder), before, run)
    saved, lengthened = SavedState(folder / CHECKPOINT), is_lengthened(before, run)
    epochs = before["recipe"]["epochs"] if lengthened else recipe.epochs
    saved.check_progress(steps_per_epoch, epochs)
    run["weights"], run["lengthened"] = before.get("weights"), [*recall(before, "lengthened", list)]
    if lengthened:
        step = saved.state["step"]
        recipe = continued(recipe, before["recipe"]["head_epochs"], step, steps_per_epoch)
        run["recipe"] = json.loads(json.dumps(asdict(recipe)))
        run["lengthened"] += [{"step": step, "from": epochs, "to": recipe.epochs}]
    return before, saved, recipe


def recall(before: Mapping[str, Any], name: str, kind: type) -> Any:
    """What run.json said before of something that no run depends on; empty where it says nothing of that type."""
    found = before.get(name)
    return found if isinstance(found, kind) else kind()


def find_changes(before: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What may be another in a run that is resumed, but that its results depend on: name to (before, now)."""
    old, new = ({"device": facts.get("device"), **facts.get("versions", {})} for facts in (before, run))
    return {name: (old.get(name), value) for name, value in new.items() if old.get(name) != value}


class RunRecord:
    """run.json of a run in progress: written when it begins, after every epoch and when it ends.

    Args:
        folder: of the run.
        facts: of `describe_run`.
        before: what run.json said before, where a run goes on.
        finished: whether nothing is left to train; the run then ended when it ended.
    """

    def __init__(
        self, folder: Path, facts: Mapping[str, Any], before: Mapping[str, Any], finished: bool = False
    ) -> None:
        self.path, self.ended = folder / RUN, before.get("ended") if finished else None
        kept = {"started": before.get("started") or _now(), "results": recall(before, "results", dict)}
        self.facts: dict[str, Any] = {**facts, **kept}
        self.change(state=RUNNING, ended=None, process={"host": socket.gethostname(), "id": os.getpid()})

    def change(self, **facts: Any) -> None:
        """Notes what is another now, and writes."""
        self.facts |= facts
        write(self.path, json.dumps(self.facts, indent=2) + "\n")

    def note_results(self, history: Sequence[Mapping[str, float]], measure: str, best: float, best_epoch: int) -> None:
        """What came out so far; `history` has one row an epoch, at least one, and `measure` chooses the best."""
        last = history[-1]
        self.change(
            results={
                "metric": f"val_{measure}" if f"val_{measure}" in last else measure,
                "best": best,
                "best_epoch": best_epoch,
                "epochs": len(history),
                "seconds": round(sum(row["seconds"] for row in history), 3),
                "last": dict(last),
            }
        )

    @contextmanager
    def ending(self, stopped_early: Callable[[], bool]) -> Iterator[None]:
        """Notes how the run ends that goes on inside; `stopped_early` is asked where nothing stops it."""
        try:
            yield
        except BaseException as error:
            asked = isinstance(error, (SystemExit, KeyboardInterrupt))
            with suppress(OSError):  # such as a full disk, which the error may be about
                self.change(state=INTERRUPTED if asked else FAILED, ended=_now())
            raise
        self.change(state=STOPPED_EARLY if stopped_early() else FINISHED, ended=self.ended or _now())


def _now() -> str:
    """The local time in ISO 8601, to the second, with its difference from UTC."""
    return datetime.now().astimezone().isoformat(timespec="seconds")
