"""From the command line's words to what `training.train` takes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console

from ..architectures import find_architecture
from ..data import Listing, Plan, find_splits, leave_out_unreadable, read_listing, split_listing, training_batches
from ..distribution import has_gpu
from ..model import create
from ..plots import draw_batch, draw_schedule
from ..preprocessing import get_preprocessing, set_preprocessing
from ..published import Preprocessing
from .optimizers import Schedule
from .recipes import Recipe

HELD_OUT = 0.1


def read_pictures(
    data: Path, val: str | None, *, seed: int, strict: bool, limit: int | None, console: Console
) -> tuple[Listing, Listing | None]:
    """Training and validation pictures, looked through for unreadable ones.

    Args:
        data: what `read_listing` takes, or a folder with train and val.
        val: None for DIR/val, else a tenth of the pictures; a share; "none"; or what `read_listing` takes.
        seed: of the pictures held out.
        strict, limit: of `check_pictures`.
        console: where to tell of progress and of what is left out.
    """
    place, beside = find_splits(data)
    training = read_listing(place)
    validation: Listing | None = None
    share = _share(val)
    if share is None and val not in (None, "none"):
        validation = read_listing(str(val), training.classes)
    elif val is None and beside is not None:
        validation = read_listing(beside, training.classes)
    elif val != "none":
        training, validation = split_listing(training, HELD_OUT if share is None else share, seed)
    training = leave_out_unreadable(training, "training", strict=strict, limit=limit, console=console)
    held = ", none to validate on"
    if validation is not None:
        validation = leave_out_unreadable(validation, "validation", strict=strict, limit=limit, console=console)
        held = f", {len(validation)} to validate on"
    console.print(f"{len(training.classes)} classes, {len(training)} pictures to train on{held}.")
    return training, validation


def _share(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def build_model(
    name: str,
    recipe: Recipe,
    *,
    classes: int,
    weights: str | None,
    options: Mapping[str, Any],
    seed: int,
    precision: str | None,
    resize: bool = True,
    val_size: int | None = None,
) -> tuple[keras.Model, Recipe]:
    """The model to train, and the recipe with the size of its pictures.

    Args:
        resize: whether the recipe's pictures take the size of the architecture where the recipe is for another.
        val_size: side of validation pictures, where it differs from the training's.
    """
    row = find_architecture(name)
    own = recipe.augmentation.size
    if resize and (row.image_size < 64) != (own < 64):
        recipe = replace(recipe, augmentation=replace(recipe.augmentation, size=row.image_size))
    size = recipe.augmentation.size
    seen = val_size or (max(size, row.image_size) if resize else size)
    keras.utils.set_random_seed(seed)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision or ("mixed_bfloat16" if has_gpu() else "float32"))
    try:
        model = create(
            name,
            classes=classes,
            weights=weights,
            input_shape=(size, size, 3) if seen == size else (None, None, 3),
            drop_path_rate=recipe.drop_path_rate,
            **options,
        )
    finally:
        keras.config.set_dtype_policy(before)
    known = get_preprocessing(model)
    if known.size != seen:
        set_preprocessing(
            model, replace(known, size=seen, resize=known.resize_for(seen)) if weights else Preprocessing(size=seen)
        )
    return model, recipe


def draw_plans(model: keras.Model, training: Listing, recipe: Recipe, folder: Path, seed: int) -> list[Path]:
    """Draws the first batch and the learning rate of every step, without training."""
    plan = Plan(len(training), recipe.batch_size, seed, recipe.augmentation.repeats)
    preprocessing = get_preprocessing(model)
    folder.mkdir(parents=True, exist_ok=True)
    batches = training_batches(training, plan, recipe.augmentation, preprocessing, range(1))
    images, labels = (np.asarray(part) for part in next(iter(batches)))
    pictures = np.clip(images[:32] * preprocessing.std + preprocessing.mean, 0, 255).astype("uint8")
    titles = []
    for row in labels[:32]:
        best = [i for i in np.argsort(-row, kind="stable")[:2] if row[i] > 0.005]
        titles.append(
            " + ".join(f"{row[i]:.0%} {training.classes[i]}" if len(best) > 1 else training.classes[i] for i in best)
        )
    paths = [folder / "batch.png", folder / "schedule.png"]
    draw_batch(paths[0], pictures, titles)
    spe = plan.steps_per_epoch
    epochs = recipe.epochs - recipe.head_epochs
    schedule = Schedule(
        recipe.peak_rate, spe, max(epochs, 1), recipe.schedule, recipe.milestones, recipe.factor,
        min(recipe.warmup_epochs, epochs / 2),
    )  # fmt: skip
    head = np.full(recipe.head_epochs * spe, recipe.peak_rate * recipe.head_rate)
    rates = keras.ops.convert_to_numpy(schedule(np.arange(epochs * spe)))
    draw_schedule(paths[1], np.concatenate([head, rates]), spe)
    return paths
