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

from ..data import CachedReader, Groups, Listing, Plan, ValidationBatches, as_kind, check_labels, training_batches
from ..data.batches import check_colours
from ..loading import BEST
from ..network.input_preprocessing import get_preprocessing
from ..runtimes.keras_model import check_classifier
from ..terminal import PlainConsole, printable
from . import distribution
from .class_weights import describe_weights, weights_of
from .continuation import describe_lengthening
from .distillation import Distillation
from .failures import explain_failure
from .mistakes import draw_mistakes, find_mistakes
from .recipe import Recipe
from .record import RunRecord, describe_run, find_changes, find_checkpoint, recall
from .run_folder import BOARD, LABELS, LAST, MISTAKES, write
from .session import Session
from .state import TrainingDivergedError
from .step import check_head, kind_of
from .tasks import TASKS
from .tensorboard import Board
from .tracking import Tracker, import_tracker
from .train_options import RunOptions

BACKENDS = ("tensorflow", "jax")


@dataclass(frozen=True)
class TrainingResult:
    """What `train` made.

    Attributes:
        best, last: .keras files of the epoch with the highest score and of the last one.
        score: the highest value of `measure` on validation images (on training images, where there are none).
        epoch: the one, from 1, that `best` is of.
        history: one dictionary an epoch: loss, top1, top5, val_loss, val_top1, val_top5, learning_rate, seconds; of
            several labels map, accuracy and f1 in place of top1 and top5.
        measure: by which the best epoch is chosen: "top1", of several labels "map", mean average precision.
    """

    best: Path
    last: Path
    score: float
    epoch: int
    history: tuple[Mapping[str, float], ...]
    measure: str = "top1"

    @property
    def top1(self) -> float:
        """The highest share of validation images that is right, where each has one class.

        Raises:
            AttributeError: they have several labels.
        """
        if self.measure != "top1":
            raise AttributeError(f"top1: the images have several labels; score is {self.measure}")
        return self.score


def train(
    model: keras.Model,
    training: Listing,
    validation: Listing | None = None,
    *,
    recipe: Recipe,
    output: str | os.PathLike[str],
    console: Console | None = None,
    distillation: Distillation | None = None,
    **options: Any,
) -> TrainingResult:
    """Trains a classifier, or goes on where an interrupted run stopped.

    Writes into `output`: best.keras and last.keras (after every epoch), labels.txt, history.csv, curves.png, run.json,
    and checkpoint.npz, from which the same call goes on, in the middle of an epoch too. On a CPU the result is then
    bit-equal to that of a run without a stop.

    Args:
        model: classifier that ends in softmax or gives logits, such as `ResNeXt50(classes=…)`; for several labels an
            image one that ends in sigmoid, `ResNeXt50(classes=…, classifier_activation="sigmoid")`.
        training, validation: images with as many classes as the model, of kind "single" or "multi"; without
            validation, best is by training.
        recipe: of `recipes.find_recipe`.
        output: folder.
        console: where to print; default standard output.
        distillation: a teacher, from which the model learns beside the labels.
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
    if distillation:
        told = replace(told, arguments={**told.arguments, "distillation": distillation.describe()})
    console = console or PlainConsole(highlight=False)
    folder = Path(output)
    classes = check_classifier(model, rgb=False)
    training, kind = prepare_labels(training, model)
    validation = None if validation is None else prepare_labels(validation, model, "validation", kind)[0]
    recipe = replace(recipe, loss=TASKS[kind].choose_loss(recipe.loss))
    check_head(model, recipe, kind)
    if classes != len(training.classes):
        raise ValueError(f"model={model.name!r} has {classes} classes, the images have {len(training.classes)}")
    if validation is not None and validation.classes != training.classes:
        raise ValueError("validation must have the same classes as training")
    shard = distribution.shard()
    groups = Groups.of(training) if recipe.balanced_sampling else None
    plan = Plan(len(training), recipe.batch_size, told.seed, recipe.augmentation.repeats, shard, groups)
    if recipe.class_weights is not None:
        recipe = replace(recipe, class_weights=weights_of(recipe.class_weights, training))
    if recipe.progressive_size is not None and (fixed := model.inputs[0].shape[1]) is not None:
        raise ValueError(f"progressive_size={recipe.progressive_size!r} needs a model of images of any size; "
                         f"model={model.name!r} takes {fixed} pixels (input_shape=(None, None, 3))")  # fmt: skip
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
    console.print(f"Learning {TASKS[kind].says}; loss {recipe.loss}, best by {TASKS[kind].score}.", soft_wrap=True)
    if recipe.class_weights is not None:
        shown = describe_weights(recipe.class_weights, training.classes)  # type: ignore[arg-type]
        console.print(f"Weights in the loss: {printable(shown)}.", markup=False, soft_wrap=True)
    record = None if shard[0] else RunRecord(folder, run, before, session.is_finished())
    if record:
        session.observers += [
            lambda _: record.note_results(session.history, session.task.score, session.best, session.best_epoch)
        ]
    if board:
        session.observers += [board.add_row]
    tracker = None
    if told.track and record and not session.is_finished():
        known = recall(before, "tracking", dict)
        tracker = Tracker(told.track, folder, record.facts, known.get(told.track))
        record.change(tracking={**known, told.track: tracker.identity})
        session.observers += [tracker.add_row]
    if after_epoch := told.after_epoch:
        session.observers += [lambda _: after_epoch(session.history)]
    how = "compiled" if run["xla"] else "not compiled"
    console.print(f"{run['device']}, {run['policy']}, step {how} by XLA.", soft_wrap=True)
    held_out = None
    if validation is not None:
        held_out = ValidationBatches(
            validation, preprocessing, size=size, batch_size=recipe.batch_size, shard=shard, workers=told.workers
        )

    read = CachedReader(training).read if told.cache else None

    def batches(steps: range) -> Any:
        size = recipe.image_size(steps.start // plan.steps_per_epoch)
        return distribution.prefetched(
            training_batches(
                training,
                plan,
                replace(recipe.augmentation, size=size),
                preprocessing,
                steps,
                engine=told.engine,
                read=read,
                workers=told.workers,
            )
        )

    try:
        with (
            distillation.applied(model, training.classes) if distillation else nullcontext(),
            tracker.ending() if tracker else nullcontext(),
            record.ending(session.has_stopped) if record else nullcontext(),
        ):
            session.run(batches, held_out)
        if board and held_out is not None and kind == "single" and len(session.history) > trained_before:
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
    return TrainingResult(
        folder / BEST, folder / LAST, session.best, session.best_epoch, tuple(session.history), session.task.score
    )


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


def prepare_labels(
    listing: Listing, model: keras.Model, name: str = "training", kind: str | None = None
) -> tuple[Listing, str]:
    """Labels of the kind that training learns, and that kind: "multi" for a model that ends in sigmoid.

    A sigmoid with one output tells two classes apart: it learns the second.

    Raises:
        ValueError: labels that are not what the listing says, or of a kind that cannot be learned.
    """
    check_labels(listing, name)
    kind = kind or kind_of(model)
    if kind == "multi" and listing.kind == "single" and check_classifier(model) == 1 and len(listing.classes) == 2:
        second = (listing.labels == 1)[:, None].astype("uint8")
        listing = replace(listing, labels=second, classes=listing.classes[1:], kind="multi")
    other = "; for several labels it must end in sigmoid" if kind == "single" and listing.kind == "multi" else ""
    return as_kind(listing, kind, f"model={model.name!r} learns {TASKS[kind].says}{other}"), kind
