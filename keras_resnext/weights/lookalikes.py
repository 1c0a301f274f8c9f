"""Architectures whose weights have the same names and shapes and compute something else: told apart, or told of."""

import warnings
from collections.abc import Collection
from typing import Any

from ..network.architectures import ARCHITECTURES, Architecture, identify
from ..network.structure import Structure
from .infer import shown_by_weights
from .layouts import family
from .published import find_by_file_name

_NOT_OF_WEIGHTS = (
    *("blocks", "num_stages", "strides", "dilations", "output_stride"),
    *("include_top", "classes", "pooling", "out_indices"),
)


def options_by_file_name(name: str, structure: Structure) -> dict[str, Any]:
    """What a published file's architecture has and its weights do not show; {} for any other file."""
    row = find_by_file_name(name)
    return unseen_options(ARCHITECTURES[row.architecture], structure) if row else {}


def options_by_looks(structure: Structure, given: Collection[str]) -> dict[str, Any]:
    """What the one architecture of the table that `structure` looks like has, and no weight shows; else {}.

    A warning says what was taken, or that weights of another architecture look the same, unless one of the options that
    tell them apart is `given`.
    """
    alike = {name: unseen for name, unseen in find_lookalikes(structure).items() if not unseen.keys() & set(given)}
    known = identify(structure) is not None
    for name, unseen in alike.items():
        needs = ", ".join(f"{option}={value!r}" for option, value in unseen.items())
        warnings.warn(
            f"the weights of {name} look the same: if they are its, give {needs}, which no weight shows"
            if known or len(alike) > 1
            else f"the weights are taken for those of {name}, which has {needs}; no weight shows that",
            stacklevel=3,
        )
    return {} if known or len(alike) != 1 else next(iter(alike.values()))


def find_lookalikes(structure: Structure) -> dict[str, dict[str, Any]]:
    """Other architectures with the same entries as `structure`, by name: the options that make them, and it not."""
    shown = shown_by_weights(structure).weights_key
    alike = [
        row
        for row in ARCHITECTURES.values()
        if row.structure.norm == structure.norm
        and shown_by_weights(row.structure).weights_key == shown
        and family(row.structure, "timm") == family(structure, "timm")
    ]
    found = {row.name: unseen_options(row, structure) for row in alike}
    return {name: options for name, options in found.items() if options}


def unseen_options(row: Architecture, structure: Structure) -> dict[str, Any]:
    """The options with which `row` differs from `structure`, those of depth, stages and head apart."""
    own, wanted = structure.options(), row.structure.options()
    return {name: value for name, value in wanted.items() if value != own[name] and name not in _NOT_OF_WEIGHTS}
