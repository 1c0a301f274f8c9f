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
from ..training.recipe import Recipe
from ..training.tasks import TITLES
from ..training.train_options import (
    ImageOptions,
    NetworkOptions,
    ProcessOptions,
    RunOptions,
    TeacherOptions,
    TrainOptions,
)
from .application import TRAINING, Data, app, load_framework, tell
from .from_fields import GIVEN, Changes, from_fields

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
    teaching: TeacherOptions,
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

    from ..network.input_preprocessing import get_preprocessing, set_preprocessing
    from ..training import distribution
    from ..training import train as run
    from ..training.distillation import find_teacher
    from ..training.found import set_aside, settle
    from ..training.run import check_backend
    from ..training.search import check_search, search
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
    changes, asked = set_aside({**changes, **start.settings})
    recipe = choose_recipe(start.recipe, changes, network, console)
    check_options(network.options, network.sync_bn)
    training, validation = find_images(
        data, images.val, options.seed, images.labels, console, arrays=network.channels != 3
    )
    if start.search:
        check_search(start.search, validation is not None, distribution.shard()[1])
        if "learning_rate" in asked:
            raise ValueError("learning_rate='find' cannot be given with search, which tries rates itself")
    with distribution.spread():
        model, recipe = build_model(
            network, recipe, classes=len(training.classes), seed=options.seed,
            resize="size" not in changes, val_size=options.validation_size, kind=training.kind,
        )  # fmt: skip
        distillation = find_teacher(teaching, training.classes)
        memory = None if start.dry_run else folder / IMAGES
        training, validation = look_through(training, validation, images, console, memory, network.channels)
        measure_channels(model, training, console)
        if start.dry_run:
            for path in draw_plans(model, training, recipe, folder, options.seed):
                console.print(f"Drawn: {printable(str(path))}", markup=False, soft_wrap=True)
            return
        recipe, found = settle(asked, model, training, recipe, folder, options, console, distillation)
        if start.search and validation is not None:
            preprocessing, seed = get_preprocessing(model), options.seed

            def make(short: Recipe) -> Any:
                made, _ = build_model(
                    network, short, classes=len(training.classes), seed=seed, resize=False,
                    val_size=options.validation_size or preprocessing.size, kind=training.kind,
                )  # fmt: skip
                set_preprocessing(made, preprocessing)
                return made

            best = search(
                make, training, validation, recipe, folder, start.search,
                replace(options, arguments=asdict(network)), console, distillation,
            )  # fmt: skip
            console.print(f"Best trial: {TITLES[best.measure]} {best.score:.2%}. Train with it:", soft_wrap=True)
            console.print(command_line(context, best.changes), markup=False, soft_wrap=True)
            return
        again = shlex.join(["keras-resnext", *context.obj])
        told = vars(
            replace(options, arguments=asdict(network), command=_recorded(context.params), found=found, again=again)
        )
        try:
            result = run(
                model, training, validation, recipe=recipe, output=folder, console=console, distillation=distillation,
                **told,
            )  # fmt: skip
        except (RuntimeError, OSError, ValueError) as error:
            if distribution.shard()[1] == 1:
                raise
            tell(str(error))
            sys.stdout.flush()
            os._exit(2)  # a usual exit would wait a minute for the others and then abort
        console.print(
            f"Best: epoch {result.epoch}, {TITLES[result.measure]} {result.score:.2%}: {printable(str(result.best))}",
            markup=False,
            soft_wrap=True,
        )


def command_line(context: typer.Context, changes: Mapping[str, Any]) -> str:
    """The command that was given, without its search and with fields of the recipe changed, for a shell."""
    options = {parameter.name: parameter for parameter in context.command.params}
    # A pair, such as that of the crop's area, or one reach for three colours: its option takes the first number.
    new = {name: value[0] if isinstance(value, tuple) else value for name, value in changes.items()}
    arguments, words = ["keras-resnext", str(context.info_name)], list[str]()
    for name, value in {**context.params, **new, "search": None}.items():
        source = context.get_parameter_source(name)
        if name not in new and (value is None or source is None or source.name not in GIVEN):
            continue
        option = options[name]
        if option.param_type_name == "argument":
            arguments.append(str(value))
        elif isinstance(value, bool):
            words += [(option.opts if value else option.secondary_opts)[0]] if value or option.secondary_opts else []
        else:
            for each in value if isinstance(value, (list, tuple)) else (value,):
                words += [option.opts[0], str(each)]
    return shlex.join([*arguments, *words])


def _recorded(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for, as JSON has it."""
    given = {name: value for name, value in parameters.items() if value is not None and value is not False}
    return {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
