"""The command that trains."""

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from .application import app, load_framework, read_options, tell

IMAGES = "images.json"  # which images cannot be read, so that a resumption need not look through them again
_PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@app.command()
def train(
    context: typer.Context,
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="Class folders, or train/ and val/ of them; .csv, .json, .txt; TFRecords; tfds:NAME."
        ),
    ],
    model: Annotated[str, typer.Option(help="Architecture (`keras-resnext list`).")] = "resnext50_32x4d",
    recipe: Annotated[str, typer.Option(help="paper (or mmcls), cifar, modern or finetune.")] = "finetune",
    weights: Annotated[
        str | None,
        typer.Option(help="Start from published weights (imagenet, torchvision, a full name) or a file of them."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Option of ResNeXt, such as frozen_stages=2 or blocks=[1,1,1]."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for all results; default runs/DIR-MODEL-RECIPE. Resumed if interrupted.")
    ] = None,
    val: Annotated[
        str | None, typer.Option(help="Validation images (as DIR), or a share of DIR such as 0.1, or none.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(min=1, help="Side of the training images in pixels.")] = None,
    val_size: Annotated[int | None, typer.Option(min=1, help="Side of the validation images in pixels.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the images; the schedule stretches.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step; the learning rate scales with it.")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Steps whose gradients make one update.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At the recipe's own batch size.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd (PyTorch's) or adamw.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="L2 for SGD, decoupled for AdamW.")] = None,
    decay_norm_and_bias: Annotated[bool | None, typer.Option(help="Decay norms and biases too.")] = None,
    schedule: Annotated[str | None, typer.Option(help="step, cosine or constant.")] = None,
    milestones: Annotated[
        str | None, typer.Option(help="Epochs after which --schedule step divides the rate by 10, such as 30,60,90.")
    ] = None,
    warmup_epochs: Annotated[float | None, typer.Option(help="How long the learning rate rises.")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Share of the target spread over all classes.")] = None,
    clip_norm: Annotated[float | None, typer.Option(help="Largest norm of the whole gradient.")] = None,
    ema: Annotated[float | None, typer.Option(help="Moving average over this share of the training; 0 none.")] = None,
    head_epochs: Annotated[
        int | None, typer.Option(help="So long only the head learns; without --weights default 0.")
    ] = None,
    drop_path_rate: Annotated[float | None, typer.Option(help="Probability of dropping a residual branch.")] = None,
    patience: Annotated[int | None, typer.Option(min=1, help="Stop after so many epochs without a better one.")] = None,
    flip: Annotated[float | None, typer.Option(help="Probability of a left-right flip; 0 for text and digits.")] = None,
    crop_scale: Annotated[float | None, typer.Option(help="Smallest share of the area that a crop has.")] = None,
    crop_padding: Annotated[int | None, typer.Option(help="Shift by so many pixels in place of random crops.")] = None,
    color_jitter: Annotated[
        float | None, typer.Option(help="How far brightness, contrast and saturation vary, such as 0.4.")
    ] = None,
    policy: Annotated[str | None, typer.Option(help="rand_augment, trivial_augment or none.")] = None,
    random_erasing: Annotated[float | None, typer.Option(help="Probability of erasing a rectangle.")] = None,
    mixup: Annotated[float | None, typer.Option(help="Alpha of mixup, 0 for none.")] = None,
    cutmix: Annotated[float | None, typer.Option(help="Alpha of CutMix, 0 for none.")] = None,
    sync_bn: Annotated[bool, typer.Option("--sync-bn", help="BatchNorm over all devices.")] = False,
    precision: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(_PRECISIONS)}; default mixed_bfloat16 on GPUs and float32 on CPUs."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order and variations.")] = 0,
    save_steps: Annotated[
        int | None, typer.Option(min=1, help="Save the state every so many steps; default every ten minutes.")
    ] = None,
    cache: Annotated[bool, typer.Option("--cache", help="Keep the encoded images in memory.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads that make images; default all cores.")] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write each epoch's figures for TensorBoard too.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="An unreadable image is an error.")] = False,
    skip_limit: Annotated[
        int | None, typer.Option(min=0, help="Unreadable images that may be left out; default 1 %.")
    ] = None,
    coordinator: Annotated[
        str | None, typer.Option(help="Several processes (JAX): HOST:PORT of process 0, which all can reach.")
    ] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="How many processes there are.")] = None,
    process: Annotated[int | None, typer.Option(min=0, help="Which of them this is, from 0.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Train nothing: draw a batch and the learning rate into the output.")
    ] = False,
) -> None:
    """Train on a folder of images; the same command again resumes what was interrupted."""
    changes = _given(
        epochs=epochs, batch_size=batch_size, accumulate=accumulate, learning_rate=learning_rate, optimizer=optimizer,
        weight_decay=weight_decay, decay_norm_and_bias=decay_norm_and_bias, schedule=schedule,
        warmup_epochs=warmup_epochs, label_smoothing=label_smoothing, clip_norm=clip_norm, ema=ema,
        head_epochs=head_epochs, drop_path_rate=drop_path_rate, patience=patience, flip=flip, policy=policy,
        random_erasing=random_erasing, mixup=mixup, cutmix=cutmix, crop_padding=crop_padding, size=image_size,
    )  # fmt: skip
    if crop_scale is not None:
        changes["crop_scale"] = (crop_scale, 1.0)
    if color_jitter is not None:
        changes["color_jitter"] = (color_jitter, color_jitter, color_jitter, 0.0)
    if policy == "none":
        changes["policy"] = None
    if milestones is not None:
        changes["milestones"] = _read_epochs(milestones)
    if precision not in (None, *_PRECISIONS):
        raise ValueError(f"precision={precision!r} must be one of {', '.join(_PRECISIONS)}")
    options = read_options(option or [])
    folder = output or Path("runs") / f"{data.resolve().name}-{model}-{recipe}"
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"output={str(folder)!r} is a file, not a folder")

    def join() -> None:
        from ..training import distribution

        distribution.join(coordinator, processes, process)

    arguments = {"model": model, "weights": weights, "options": options, "precision": precision, "sync_bn": sync_bn}
    load_framework(join)
    from ..training import distribution, find_recipe
    from ..training import train as run
    from ..training.run import check_backend
    from ..training.setup import build_model, check_options, draw_plans, find_images, look_through

    # What takes no time is looked at first, and all images last.
    check_backend()
    console = Console(highlight=False, quiet=distribution.shard()[0] > 0)
    chosen = find_recipe(recipe, **changes)
    if weights is None and head_epochs is None and chosen.head_epochs:
        chosen = replace(chosen, head_epochs=0)
        console.print("Without --weights the whole network learns from the first epoch on, not its head alone.")
    options = check_options(options, sync_bn)
    training, validation = find_images(data, val, seed)
    with distribution.spread():
        built, chosen = build_model(
            model, chosen, classes=len(training.classes), weights=weights, options=options, seed=seed,
            precision=precision, resize=image_size is None, val_size=val_size,
        )  # fmt: skip
        training, validation = look_through(
            training, validation, memory=None if dry_run else folder / IMAGES, strict=strict, limit=skip_limit,
            console=console,
        )  # fmt: skip
        if dry_run:
            for path in draw_plans(built, training, chosen, folder, seed):
                console.print(f"Drawn: {path}", markup=False, soft_wrap=True)
            return
        try:
            result = run(
                built, training, validation, recipe=chosen, output=folder, seed=seed, validation_size=val_size,
                save_steps=save_steps, cache=cache, workers=workers, tensorboard=tensorboard,
                arguments=arguments, command=_recorded(context.params), console=console,
            )  # fmt: skip
        except (RuntimeError, OSError, ValueError) as error:
            if distribution.shard()[1] == 1:
                raise
            tell(str(error))
            sys.stdout.flush()
            os._exit(2)  # a usual exit would wait a minute for the others and then abort
        console.print(
            f"Best: epoch {result.epoch}, top-1 {result.top1:.2%}: {result.best}", markup=False, soft_wrap=True
        )


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _read_epochs(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"milestones={text!r} must be numbers of epochs, such as 30,60,90") from None


def _recorded(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for, as JSON has it."""
    given = {name: value for name, value in parameters.items() if value is not None and value is not False}
    return {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
