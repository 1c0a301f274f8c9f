"""Names of the classes of data, and whether they can be told apart."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .records import CLASSES_FILE

MOST_UNNAMED = 100_000  # classes whose names nobody gives; ImageNet-21k has 21,841


def ordered(found: Sequence[str], expected: tuple[str, ...] | None, path: Path) -> tuple[str, ...]:
    if expected is None:
        return tuple(found)
    if unknown := [name for name in found if name not in expected]:
        raise ValueError(
            f"data={str(path)!r} has the classes {', '.join(map(repr, unknown[:5]))}, which are not among the expected "
            f"{len(expected)}: {', '.join(map(repr, expected[:10]))}{', …' * (len(expected) > 10)}"
        )
    return expected


def numbered(labels: Sequence[int] | np.ndarray, names: tuple[str, ...] | None, path: Path) -> tuple[str, ...]:
    """The names of the classes that `labels` number; where none are known the numbers up to the highest label."""
    count = len(names) if names is not None else MOST_UNNAMED
    for row, label in enumerate(labels, start=1):
        if not 0 <= label < count:
            known = f"{count} classes" if names is not None else f"more need their names in {CLASSES_FILE} beside"
            raise ValueError(f"data={str(path)!r}: label {label} of image {row} is outside 0..{count - 1} ({known})")
    return names if names is not None else tuple(map(str, range(int(max(labels)) + 1 if len(labels) else 0)))


def check_names(classes: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for name in classes:
        if (key := name.strip().casefold()) in seen:
            raise ValueError(f"class names {seen[key]!r} and {name!r} are the same but for case and spaces")
        seen[key] = name
