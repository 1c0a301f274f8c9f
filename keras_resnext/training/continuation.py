"""Whether a run that is resumed is still the same, and what becomes of one that is lengthened."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from .recipe import Recipe

# What a run is resumed by the same of.
COMPARED = ("arguments", "recipe", "seed", "data", "backend", "policy", "validation_size")
# Another number of epochs brings a schedule of its own.
SCHEDULE = ("epochs", "milestones", "warmup_epochs", "head_epochs")
# What says when to stop has no part in what was computed.
FREE = ("patience",)
# Of images: what stands in run.json, and what a message calls it.
_FINGERPRINTS = {"training": "training images", "validation": "validation images"}


def check_same(folder: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Checks that a run may go on, whose run.json is `before`, with what `now` says; epochs and patience may differ.

    Raises:
        ValueError: something else differs; each with both values.
    """
    allowed = {("recipe", name) for name in FREE}
    if is_lengthened(before, now):
        allowed |= {("recipe", name) for name in SCHEDULE}
    old, new = (dict(_flat({name: facts.get(name) for name in COMPARED})) for facts in (before, now))
    names = [name for name in new | old if old.get(name) != new.get(name) and name not in allowed]
    if names:
        changes = ", ".join(_describe(name, old.get(name), new.get(name)) for name in names)
        raise ValueError(
            f"output={folder!r} holds a run with other arguments: {changes}; give those of the run to go on with it "
            "(epochs and patience may change), or for a new run output=FOLDER, another one"
        )


def is_lengthened(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the number of epochs is another than that of the run so far."""
    recipe = before.get("recipe")
    if not isinstance(recipe, dict) or any(type(recipe.get(name)) is not int for name in ("epochs", "head_epochs")):
        return False
    return bool(recipe["epochs"] != now["recipe"]["epochs"])


def continued(recipe: Recipe, head_epochs: int, step: int, steps_per_epoch: int) -> Recipe:
    """The recipe of a lengthened run: the head's epochs stay those that it began with.

    Args:
        recipe: with another number of epochs than before.
        head_epochs: of the run so far.
        step: that the run has reached.
        steps_per_epoch: of the run.

    Raises:
        ValueError: fewer epochs than the run has begun.
    """
    if recipe.epochs < (least := -(-step // steps_per_epoch)):
        raise ValueError(f"epochs={recipe.epochs!r} must be at least {least}, the epoch that the run has reached")
    return replace(recipe, head_epochs=head_epochs)


def describe_lengthening(entry: Mapping[str, int], steps_per_epoch: int) -> str:
    """An entry of "lengthened" in run.json, as a sentence."""
    first = entry["step"] // steps_per_epoch + 1
    return (
        f"The {entry['from']} epochs of the run are now {entry['to']}: from epoch {first} on the learning rate is that "
        f"of a run of {entry['to']}."
    )


def _flat(value: Any, *names: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(names from the outside in, value) of everything in nested dictionaries; an empty one is nothing."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, *names, name)
    else:
        yield names, value


def _describe(names: tuple[str, ...], before: Any, now: Any) -> str:
    if names[0] == "data" and names[-1] in _FINGERPRINTS:
        return f"the {_FINGERPRINTS[names[-1]]} are others"
    return f"{names[-1]}={now!r} was {before!r}"
