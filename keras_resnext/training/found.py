"""What of a recipe is found before training instead of given: once a run, and remembered in its run.json."""

import json
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
from rich.console import Console

from ..data import Listing
from .batch_fit import fit_batch
from .distillation import Distillation
from .distribution import has_gpu
from .rate_finder import find_rate
from .recipe import Recipe
from .run_folder import CHECKPOINT, RUN
from .train_options import RunOptions

# Field of a recipe to the word that stands in place of its number, in the order in which they are found: the batch
# size decides which rates are tested.
WORDS = {"batch_size": "auto", "learning_rate": "find"}


def set_aside(changes: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The changes of a recipe that are numbers, and the names of the fields that are to be found."""
    asked = tuple(name for name, word in WORDS.items() if changes.get(name) == word)
    return {name: value for name, value in changes.items() if name not in asked}, asked


def settle(
    asked: Collection[str],
    model: keras.Model,
    training: Listing,
    recipe: Recipe,
    folder: Path,
    options: RunOptions,
    console: Console,
    distillation: Distillation | None = None,
) -> tuple[Recipe, dict[str, Any]]:
    """The recipe with what was asked for found, and that as {field: {"value": number, "why": sentence}}.

    A run that has a checkpoint takes what it began with. The model is left as it was.

    Args:
        asked: as of `set_aside`.
        model, training, recipe: what will be trained, on what and how.
        folder: the run's.
        options: the run's, of which seed, engine and workers count.
        console: where the choice and its reason are printed.
        distillation: the teacher, where there is one.

    Raises:
        ValueError: a batch size for a student on a CPU, where the teacher's memory is not measured.
        RuntimeError: the smallest batch does not fit the memory, or it could not be measured.
    """
    known = _remembered(folder) if asked else {}
    found: dict[str, Any] = {}
    if distillation and "batch_size" in set(asked) - known.keys() and not has_gpu():
        raise ValueError("batch_size='auto' cannot count a teacher's memory on a CPU; give a number")
    for name in (name for name in WORDS if name in asked):
        again = name in known
        if again:
            value, why = known[name]["value"], "found when the run began"
        elif name == "batch_size":
            with distillation.applied(model, training.classes) if distillation else nullcontext():
                choice = fit_batch(model, recipe, len(training))
            value, why = choice.size, choice.why
        else:
            with distillation.applied(model, training.classes) if distillation else nullcontext():
                value, why = find_rate(model, training, recipe, folder, options, console)
        recipe = replace(recipe, **{name: value})
        found[name] = known[name] if again else {"value": value, "why": why}
        rate = f"; the learning rate at this size is {recipe.peak_rate:.2g}" * (name == "batch_size")
        shown = f"{name.replace('_', ' ').capitalize()} {value:g}: {why}{rate}."
        console.print(shown, markup=False, soft_wrap=True)
    return recipe, found


def _remembered(folder: Path) -> dict[str, Any]:
    """What the run in `folder` found, where it has a checkpoint and can be resumed."""
    try:
        found = json.loads((folder / RUN).read_text(encoding="utf-8"))["found"]
        kept = {name: row for name, row in found.items() if isinstance(row["value"], (int, float))}
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return {}  # whoever resumes the run says what is wrong with its run.json
    return kept if (folder / CHECKPOINT).exists() else {}
