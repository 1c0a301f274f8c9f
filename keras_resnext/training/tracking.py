"""A run's settings and figures in MLflow or Weights & Biases, as their own environment variables say where."""

import importlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .run_folder import FINISHED, INTERRUPTED
from .train_options import TRACKERS

PROJECT = "keras_resnext"  # where WANDB_PROJECT names no other
LONGEST = 500  # characters of a setting: more than MLflow's stores take


def import_tracker(name: str) -> Any:
    """The package of a tracker.

    Raises:
        ImportError: it is not installed.
        ValueError: no such tracker.
    """
    if name not in TRACKERS:
        raise ValueError(f"track={name!r} must be one of {', '.join(TRACKERS)}")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"track={name!r} needs its package ({error}): pip install 'keras_resnext[{name}]'") from error


class Tracker:
    """One run in a tracker.

    Args:
        name: of `TRACKERS`.
        folder: of the run, whose name the tracker shows.
        facts: what run.json says.
        identity: of the run there, where it goes on; None for a new one.

    Attributes:
        identity: what the tracker calls the run.
    """

    def __init__(self, name: str, folder: Path, facts: Mapping[str, Any], identity: str | None) -> None:
        package = import_tracker(name)
        settings = dict(_flat({part: facts[part] for part in ("arguments", "recipe", "seed", "data", "versions")}))
        self.log: Callable[[Mapping[str, float], int], Any]
        self.finish: Callable[[str], Any]
        if name == "mlflow":
            run = package.start_run(run_id=identity, run_name=folder.resolve().name)
            if identity is None:  # settings of a run cannot be changed there
                package.log_params({key: str(value)[:LONGEST] for key, value in settings.items()})
            self.identity = str(run.info.run_id)
            self.log = lambda row, epoch: package.log_metrics(dict(row), step=epoch)
            ends = {FINISHED: "FINISHED", INTERRUPTED: "KILLED"}
            self.finish = lambda state: package.end_run(ends.get(state, "FAILED"))
        else:
            project = os.environ.get("WANDB_PROJECT", PROJECT)
            options = {"id": identity, "resume": "allow" if identity else None, "name": folder.resolve().name}
            run = package.init(project=project, config=settings, dir=str(folder), **options)
            self.identity = str(run.id)
            self.log = lambda row, epoch: run.log(dict(row), step=epoch)
            self.finish = lambda state: run.finish(exit_code=0 if state == FINISHED else 1)
        self.name = name

    def add_row(self, row: Mapping[str, float]) -> None:
        """The figures of an epoch, a row of `history.csv`. What the tracker refuses is a warning: training goes on."""
        self._try(lambda: self.log({name: value for name, value in row.items() if name != "epoch"}, int(row["epoch"])))

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Tells the tracker how the run ends that goes on inside."""
        try:
            yield
        except BaseException as error:
            asked = isinstance(error, (SystemExit, KeyboardInterrupt))
            self._try(lambda: self.finish(INTERRUPTED if asked else "failed"))
            raise
        self._try(lambda: self.finish(FINISHED))

    def _try(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:  # trackers raise anything, such as where a network is lost
            reason = " ".join(str(error).split()) or type(error).__name__
            warnings.warn(f"{self.name} did not take the figures: {reason}", stacklevel=2)


def _flat(value: Any, *names: str) -> Iterator[tuple[str, Any]]:
    """("outer.inner", value) of everything in nested dictionaries."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, *names, name)
    else:
        yield ".".join(names), value
