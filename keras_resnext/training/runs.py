"""The runs in a folder, as their run.json tells of them. No framework is needed."""

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .run_folder import INTERRUPTED, RUN, RUNNING

UNKNOWN = "unknown"


@dataclass(frozen=True)
class RunSummary:
    """What one run is and how far it came.

    Attributes:
        folder: of the run.
        model, recipe: as they were asked for; a run that Python started has no name of either.
        epochs, planned: done, and in all.
        metric, best, best_epoch: the highest score, a share of 1, what it is of, and the epoch that reached it; None
            before the first epoch's end.
        seconds_per_epoch: the mean; None before the first epoch's end.
        started, ended: ISO 8601 with the difference from UTC; None where run.json does not say.
        state: "running", "finished", "stopped early", "interrupted" or "failed".
    """

    folder: Path
    model: str
    recipe: str
    epochs: int
    planned: int
    metric: str | None
    best: float | None
    best_epoch: int | None
    seconds_per_epoch: float | None
    started: str | None
    ended: str | None
    state: str


def find_runs(folder: str | os.PathLike[str]) -> tuple[list[RunSummary], dict[Path, str]]:
    """All runs in a folder and below it, in the order in which they began.

    Args:
        folder: which may be that of a run itself.

    Returns:
        (the runs, {run.json that cannot be read: why}).

    Raises:
        FileNotFoundError: no such folder.
        NotADirectoryError: it is a file.
    """
    root = Path(folder)
    if not root.exists():
        raise FileNotFoundError(f"folder={str(folder)!r}: there is no such folder")
    if not root.is_dir():
        raise NotADirectoryError(f"folder={str(folder)!r} is a file, not a folder")
    runs: list[RunSummary] = []
    broken: dict[Path, str] = {}
    for path in _records(root):
        try:
            runs.append(summarise(path.parent, json.loads(path.read_text(encoding="utf-8"))))
        except OSError as error:
            broken[path] = error.strerror or str(error)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            broken[path] = "it is not what training writes"
    return sorted(runs, key=lambda run: (run.started or "", str(run.folder))), broken


def _records(root: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if RUN in names:
            folders.clear()  # what a run holds is no run
            yield Path(place, RUN)


def summarise(folder: Path, facts: Mapping[str, Any]) -> RunSummary:
    """What run.json, as JSON has it, says of the run in `folder`.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is not what training writes.
    """
    found: Mapping[str, Any] = facts.get("results") or {}
    epochs = int(found.get("epochs", 0))
    return RunSummary(
        folder=folder,
        model=str(facts["arguments"].get("model", UNKNOWN)),
        recipe=str(facts["command"].get("recipe", UNKNOWN)),
        epochs=epochs,
        planned=int(facts["recipe"]["epochs"]),
        metric=str(found["metric"]) if epochs else None,
        best=float(found["best"]) if epochs else None,
        best_epoch=int(found["best_epoch"]) if epochs else None,
        seconds_per_epoch=float(found["seconds"]) / epochs if epochs else None,
        started=_text(facts.get("started")),
        ended=_text(facts.get("ended")),
        state=_state(facts),
    )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _state(facts: Mapping[str, Any]) -> str:
    """A run whose process was killed had no time to say so."""
    state, process = str(facts.get("state", INTERRUPTED)), facts.get("process") or {}
    if state != RUNNING or process.get("host") != socket.gethostname():
        return state
    return RUNNING if _is_alive(int(process["id"])) else INTERRUPTED


def _is_alive(process: int) -> bool:
    with suppress(PermissionError):  # of another user
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
    return True
