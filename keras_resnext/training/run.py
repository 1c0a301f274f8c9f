"""Training from pictures on disk: any recipe, interrupted at any moment and resumed with nothing lost."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import keras
from rich.console import Console

from .. import distribution
from ..data import Listing, Plan, ValidationBatches, training_batches
from ..preprocessing import get_preprocessing
from .recipes import Recipe
from .session import BEST, BOARD, CHECKPOINT, LABELS, LAST, RUN, Session, write
from .state import SavedState, TrainingDivergedError
from .tensorboard import open_board


@dataclass(frozen=True)
class TrainingResult:
    """What `train` made.

    Attributes:
        best, last: .keras files of the epoch with the highest top-1 and of the last one.
        top1: the highest share of validation pictures (of training pictures, where there are none) that is right.
        epoch: the one, from 1, that `best` is of.
        history: one dictionary an epoch: loss, top1, top5, val_loss, val_top1, val_top5, learning_rate, seconds.
    """

    best: Path
    last: Path
    top1: float
    epoch: int
    history: tuple[Mapping[str, float], ...]


def train(
    model: keras.Model,
    training: Listing,
    validation: Listing | None = None,
    *,
    recipe: Recipe,
    output: str | os.PathLike[str],
    seed: int = 0,
    validation_size: int | None = None,
    save_steps: int | None = None,
    save_seconds: float = 600,
    engine: str = "auto",
    cache: bool = False,
    workers: int | None = None,
    tensorboard: bool = False,
    arguments: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> TrainingResult:
    """Trains a classifier, or goes on where an interrupted run stopped.

    Writes into `output`: best.keras and last.keras (after every epoch), labels.txt, history.csv, curves.png, run.json,
    and checkpoint.npz, from which the same call goes on, in the middle of an epoch too. On a CPU the result is then
    bit-equal to that of a run without a stop.

    Args:
        model: classifier with probabilities as outputs, such as `ResNeXt50(classes=…)`.
        training, validation: pictures with as many classes as the model; without validation, best is by training.
        recipe: of `recipes.find_recipe`.
        output: folder.
        seed: of the order and of every variation. The weights a model starts with are the caller's.
        validation_size: side of the validation pictures; default that of the model, else of its preprocessing.
        save_steps, save_seconds: how often checkpoint.npz is written inside an epoch.
        engine, cache, workers: of `data.training_batches`.
        tensorboard: also write the figures of each epoch for TensorBoard, into `output`/tensorboard.
        arguments: what else run.json remembers; a run is resumed by the same arguments alone.
        console: where to print; default standard output.

    Raises:
        ImportError: `tensorboard` and TensorBoard is not installed.
        ValueError: model and pictures that do not fit, or a checkpoint of a run with other arguments.
        RuntimeError: the loss or a weight became NaN or infinite, or another process was lost; the last checkpoint is kept.
        OSError: the disk refuses; the last checkpoint is kept.
        SystemExit: SIGTERM or Ctrl-C, after the step was finished and saved.
    """
    console = console or Console(highlight=False)
    folder = Path(output)
    classes = tuple(model.outputs[0].shape)[-1]
    if classes != len(training.classes):
        raise ValueError(f"model={model.name!r} has {classes} classes, the pictures have {len(training.classes)}")
    if validation is not None and validation.classes != training.classes:
        raise ValueError("validation must have the same classes as training")
    shard = distribution.shard()
    plan = Plan(len(training), recipe.batch_size, seed, recipe.augmentation.repeats, shard)
    if recipe.batch_size % (devices := distribution.devices()):
        raise ValueError(f"batch_size={recipe.batch_size!r} must be a multiple of the {devices} devices")
    run = _describe_run(training, validation, recipe, seed, arguments or {})
    saved = _find_checkpoint(folder, run)
    board = open_board(folder / BOARD) if tensorboard and not shard[0] else None
    if shard[0]:  # the first process speaks and writes for all
        console = Console(quiet=True)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / RUN, json.dumps(run, indent=2) + "\n")
        write(folder / LABELS, "".join(f"{name}\n" for name in training.classes))

    session = Session(model, plan, recipe, folder, console, save_steps, save_seconds, board)
    if saved:
        session.resume(saved)
        console.print(f"Resuming at epoch {session.step // plan.steps_per_epoch + 1}, step {session.step}.")
    preprocessing = get_preprocessing(model)
    held_out = None
    if validation is not None:
        size = validation_size or model.inputs[0].shape[1] or preprocessing.size
        held_out = ValidationBatches(
            validation, preprocessing, size=size, batch_size=recipe.batch_size, shard=shard, workers=workers
        )

    def batches(steps: range) -> Any:
        return training_batches(
            training, plan, recipe.augmentation, preprocessing, steps, engine=engine, cache=cache, workers=workers
        )

    try:
        session.run(batches, held_out)
    except (TrainingDivergedError, OSError):
        raise
    except Exception as error:
        if shard[1] == 1:
            raise
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise distribution.ProcessLostError(
            f"process {shard[0]} of {shard[1]} lost the others ({first}); start all of them again to go on from the "
            "last checkpoint"
        ) from error
    return TrainingResult(folder / BEST, folder / LAST, session.best, session.best_epoch, tuple(session.history))


def _describe_run(
    training: Listing, validation: Listing | None, recipe: Recipe, seed: int, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    packages = ("keras_resnext", "keras", keras.backend.backend(), "numpy", "pillow")
    versions = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    data = {"training": training.fingerprint(), "pictures": len(training), "classes": len(training.classes)}
    if validation is not None:
        data |= {"validation": validation.fingerprint(), "validation_pictures": len(validation)}
    run = {
        "arguments": dict(arguments),
        "recipe": asdict(recipe),
        "seed": seed,
        "data": data,
        "backend": keras.backend.backend(),
        "devices": distribution.devices(),
        "policy": keras.config.dtype_policy().name,
        "versions": {"python": platform.python_version(), **versions},
    }
    return json.loads(json.dumps(run))  # tuples become lists, as they are when read again


def _find_checkpoint(folder: Path, run: Mapping[str, Any]) -> SavedState | None:
    """The state to go on from; None for a new run."""
    if not (folder / CHECKPOINT).exists():
        return None
    try:
        before = json.loads((folder / RUN).read_text())
    except (OSError, ValueError):
        raise ValueError(f"output={str(folder)!r} has a checkpoint but no readable {RUN}; choose another") from None
    changed = [
        f"{section}.{name}" if name else section
        for section in ("arguments", "recipe", "seed", "data", "backend")
        for name in _differences(before.get(section), run[section])
    ]
    if changed:
        raise ValueError(
            f"output={str(folder)!r} holds a run with other arguments: {', '.join(changed)} differ; "
            "give the same ones to resume it, or another output"
        )
    return SavedState(folder / CHECKPOINT)


def _differences(before: Any, now: Any) -> list[str]:
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [""]
    return [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
