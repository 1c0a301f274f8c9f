"""Whether a checkpoint's entries are those that a network needs: all differences in one error, before any is loaded."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from ..network.structure import Structure
from ..pytorch.checkpoint import CheckpointError
from .adapt import Entries, Shape
from .expected import expected_shapes

SHOWN = 1000  # names in a message


@contextmanager
def blaming_the_checkpoint() -> Iterator[None]:
    """Whatever is found wrong with a checkpoint's content is a `CheckpointError`."""
    try:
        yield
    except CheckpointError:
        raise
    except (ValueError, OverflowError) as error:
        raise CheckpointError(str(error)) from error


def check_entries(
    entries: Entries,
    wanted: Mapping[str, Shape],
    owner: str,
    *,
    kept: Collection[str] = (),
    ignored: Collection[str] = (),
    mismatches: Collection[str] = (),
) -> None:
    """Compares names, shapes and types.

    Args:
        entries: the checkpoint's.
        wanted: canonical name to PyTorch shape.
        owner: what they are loaded into, for the message.
        kept: wanted names that need no entry.
        ignored: entries that may be there all the same.
        mismatches: what else is wrong.

    Raises:
        CheckpointError: anything missing, unexpected or of another shape.
    """
    missing = [name for name in wanted if name not in entries and name not in kept]
    unexpected = [original for name, (original, _) in entries.items() if name not in wanted and name not in ignored]
    misshaped = []
    for name, (original, array) in entries.items():
        if name not in wanted:
            continue
        if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
            misshaped.append(f"{original}: {array.dtype} is no number")
        elif tuple(array.shape) != wanted[name]:
            misshaped.append(f"{original}: {tuple(array.shape)} in the checkpoint, {wanted[name]} in the model")
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": [*misshaped, *mismatches]}
    if any(problems.values()):
        lines = [f"{len(names)} {what}: {'; '.join(names[:SHOWN])}" for what, names in problems.items() if names]
        raise CheckpointError(f"the checkpoint does not fit {owner}. " + ". ".join(lines))


def check_structure(structure: Structure, entries: Entries, head: bool) -> None:
    """Raises CheckpointError where entries have not the shapes of the network that they show: before it takes memory.

    Args:
        structure: as inferred from `entries`.
        entries: the checkpoint's.
        head: whether its head is wanted.
    """
    wanted = expected_shapes(structure)
    if not head:
        wanted = {name: shape for name, shape in wanted.items() if not name.startswith("fc.")}
    ignored = () if head else [name for name in entries if name.startswith("fc.")]
    check_entries(entries, wanted, f"model={structure.variant!r}", ignored=ignored)


def check_overlap(entries: Entries, file: int) -> None:
    """Raises CheckpointError if entries of a file of `file` bytes lie over each other: a model holds each of them."""
    if (needed := sum(array.nbytes for _, array in entries.values())) > file:
        raise CheckpointError(f"the checkpoint's weights overlap: they take {needed} bytes in a file of {file}")
