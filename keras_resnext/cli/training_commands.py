"""The command that trains."""

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..data.augmentation import Augmentation
from ..terminal import PlainConsole, printable
from ..training.recipes import Recipe
from ..training.train_options import ImageOptions, NetworkOptions, ProcessOptions, RunOptions, TrainOptions
from .application import TRAINING, Data, app, load_framework, tell
from .from_fields import Changes, from_fields

IMAGES = "images.json"  # which images cannot be read, so that a resumption need not look through them again


@app.command(rich_help_panel=TRAINING)
@from_fields
def train(
    context: typer.Context,
    data: Data,
    start: TrainOptions,
    network: NetworkOptions,
    images: ImageOptions,
    changes: Annotated[dict[str, Any], Changes(Augmentation, Recipe)],
    options: RunOptions,
    processes: ProcessOptions,
) -> None:
    """Train on a folder of images. Run the same command again to resume an interrupted run."""
    folder = start.output or Path("runs") / f"{data.resolve().name}-{network.model}-{start.recipe}"
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"output={str(folder)!r} is a file, not a folder")

    def join() -> None:
        from ..training import distribution

        distribution.join(**asdict(processes))

    load_framework(join)

    from ..training import distribution
    from ..training import train as run
    from ..training.run import check_backend
    from ..training.setup import (
        build_model,
        check_options,
        choose_recipe,
        draw_plans,
        find_images,
        look_through,
        measure_channels,
    )

    # What takes no time is looked at first, and all images last.
    check_backend()
    console = PlainConsole(highlight=False, quiet=distribution.shard()[0] > 0)
    recipe = choose_recipe(start.recipe, changes, network, console)
    check_options(network.options, network.sync_bn)
    training, validation = find_images(data, images.val, options.seed, arrays=network.channels != 3)
    with distribution.spread():
        model, recipe = build_model(
            network, recipe, classes=len(training.classes), seed=options.seed,
            resize="size" not in changes, val_size=options.validation_size,
        )  # fmt: skip
        memory = None if start.dry_run else folder / IMAGES
        training, validation = look_through(training, validation, images, console, memory, network.channels)
        measure_channels(model, training, console)
        if start.dry_run:
            for path in draw_plans(model, training, recipe, folder, options.seed):
                console.print(f"Drawn: {printable(str(path))}", markup=False, soft_wrap=True)
            return
        again = shlex.join(["keras-resnext", *context.obj])
        told = vars(replace(options, arguments=asdict(network), command=_recorded(context.params), again=again))
        try:
            result = run(model, training, validation, recipe=recipe, output=folder, console=console, **told)
        except (RuntimeError, OSError, ValueError) as error:
            if distribution.shard()[1] == 1:
                raise
            tell(str(error))
            sys.stdout.flush()
            os._exit(2)  # a usual exit would wait a minute for the others and then abort
        console.print(
            f"Best: epoch {result.epoch}, top-1 {result.top1:.2%}: {printable(str(result.best))}",
            markup=False,
            soft_wrap=True,
        )


def _recorded(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for, as JSON has it."""
    given = {name: value for name, value in parameters.items() if value is not None and value is not False}
    return {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
