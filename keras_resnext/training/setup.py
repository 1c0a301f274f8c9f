"""From the command line's words to what `training.train` takes."""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console

from ..data import (
    Listing,
    Plan,
    as_single,
    find_splits,
    leave_out_unreadable,
    read_listing,
    split_listing,
    training_batches,
)
from ..data_check.findings import KINDS
from ..data_check.image_facts import COARSE
from ..data_check.review import Looks, summarise_looks
from ..model import ResNeXt, create
from ..network.architectures import find_architecture
from ..network.input_preprocessing import get_preprocessing, set_preprocessing
from ..preprocessing import Preprocessing
from .curves import draw_batch, draw_schedule
from .distribution import has_gpu
from .optimizers import make_schedule
from .recipes import Recipe, find_recipe
from .train_options import ONE_CLASS, ImageOptions, NetworkOptions

HELD_OUT = 0.1

# Options of ResNeXt that training itself decides, and by what.
RESERVED = {
    "classes": "the images",
    "include_top": "training, which needs a head",
    "pooling": "training, which needs a head",
    "out_indices": "training, which needs a head",
    "input_shape": "--image-size and --val-size",
    "input_tensor": "--image-size and --val-size",
    "weights": "--weights",
    "drop_path_rate": "--drop-path-rate",
    "name": "--model",
}


def choose_recipe(name: str, changes: Mapping[str, Any], network: NetworkOptions, console: Console) -> Recipe:
    """The recipe called `name` with some fields changed; without weights no epochs train the head alone by default."""
    recipe = find_recipe(name, **changes)
    if network.weights is None and "head_epochs" not in changes and recipe.head_epochs:
        console.print("Without --weights the whole network is trained from the first epoch, not the head first.")
        recipe = replace(recipe, head_epochs=0)
    return recipe


def check_options(options: Mapping[str, Any], sync_bn: bool = False) -> dict[str, Any]:
    """The options of `ResNeXt` that a user of training may give, with BatchNorm over all devices if asked for.

    Raises:
        ValueError: no such option, one that training itself decides, or `sync_bn` with another norm than BatchNorm.
    """
    for name in options:
        if name in RESERVED:
            raise ValueError(f"option={name!r} cannot be given; it is decided by {RESERVED[name]}")
    known = inspect.signature(ResNeXt).parameters.keys() - RESERVED.keys()
    if unknown := sorted(options.keys() - known):
        raise ValueError(f"{', '.join(unknown)}: no option of ResNeXt; choose from {', '.join(sorted(known))}")
    if not sync_bn:
        return dict(options)
    norm = options.get("norm_cfg") or {}
    if not isinstance(norm, Mapping) or norm.get("type", "BN") not in ("BN", "SyncBN"):
        raise ValueError(f"sync_bn=True is for BatchNorm; norm_cfg={norm!r} names another norm")
    return {**options, "norm_cfg": {**norm, "type": "SyncBN"}}


def find_images(data: Path, val: str | None, seed: int) -> tuple[Listing, Listing | None]:
    """Training and validation images, none of which is opened yet.

    Args:
        data: what `read_listing` takes, or a folder with train and val.
        val: None for DIR/val, else a tenth of the images; a share; "none"; or what `read_listing` takes.
        seed: of the images held out.
    """
    place, beside = find_splits(data)
    training = as_single(read_listing(place), ONE_CLASS)
    share = _share(val)
    if share is None and val not in (None, "none"):
        return training, as_single(read_listing(str(val), training.classes), ONE_CLASS)
    if val is None and beside is not None:
        return training, as_single(read_listing(beside, training.classes), ONE_CLASS)
    if val == "none":
        return training, None
    return split_listing(training, HELD_OUT if share is None else share, seed)


def look_through(
    training: Listing,
    validation: Listing | None,
    chosen: ImageOptions,
    console: Console,
    memory: Path | None = None,
) -> tuple[Listing, Listing | None]:
    """The images that can be read; `memory` as of `leave_out_unreadable`.

    What else is wrong with images that are looked through is told in a line, and stops nothing.
    """
    options: dict[str, Any] = {"strict": chosen.strict, "limit": chosen.skip_limit, "console": console}
    options["memory"] = memory
    splits = {"train": training} if validation is None else {"train": training, "val": validation}
    looks = {name: Looks(len(listing), sharpness=False) for name, listing in splits.items()}
    training = leave_out_unreadable(training, "training", look=looks["train"], side=COARSE, **options)
    held = ", none to validate on"
    if validation is not None:
        validation = leave_out_unreadable(validation, "validation", look=looks["val"], side=COARSE, **options)
        held = f", {len(validation)} to validate on"
    console.print(f"{len(training.classes)} classes, {len(training)} images to train on{held}.")
    if counts := summarise_looks(splits, looks):
        found = "; ".join(f"{KINDS[kind]}: {count}" for kind, count in counts.items())
        console.print(f"Data check: {found}. `keras-resnext check` lists them.", markup=False, soft_wrap=True)
    return training, validation


def _share(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def build_model(
    network: NetworkOptions,
    recipe: Recipe,
    *,
    classes: int,
    seed: int,
    resize: bool = True,
    val_size: int | None = None,
) -> tuple[keras.Model, Recipe]:
    """The model to train, and the recipe with the size of its images.

    Args:
        network: what to build.
        recipe: how it will be trained.
        classes: of the images.
        seed: of the weights.
        resize: whether the recipe's images take the size of the architecture where the recipe is for another.
        val_size: side of validation images, where it differs from the training's.
    """
    row = find_architecture(network.model)
    own = recipe.augmentation.size
    if resize and (row.image_size < 64) != (own < 64):
        recipe = replace(recipe, augmentation=replace(recipe.augmentation, size=row.image_size))
    size = recipe.augmentation.size
    seen = val_size or (max(size, row.image_size) if resize else size)
    keras.utils.set_random_seed(seed)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(network.precision or ("mixed_bfloat16" if has_gpu() else "float32"))
    try:
        model = create(
            network.model,
            classes=classes,
            weights=network.weights,
            input_shape=(size, size, 3) if seen == size else (None, None, 3),
            drop_path_rate=recipe.drop_path_rate,
            **check_options(network.options, network.sync_bn),
        )
    finally:
        keras.config.set_dtype_policy(before)
    known = get_preprocessing(model)
    if known.size != seen:
        changed = replace(known, size=seen, resize=known.resize_for(seen)) if network.weights else Preprocessing(seen)
        set_preprocessing(model, changed)
    return model, recipe


def draw_plans(model: keras.Model, training: Listing, recipe: Recipe, folder: Path, seed: int) -> list[Path]:
    """Draws the first batch and the learning rate of every step, without training."""
    plan = Plan(len(training), recipe.batch_size, seed, recipe.augmentation.repeats)
    preprocessing = get_preprocessing(model)
    folder.mkdir(parents=True, exist_ok=True)
    batches = training_batches(training, plan, recipe.augmentation, preprocessing, range(1))
    images, labels = (np.asarray(part) for part in next(iter(batches)))
    images = images[..., ::-1] if preprocessing.channels == "BGR" else images
    pixels = np.clip(images[:32] * preprocessing.std + preprocessing.mean, 0, 255).astype("uint8")
    titles = []
    for row in labels[:32]:
        best = [i for i in np.argsort(-row, kind="stable")[:2] if row[i] > 0.005]
        titles.append(
            " + ".join(f"{row[i]:.0%} {training.classes[i]}" if len(best) > 1 else training.classes[i] for i in best)
        )
    paths = [folder / "batch.png", folder / "schedule.png"]
    draw_batch(paths[0], pixels, titles)
    spe = plan.steps_per_epoch
    head = np.full(recipe.head_epochs * spe, recipe.peak_rate * recipe.head_rate)
    steps = np.arange((recipe.epochs - recipe.head_epochs) * spe)
    rates = keras.ops.convert_to_numpy(make_schedule(recipe, spe)(steps))
    draw_schedule(paths[1], np.concatenate([head, rates]), spe)
    return paths
