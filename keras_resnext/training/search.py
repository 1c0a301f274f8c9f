"""Learning rate, weight decay and strength of the image variations, searched by short runs (optuna)."""

import gc
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras
from filelock import FileLock, Timeout
from rich.console import Console
from rich.table import Table

from ..data import Listing
from ..data.augmentation import Augmentation
from ..figures import new_figure, save_figure
from .distillation import Distillation
from .recipe import Recipe
from .run import train
from .run_folder import write
from .state import TrainingDivergedError
from .tasks import TASKS
from .train_options import RunOptions

INSTALL = "pip install 'keras_resnext[search]'"
FOLDER, STORE, TABLE, PLOT = "search", "study.db", "search.csv", "search.png"
SHARE, LEAST = 4, 3  # a trial has a quarter of the epochs, at least three
RATES, DECAYS = (1 / 30, 10.0), (1e-6, 1e-2)  # the rate as a multiple of the recipe's
FIRST, WARM = 4, 1  # trials that run to their end whatever happens; epochs before a later one may be stopped
COLUMNS = ("trial", "state", "learning_rate", "weight_decay", "strength", "epochs", "score")


class _StoppedError(BaseException):
    """A trial that is worse than the median: no failure that `train` would have to explain."""


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        changes: fields of the recipe and of its augmentation, as `find_recipe` takes them, of the best trial.
        score: its best validation, by `measure`.
        measure: "top1", or "map" for several labels an image.
        rows: one a trial, with COLUMNS.
    """

    changes: Mapping[str, Any]
    score: float
    measure: str
    rows: Sequence[Mapping[str, Any]]


def check_search(trials: int, validates: bool, processes: int = 1) -> None:
    """Raises ValueError where nothing validates or several processes train, and ImportError without optuna."""
    if not validates:
        raise ValueError(f"search={trials!r} needs validation images, by which trials are compared")
    if processes > 1:
        raise ValueError(f"search={trials!r} runs in one process, not in {processes}")
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ImportError(f"search={trials!r} needs optuna ({error}): {INSTALL}") from error


def strengthen(augmentation: Augmentation, strength: float) -> dict[str, Any]:
    """The fields that a strength from 0 (none) to 1 changes: crop, colours, erasing and mixup; flips stay as they are.

    At 1 crops, erasing and mixup are torchvision's for training from scratch at their strongest.
    """
    fields: dict[str, Any] = {
        "color_jitter": (*[round(0.4 * strength, 3)] * 3, 0.0),
        "random_erasing": round(0.25 * strength, 3),
        "mixup": round(0.2 * strength, 3),
    }
    if augmentation.crop_padding is None:
        fields["crop_scale"] = (round(1 - 0.92 * strength, 3), 1.0)
    return fields


def search(
    make: Callable[[Recipe], keras.Model],
    training: Listing,
    validation: Listing,
    recipe: Recipe,
    folder: Path,
    trials: int,
    options: RunOptions,
    console: Console,
    distillation: Distillation | None = None,
) -> SearchResult:
    """Trains shortly until `trials` of them are finished or stopped, and writes a table and a plot.

    Killed at any moment, the same call goes on: finished trials are in `folder`/search/study.db, and the one that was
    running goes on from its checkpoint. A trial whose best epoch so far is below the median is stopped.

    Args:
        make: gives a new model for a recipe; each trial gets its own.
        training, validation, recipe: of the training that is planned.
        folder: for search/, search.csv and search.png.
        trials: how many, those of earlier calls included.
        options: of each run.
        console: for progress and the table.
        distillation: the teacher, where there is one.

    Raises:
        ImportError: optuna is not installed.
        ValueError: `folder` holds a search with other arguments.
        RuntimeError: another process is searching in `folder`.
    """
    check_search(trials, validation is not None)
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(place / "search.lock", timeout=0):
            study = _open_study(place, _describe(training, validation, recipe, options, distillation))
            while len(_finished(study)) < trials:
                _run_trial(study, make, (training, validation), recipe, place, options, console, distillation)
                rows = [_row(trial) for trial in _finished(study)]
                write(folder / TABLE, _as_csv(rows))
    except Timeout:
        raise RuntimeError(f"output={str(folder)!r}: another process is searching here") from None
    rows = [_row(trial) for trial in _finished(study)]
    best = max(rows, key=lambda row: row["score"])
    write(folder / TABLE, _as_csv(rows))
    draw_search(folder / PLOT, rows)
    table = Table(*COLUMNS)
    for row in sorted(rows, key=lambda row: -row["score"]):
        table.add_row(*(f"{row[name]:.4g}" if isinstance(row[name], float) else str(row[name]) for name in COLUMNS))
    console.print(table)
    return SearchResult(_changes(recipe, best), best["score"], TASKS[training.kind].score, rows)


def _describe(
    training: Listing, validation: Listing, recipe: Recipe, options: RunOptions, distillation: Distillation | None
) -> str:
    """What the trials of a study have in common."""
    taught = distillation.describe() if distillation else None
    return repr((asdict(recipe), training.fingerprint(), validation.fingerprint(), options.seed, taught))


def _open_study(place: Path, facts: str) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{place.resolve() / STORE}",
        study_name=FOLDER,
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(FIRST, WARM),
        load_if_exists=True,
    )
    if study.user_attrs.setdefault("facts", facts) != facts:
        raise ValueError(f"output={str(place.parent)!r} holds a search with other arguments; choose another")
    study.set_user_attr("facts", facts)
    # Nobody else is searching here: a trial that is running was killed.
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        if set(trial.params) == {"learning_rate", "weight_decay", "strength"}:
            study.enqueue_trial(trial.params, user_attrs={"run": trial.user_attrs.get("run", trial.number)})
    return study


def _finished(study: Any) -> list[Any]:
    from optuna.trial import TrialState

    return list(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def _run_trial(
    study: Any,
    make: Callable[[Recipe], keras.Model],
    listings: tuple[Listing, Listing],
    recipe: Recipe,
    place: Path,
    options: RunOptions,
    console: Console,
    distillation: Distillation | None,
) -> None:
    import optuna

    number = len(_finished(study))
    # One sampler a trial: a search that was killed draws what it would have drawn.
    study.sampler = optuna.samplers.TPESampler(seed=options.seed + number, n_startup_trials=FIRST)
    trial = study.ask()
    rates = tuple(recipe.learning_rate * bound for bound in RATES)
    drawn = {
        "learning_rate": trial.suggest_float("learning_rate", *rates, log=True),
        "weight_decay": trial.suggest_float("weight_decay", *DECAYS, log=True),
        "strength": trial.suggest_float("strength", 0.0, 1.0),
    }
    run = place / f"trial-{trial.user_attrs.get('run', trial.number)}"
    trial.set_user_attr("run", int(run.name.removeprefix("trial-")))
    changes = _changes(recipe, drawn)
    kept = {name: value for name, value in changes.items() if name in Recipe.__dataclass_fields__}
    varied = {name: value for name, value in changes.items() if name not in kept}
    short = recipe.shortened(min(recipe.epochs, max(LEAST, recipe.epochs // SHARE)))
    short = replace(short, augmentation=replace(short.augmentation, **varied), patience=None, **kept)
    told, measure = set[int](), f"val_{TASKS[listings[0].kind].score}"

    def watch(history: Sequence[Mapping[str, float]]) -> None:
        for row in history:
            if (epoch := int(row["epoch"])) not in told:
                trial.report(row[measure], epoch)
                told.add(epoch)
        trial.set_user_attr("epochs", len(history))
        trial.set_user_attr("score", max(row[measure] for row in history))
        if len(history) < short.epochs and trial.should_prune():
            raise _StoppedError

    console.print(f"Trial {number + 1}: {_in_words(drawn)}", markup=False, soft_wrap=True)
    state, score = optuna.trial.TrialState.COMPLETE, 0.0
    try:
        result = train(
            make(short), *listings, recipe=short, output=run, console=Console(quiet=True), distillation=distillation,
            **vars(replace(options, after_epoch=watch, tensorboard=False)),
        )  # fmt: skip
        watch(result.history)
        score = result.score
    except _StoppedError:
        state = optuna.trial.TrialState.PRUNED
    except TrainingDivergedError:
        trial.set_user_attr("epochs", 0)  # as bad as can be, which the sampler learns from
        trial.set_user_attr("score", 0.0)
    study.tell(trial, None if state is optuna.trial.TrialState.PRUNED else score, state=state)
    shutil.rmtree(run, ignore_errors=True)
    gc.collect()


def _changes(recipe: Recipe, drawn: Mapping[str, float]) -> dict[str, Any]:
    rate, decay = (float(f"{drawn[name]:.3g}") for name in ("learning_rate", "weight_decay"))
    return {"learning_rate": rate, "weight_decay": decay, **strengthen(recipe.augmentation, drawn["strength"])}


def _in_words(drawn: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in drawn.items())


def _row(trial: Any) -> dict[str, Any]:
    facts = {"trial": trial.user_attrs["run"], "state": {"PRUNED": "stopped"}.get(trial.state.name, "finished")}
    return {**facts, **trial.params, "epochs": trial.user_attrs["epochs"], "score": float(trial.user_attrs["score"])}


def _as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    return "\n".join([",".join(COLUMNS), *(",".join(str(row[name]) for name in COLUMNS) for row in rows)]) + "\n"


def draw_search(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a PNG of the score by each value that was searched; stopped trials are hollow, the best one is orange."""
    figure = new_figure((10.5, 3.6))
    best = max(rows, key=lambda row: row["score"])
    for axis, name in zip(
        figure.subplots(1, 3, sharey=True), ("learning_rate", "weight_decay", "strength"), strict=True
    ):
        for row in rows:
            colour = "#e65100" if row is best else "#1565c0"
            full = colour if row["state"] == "finished" else "none"
            axis.plot(row[name], row["score"], "o", color=colour, markerfacecolor=full)
        axis.set(xlabel=name.replace("_", " "), xscale="linear" if name == "strength" else "log")
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("best score of the trial")
    save_figure(figure, path)
