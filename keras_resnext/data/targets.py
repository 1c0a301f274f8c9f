"""What the columns of a list say of each image: its class, its several labels, or numbers."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .class_names import MOST_UNNAMED, numbered, ordered

# Names of columns; the first that is there counts. A cell in those of `_SEVERAL` holds several labels, in those of
# `_NUMBERS` numbers, and in "target" a class or numbers.
LABEL_COLUMNS = (
    *("label", "class", "category", "target", "class_name", "label_name", "labels", "classes", "categories", "tags"),
    *("targets", "value", "values"),
)
_SEVERAL = ("labels", "classes", "categories", "tags")
_NUMBERS = ("target", "targets", "value", "values")
_YES_NO = {"true": "1", "false": "0", "1.0": "1", "0.0": "0"}

Columns = Mapping[str, Sequence[Any]]  # name -> a text, number or list an image
Targets = tuple[str, np.ndarray, tuple[str, ...]]  # kind, labels and classes as in `Listing`


def read_targets(columns: Columns, expected: tuple[str, ...] | None, path: Path) -> Targets:
    """The labels of images from one column of labels, or from several of numbers, one a label.

    One column: several labels in a cell stand in a list, or apart by | or ;. A comma or space separates them too where
    the column is called after several, or where each part is the label of another image. A list of 0 and 1 of the same
    length for all images says which labels are there. `value` holds numbers, `target` as well where they cannot be
    numbers of classes.

    Several columns: 0 and 1 say which labels an image has; other numbers are what a model of numbers is to give.

    Args:
        columns: as they are in the list.
        expected: names of the classes in order, where they are known.
        path: of the list, for errors.

    Raises:
        ValueError: an image without a label where the others have one each, a cell that is not a number where numbers
            are wanted, or classes that are not among the expected ones.
    """
    name = next(iter(columns))
    if len(columns) > 1 or name not in LABEL_COLUMNS:
        return _read_columns(columns, expected, path)
    cells = [_read_cell(cell, row, path) for row, cell in enumerate(columns[name], start=1)]
    if cells and name in _NUMBERS and (numbers := _read_numbers(name, cells, path)) is not None:
        names = (name,) if numbers.shape[1] == 1 else tuple(map(str, range(numbers.shape[1])))
        return "raw", numbers, names
    _check_no_nan(cells, path)
    if any(isinstance(cell, list) for cell in cells):
        rows = [cell if isinstance(cell, list) else [cell] * bool(cell) for cell in cells]
        return _read_several(rows, expected, path)
    texts = [str(cell) for cell in cells]
    several = _split(name, texts, expected or (), path)
    return _read_single(texts, expected, path) if several is None else _read_several(several, expected, path)


def _check_no_nan(cells: Sequence[str | list[str]], path: Path) -> None:
    """NaN among numbers is a gap in the data, not the name of a class; beside names it is one."""
    lists = [cell if isinstance(cell, list) else [cell] for cell in cells]
    parts = [(row, part) for row, texts in enumerate(lists, start=1) for part in texts]
    wrong = [row for row, part in parts if part.lower() == "nan"]
    if wrong and all(_is_number(part) for _, part in parts if part and part.lower() != "nan"):
        raise ValueError(f"data={str(path)!r}: row {wrong[0]} has NaN as a label; give it one, or leave the row out")


def holds_numbers(cells: Sequence[Any]) -> bool:
    """Whether each cell is a number, true or false; a blank one does not count."""
    filled = [text for cell in cells if (text := _flag(cell))]
    return bool(filled) and all(_is_number(text) for text in filled)


def multi_hot(rows: Sequence[Sequence[int]], classes: int) -> np.ndarray:
    """uint8 (n, classes), 1 at each image's labels."""
    labels = np.zeros((len(rows), classes), "uint8")
    for i, row in enumerate(rows):
        labels[i, list(row)] = 1
    return labels


def _read_columns(columns: Columns, expected: tuple[str, ...] | None, path: Path) -> Targets:
    texts = {name: [_flag(cell) for cell in cells] for name, cells in columns.items()}
    for name, cells in texts.items():
        for row, text in enumerate(cells, start=1):
            if not _is_number(text):
                raise ValueError(
                    f"data={str(path)!r}: row {row} has {text!r} in column {name!r}; without a column such as 'label' "
                    "each must hold 0 or 1 for a label, or numbers"
                )
    flags = [name for name, cells in texts.items() if set(cells) <= {"0", "1"}]
    if 0 < len(flags) < len(texts):
        other = next(name for name in texts if name not in flags)
        raise ValueError(
            f"data={str(path)!r}: column {flags[0]!r} holds 0 and 1 and column {other!r} other numbers; all must hold "
            "0 or 1, for labels, or none"
        )
    found = np.array([list(map(float, cells)) for cells in texts.values()]).T
    if not flags:
        return "raw", found, tuple(texts)
    names = ordered(tuple(texts), expected, path)
    labels = np.zeros((len(found), len(names)), "uint8")
    labels[:, [names.index(name) for name in texts]] = found
    return "multi", labels, names


def _read_numbers(name: str, cells: Sequence[str | list[str]], path: Path) -> np.ndarray | None:
    """float64 (n, numbers an image); None where they may be classes."""
    rows = [cell if isinstance(cell, list) else [re.sub(r"^(-?\d+),(\d+)$", r"\1.\2", cell)] for cell in cells]
    wrong = [row for row, texts in enumerate(rows, start=1) if not texts or not all(map(_is_number, texts))]
    if wrong and name.startswith("target"):
        return None
    if wrong or len({len(texts) for texts in rows}) > 1:
        row = wrong[0] if wrong else next(i for i, r in enumerate(rows, start=1) if len(r) != len(rows[0]))
        raise ValueError(
            f"data={str(path)!r}: row {row} has {cells[row - 1]!r} in column {name!r}; it must hold a number, or as "
            "many as the first row"
        )
    numbers = np.array([[float(text) for text in texts] for texts in rows])
    may_be_classes = (numbers >= 0) & (numbers < MOST_UNNAMED) & (numbers == numbers.round())
    return None if name.startswith("target") and may_be_classes.all() else numbers


def _read_single(texts: Sequence[str], expected: tuple[str, ...] | None, path: Path) -> Targets:
    for row, text in enumerate(texts, start=1):
        if not text:
            raise ValueError(f"data={str(path)!r}: row {row} must have a path and a label; it has no label")
    if texts and all(re.fullmatch(r"\d+\.0", text) for text in texts):  # pandas' way of writing 3, beside gaps
        texts = [text[:-2] for text in texts]
    if texts and all(text.lstrip("-").isdecimal() for text in texts):
        numbers = [_whole(text, row, path) for row, text in enumerate(texts, start=1)]
        names = numbered(numbers, expected, path)
        return "single", np.array(numbers, "int64"), names
    names = ordered(sorted(set(texts)), expected, path)
    position = {name: i for i, name in enumerate(names)}
    return "single", np.array([position[text] for text in texts], "int64"), names


def _read_several(rows: Sequence[Sequence[str]], expected: tuple[str, ...] | None, path: Path) -> Targets:
    if len({len(row) for row in rows}) == 1 < len(rows[0]) and all(
        _flag(text) in ("0", "1") for r in rows for text in r
    ):
        return _read_columns(_turned(rows, expected, path), expected, path)
    if all(text.isdecimal() for row in rows for text in row):
        numbers = [_whole(text, i, path) for i, row in enumerate(rows, start=1) for text in row]
        names = numbered(numbers, expected, path)
        places = iter(numbers)
        wanted = [[next(places) for _ in row] for row in rows]
    else:
        names = ordered(sorted({text for row in rows for text in row}), expected, path)
        position = {name: i for i, name in enumerate(names)}
        wanted = [[position[text] for text in row] for row in rows]
    return "multi", multi_hot(wanted, len(names)), names


def _turned(rows: Sequence[Sequence[str]], expected: tuple[str, ...] | None, path: Path) -> dict[str, list[str]]:
    count = len(rows[0])
    if expected is not None and len(expected) != count:
        raise ValueError(f"data={str(path)!r}: each image has {count} numbers of 0 and 1; {len(expected)} are expected")
    return {name: [row[i] for row in rows] for i, name in enumerate(expected or map(str, range(count)))}


def _split(name: str, texts: Sequence[str], expected: tuple[str, ...], path: Path) -> list[list[str]] | None:
    """The labels in each text; None where each is one."""
    for separator in "|;":
        if any(separator in text for text in texts):
            return [[part.strip() for part in text.split(separator) if part.strip()] for text in texts]
    known = {*texts, *expected}
    for pattern, always in ((r"\s*,\s*", name in _SEVERAL), (r"\s+", name == "tags")):
        parts = [[text] if text in expected else [part for part in re.split(pattern, text) if part] for text in texts]
        longer = [row for row, found in enumerate(parts) if len(found) > 1]
        of_known = [row for row in longer if all(part in known or part.isdecimal() for part in parts[row])]
        if longer and (always or len(of_known) == len(longer)):
            return parts
        if of_known:
            row = of_known[0]
            raise ValueError(
                f"data={str(path)!r}: row {row + 1} has several labels, {texts[row]!r}, but "
                f"{texts[next(r for r in longer if r not in of_known)]!r} may be one; separate labels by |"
            )
    if name in _SEVERAL and not all(texts):  # an image without labels is one of several
        return [[text] * bool(text) for text in texts]
    return None


def _read_cell(cell: Any, row: int, path: Path) -> str | list[str]:
    """A text, or the parts of a list, which may be written as one: ['cat', 'dog'], [0 1 1]."""
    if any(isinstance(part, dict | list) for part in (cell if isinstance(cell, list) else [cell])):
        raise ValueError(f"data={str(path)!r}: row {row} must have a label or a list of labels; it has {cell!r}")
    if isinstance(cell, list):
        return [_plain(part) for part in cell]
    text = _plain(cell)
    if not re.fullmatch(r"\[.*\]", text, re.DOTALL):
        return text
    quoted = re.findall(r"'([^']*)'|\"([^\"]*)\"", text)
    return [a or b for a, b in quoted] if quoted else [part for part in re.split(r"[\s,;]+", text[1:-1]) if part]


def _plain(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()


def _flag(cell: Any) -> str:
    """0 and 1 however they are written; other cells as they are."""
    text = _plain(cell)
    return _YES_NO.get(text.lower(), text)


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _whole(text: str, row: int, path: Path) -> int:
    try:
        return int(text)
    except ValueError:  # such as --5
        raise ValueError(f"data={str(path)!r}: label {text!r} of row {row} is no number") from None
