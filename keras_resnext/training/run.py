"""Training from images on disk: any recipe, interrupted at any moment and resumed with nothing lost."""

import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
from PIL import Image
from rich.console import Console

from ..data import CachedReader, Listing, Plan, ValidationBatches, as_single, training_batches
from ..data.batches import check_colours
from ..loading import BEST
from ..network.input_preprocessing import get_preprocessing
from ..runtimes.keras_model import check_classifier
from ..terminal import PlainConsole
from . import distribution
from .continuation import describe_lengthening
from .failures import explain_failure
from .mistakes import draw_mistakes, find_mistakes
from .recipes import Recipe
from .record import RunRecord, describe_run, find_changes, find_checkpoint, recall
from .run_folder import BOARD, LABELS, LAST, MISTAKES, write
from .session import Session
from .state import TrainingDivergedError
from .step import gives_logits
from .tensorboard import Board
from .tracking import Tracker, import_tracker
from .train_options import ONE_CLASS, RunOptions

BACKENDS = ("tensorflow", "jax")


@dataclass(frozen=True)
class TrainingResult:
    """What `train` made.

    Attributes:
        best, last: .keras files of the epoch with the highest top-1 and of the last one.
        top1: the highest share of validation images (of training images, where there are none) that is right.
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
    console: Console | None = None,
    **options: Any,
) -> TrainingResult:
    """Trains a classifier, or goes on where an interrupted run stopped.

    Writes into `output`: best.keras and last.keras (after every epoch), labels.txt, history.csv, curves.png, run.json,
    and checkpoint.npz, from which the same call goes on, in the middle of an epoch too. On a CPU the result is then
    bit-equal to that of a run without a stop.

    Args:
        model: classifier that ends in softmax or gives logits, such as `ResNeXt50(classes=…)`.
        training, validation: images with as many classes as the model; without validation, best is by training.
        recipe: of `recipes.find_recipe`.
        output: folder.
        console: where to print; default standard output.
        options: fields of `RunOptions`, such as seed, validation_size, save_steps, cache, workers and tensorboard.

    Raises:
        ImportError: `tensorboard` or `track`, and what they need is not installed.
        TypeError: an option that `RunOptions` does not have.
        ValueError: model and images that do not fit, or a checkpoint of a run with other arguments.
        RuntimeError: another backend than TensorFlow or JAX, an image that can be read no more, a batch too large for
            the device's memory; the loss or a weight became NaN or infinite, or another process was lost; the last
            checkpoint is kept.
        OSError: the disk refuses; the last checkpoint is kept.
        SystemExit: SIGTERM or Ctrl-C, after the step was finished and saved.
    """
    check_backend()
    told = RunOptions.of(options)
    console = console or PlainConsole(highlight=False)
    folder = Path(output)
    classes = check_classifier(model, rgb=False)
    gives_logits(model)  # or probabilities; anything else is an error
    training = as_single(training, ONE_CLASS)
    validation = None if validation is None else as_single(validation, ONE_CLASS)
    if classes != len(training.classes):
        raise ValueError(f"model={model.name!r} has {classes} classes, the images have {len(training.classes)}")
    if validation is not None and validation.classes != training.classes:
        raise ValueError("validation must have the same classes as training")
    shard = distribution.shard()
    plan = Plan(len(training), recipe.batch_size, told.seed, recipe.augmentation.repeats, shard)
    if recipe.batch_size % (devices := distribution.devices()):
        raise ValueError(f"batch_size={recipe.batch_size!r} must be a multiple of the {devices} devices")
    preprocessing = get_preprocessing(model)
    check_colours(recipe.augmentation, preprocessing)
    size = told.validation_size or model.inputs[0].shape[1] or preprocessing.size
    run = describe_run(model, training, validation, recipe, replace(told, validation_size=size))
    before, saved, recipe = find_checkpoint(folder, run, recipe, plan.steps_per_epoch)
    if told.track:
        import_tracker(told.track)  # before anything is written
    board = Board(folder / BOARD) if told.tensorboard and not shard[0] else None
    if shard[0]:  # the first process speaks and writes for all
        console = Console(quiet=True)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / LABELS, "".join(f"{name}\n" for name in training.classes))

    session, trained_before = Session(model, plan, recipe, folder, console, told), 0
    if saved:
        session.resume(saved)
        trained_before = len(session.history)
        for name, (old, new) in find_changes(before, run).items():
            console.print(f"Since the run began: {name} {old} is now {new}.", markup=False, soft_wrap=True)
        if len(run["lengthened"]) > len(recall(before, "lengthened", list)):
            console.print(describe_lengthening(run["lengthened"][-1], plan.steps_per_epoch), soft_wrap=True)
        console.print(session.describe_resumption(), soft_wrap=True)
    record = None if shard[0] else RunRecord(folder, run, before, session.is_finished())
    if record:
        session.observers += [lambda _: record.note_results(session.history, session.best, session.best_epoch)]
    if board:
        session.observers += [board.add_row]
    tracker = None
    if told.track and record and not session.is_finished():
        known = recall(before, "tracking", dict)
        tracker = Tracker(told.track, folder, record.facts, known.get(told.track))
        record.change(tracking={**known, told.track: tracker.identity})
        session.observers += [tracker.add_row]
    how = "compiled" if run["xla"] else "not compiled"
    console.print(f"{run['device']}, {run['policy']}, step {how} by XLA.", soft_wrap=True)
    held_out = None
    if validation is not None:
        held_out = ValidationBatches(
            validation, preprocessing, size=size, batch_size=recipe.batch_size, shard=shard, workers=told.workers
        )

    read = CachedReader(training).read if told.cache else None

    def batches(steps: range) -> Any:
        return distribution.prefetched(
            training_batches(
                training,
                plan,
                recipe.augmentation,
                preprocessing,
                steps,
                engine=told.engine,
                read=read,
                workers=told.workers,
            )
        )

    try:
        with (
            tracker.ending() if tracker else nullcontext(),
            record.ending(session.has_stopped) if record else nullcontext(),
        ):
            session.run(batches, held_out)
        if board and held_out is not None and len(session.history) > trained_before:
            show_mistakes(session, held_out, board)
    except TrainingDivergedError:
        raise
    except Exception as error:
        if reason := explain_failure(error, session, training, validation):
            raise reason from error
        if shard[1] == 1 or isinstance(error, OSError):
            raise
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise distribution.ProcessLostError(
            f"process {shard[0]} of {shard[1]} lost the others ({first}); start all of them again to go on from the "
            "last checkpoint"
        ) from error
    return TrainingResult(folder / BEST, folder / LAST, session.best, session.best_epoch, tuple(session.history))


def show_mistakes(session: Session, held_out: ValidationBatches, board: Board) -> None:
    """Draws the worst mistakes of the last epoch's model for the folder and for TensorBoard."""
    with session.averaged():
        mistakes = find_mistakes(session.model, held_out)
    if mistakes:
        draw_mistakes(path := session.folder / MISTAKES, mistakes, held_out)
        with Image.open(path) as image:
            board.add_image("mistakes", path.read_bytes(), image.size, len(session.history))


def check_backend() -> None:
    """Raises RuntimeError unless Keras runs on a backend that training knows."""
    if (backend := keras.backend.backend()) not in BACKENDS:
        raise RuntimeError(f"training needs Keras on TensorFlow or JAX, not {backend} (set KERAS_BACKEND=jax)")
