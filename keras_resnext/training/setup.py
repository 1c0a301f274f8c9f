"""From the command line's words to what `training.train` takes."""

import inspect
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console

from ..data import (
    Groups,
    Listing,
    Plan,
    as_kind,
    describe,
    find_kind,
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
from ..multichannel import read_bands
from ..network.architectures import find_architecture
from ..network.input_preprocessing import get_preprocessing, set_preprocessing
from ..preprocessing import Preprocessing
from ..terminal import printable
from .curves import as_rgb, draw_batch, draw_schedule
from .distribution import has_gpu
from .optimizers import make_schedule
from .recipe import Recipe
from .recipes import find_recipe
from .tasks import TASKS
from .train_options import ImageOptions, NetworkOptions

HELD_OUT = 0.1
MEASURED = 256  # images, of which the mean of each channel is taken

# Options of ResNeXt that training itself decides, and by what.
RESERVED = {
    "classes": "the images",
    "include_top": "training, which needs a head",
    "pooling": "training, which needs a head",
    "out_indices": "training, which needs a head",
    "input_shape": "--image-size and --val-size",
    "input_tensor": "--image-size and --val-size",
    "weights": "--weights",
    "classifier_activation": "--labels and the data",
    "drop_path_rate": "--drop-path-rate",
    "drop_path_rule": "--set drop_path_rule",
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


def find_images(
    data: Path,
    val: str | None,
    seed: int,
    labels: str = "auto",
    console: Console | None = None,
    arrays: bool = False,
) -> tuple[Listing, Listing | None]:
    """Training and validation images, none of which is opened yet, with labels of one kind, "single" or "multi".

    Args:
        data: what `read_listing` takes, or a folder with train and val.
        val: None for DIR/val, else a tenth of the images; a share; "none"; or what `read_listing` takes.
        seed: of the images held out.
        labels: "single", "multi", or "auto": as `find_kind` reads it off the training images.
        console: where to say what is taken for granted.
        arrays: of `read_listing`.

    Raises:
        ValueError: labels of another kind, such as numbers.
    """
    place, beside = find_splits(data)
    training = read_listing(place, arrays=arrays)
    if training.kind == "raw":
        raise ValueError(f"the data has {describe(training)}; training takes one class an image or several labels")
    kind, why = find_kind(training) if labels == "auto" else (labels, "")
    if console is not None and why:
        console.print(f"{why} --labels says otherwise.", soft_wrap=True)
    reason = f"training takes {TASKS[kind].says}" + ", as the training images have it" * (labels == "auto")
    training = as_kind(training, kind, reason)
    share = _share(val)
    if share is None and val not in (None, "none"):
        return training, as_kind(read_listing(str(val), training.classes, arrays=arrays), kind, reason)
    if val is None and beside is not None:
        return training, as_kind(read_listing(beside, training.classes, arrays=arrays), kind, reason)
    if val == "none":
        return training, None
    return split_listing(training, HELD_OUT if share is None else share, seed)


def look_through(
    training: Listing,
    validation: Listing | None,
    chosen: ImageOptions,
    console: Console,
    memory: Path | None = None,
    channels: int = 3,
) -> tuple[Listing, Listing | None]:
    """The images that can be read; `memory` as of `leave_out_unreadable`, `channels` as its `bands`.

    What else is wrong with RGB images that are looked through is told in a line, and stops nothing.
    """
    options: dict[str, Any] = {"strict": chosen.strict, "limit": chosen.skip_limit, "console": console}
    options |= {"memory": memory, "bands": channels, "side": COARSE}
    splits = {"train": training} if validation is None else {"train": training, "val": validation}
    looks = {name: Looks(len(each), sharpness=False) for name, each in splits.items()} if channels == 3 else {}
    training = leave_out_unreadable(training, "training", look=looks.get("train"), **options)
    held = ", none to validate on"
    if validation is not None:
        validation = leave_out_unreadable(validation, "validation", look=looks.get("val"), **options)
        held = f", {len(validation)} to validate on"
    noun = "classes" if training.kind == "single" else "labels"
    console.print(f"{len(training.classes)} {noun}, {len(training)} images to train on{held}.")
    if training.kind == "multi":
        console.print(f"Training: {describe(training)}.", markup=False, soft_wrap=True)
    if absent := [name for name, count in zip(training.classes, training.counts(), strict=True) if not count]:
        shown = printable(", ".join(absent[:5])) + ", …" * (len(absent) > 5)
        console.print(f"No image to train on has {len(absent)} of the {noun}: {shown}.", markup=False, soft_wrap=True)
    if looks and (counts := summarise_looks(splits, looks)):
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
    kind: str = "single",
) -> tuple[keras.Model, Recipe]:
    """The model to train, and the recipe with the size of its images.

    Args:
        network: what to build.
        recipe: how it will be trained.
        classes: of the images.
        seed: of the weights.
        resize: whether the recipe's images take the size of the architecture where the recipe is for another.
        val_size: side of validation images, where it differs from the training's and the recipe's.
        kind: "single" or "multi", what the images have.
    """
    row = find_architecture(network.model)
    own = recipe.augmentation.size
    if resize and (row.image_size < 64) != (own < 64):
        recipe = replace(recipe, augmentation=replace(recipe.augmentation, size=row.image_size))
    size = recipe.augmentation.size
    seen = val_size or recipe.test_size or (max(size, row.image_size) if resize else size)
    keras.utils.set_random_seed(seed)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(network.precision or ("mixed_bfloat16" if has_gpu() else "float32"))
    try:
        model = create(
            network.model,
            classes=classes,
            weights=network.weights,
            input_shape=(
                *((size, size) if seen == size and not recipe.progressive_size else (None, None)),
                network.channels,
            ),
            classifier_activation=TASKS[kind].activation,
            drop_path_rate=recipe.drop_path_rate,
            drop_path_rule=recipe.drop_path_rule,
            **check_options(network.options, network.sync_bn),
        )
    finally:
        keras.config.set_dtype_policy(before)
    known = get_preprocessing(model)
    if known.size != seen:
        changed = replace(known, size=seen, resize=known.resize_for(seen))
        usual = Preprocessing(seen, mean=known.mean, std=known.std)  # of random weights
        set_preprocessing(model, changed if network.weights else usual)
    if recipe.test_crop is not None:  # as timm evaluates, by the filter of the training
        known = get_preprocessing(model)
        shorter = int(known.size / recipe.test_crop) if known.size >= 64 else known.size
        set_preprocessing(model, replace(known, resize=shorter, interpolation=recipe.augmentation.interpolation))
    return model, recipe


def measure_channels(model: keras.Model, training: Listing, console: Console) -> None:
    """Has a model of other than RGB images remember the mean and the deviation of each channel of the training images.

    They are measured on at most `MEASURED` images, evenly chosen, in the units of the files.
    """
    known = get_preprocessing(model)
    if known.bands == 3:
        return
    chosen = np.unique(np.linspace(0, len(training) - 1, min(MEASURED, len(training))).astype(int))
    with ThreadPoolExecutor() as pool:
        sums = list(pool.map(lambda index: _moments(training.read(int(index)), known.bands), chosen))
    mean, square = np.mean(sums, axis=0)
    std = np.sqrt(np.maximum(square - mean**2, 0))
    std = np.where(std > 0, std, 1.0)  # a channel in which all is the same
    set_preprocessing(model, replace(known, mean=tuple(mean.tolist()), std=tuple(std.tolist())))
    shown = ", ".join(f"{m:.4g} ± {s:.3g}" for m, s in zip(mean, std, strict=True))
    console.print(f"Channels of {len(chosen)} training images, mean and deviation: {shown}.", soft_wrap=True)


def _moments(data: bytes, bands: int) -> np.ndarray:
    """Mean and mean square of each channel of an image: float64 (2, bands)."""
    values = read_bands(data, bands).astype("float64")
    return np.stack([values.mean((0, 1)), (values**2).mean((0, 1))])


def draw_plans(model: keras.Model, training: Listing, recipe: Recipe, folder: Path, seed: int) -> list[Path]:
    """Draws the first batch and the learning rate of every step, without training."""
    groups = Groups.of(training) if recipe.balanced_sampling else None
    plan = Plan(len(training), recipe.batch_size, seed, recipe.augmentation.repeats, groups=groups)
    preprocessing = get_preprocessing(model)
    folder.mkdir(parents=True, exist_ok=True)
    batches = training_batches(training, plan, recipe.augmentation, preprocessing, range(1))
    images, labels = (np.asarray(part) for part in next(iter(batches)))
    images = images[..., ::-1] if preprocessing.channels == "BGR" else images
    pixels = as_rgb(images[:32] * np.asarray(preprocessing.std) + np.asarray(preprocessing.mean))
    titles = []
    for row in labels[:32]:
        best = [
            i for i in np.argsort(-row, kind="stable")[: 2 if training.kind == "single" else None] if row[i] > 0.005
        ]
        shares = any(0 < value < 1 for value in row)
        titles.append(
            " + ".join(f"{row[i]:.0%} {training.classes[i]}" if shares else training.classes[i] for i in best) or "none"
        )
    paths = [folder / "batch.png", folder / "schedule.png"]
    draw_batch(paths[0], pixels, titles)
    spe = plan.steps_per_epoch
    head = np.full(recipe.head_epochs * spe, recipe.peak_rate * recipe.head_rate)
    steps = np.arange((recipe.epochs - recipe.head_epochs) * spe)
    rates = keras.ops.convert_to_numpy(make_schedule(recipe, spe)(steps))
    draw_schedule(paths[1], np.concatenate([head, rates]), spe)
    return paths
