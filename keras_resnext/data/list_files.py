"""Images in lists: CSV, JSON and text."""

import csv
import io
import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import read_lines, read_text
from .class_names import numbered, ordered
from .listing import Listing
from .records import read_class_names

LISTS = (".csv", ".tsv", ".json", ".jsonl", ".txt")
_FILE_COLUMNS = (
    *("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_id", "image_path"),
    *("image_name", "img", "img_path"),
)
_LABEL_COLUMNS = ("label", "class", "category", "target", "class_name", "label_name", "labels")
_SEPARATORS = (",", ";", "\t", "|")
_SUFFIXES = (".jpg", ".jpeg", ".png")  # that identifiers in place of file names leave out

Row = tuple[str, str]


def read_list(path: Path, expected: tuple[str, ...] | None) -> Listing:
    """The images that a list names, and their classes."""
    readers = {".csv": _csv_rows, ".tsv": _csv_rows, ".json": _json_rows, ".jsonl": _json_rows, ".txt": _text_rows}
    try:
        rows = readers[path.suffix.lower()](path)
    except (json.JSONDecodeError, csv.Error) as error:
        raise ValueError(f"data={str(path)!r} cannot be read: {error}") from None
    files = [_find_file(path.parent, file) for file, _ in rows]
    absent = [file for file in files if not os.path.isfile(file)]
    if len(files) > 1 and absent == files[:1]:
        raise ValueError(
            f"data={str(path)!r}: the first row, {rows[0]}, is neither an image and its label nor names of columns; "
            f"these are known: {', '.join(_FILE_COLUMNS)} and {', '.join(_LABEL_COLUMNS)}"
        )
    if absent:
        raise FileNotFoundError(f"data={str(path)!r}: {len(absent)} listed images are missing, such as {absent[0]!r}")
    texts = [label for _, label in rows]
    _check_single(texts, path)
    _check_once(files, texts, path)
    if texts and all(re.fullmatch(r"\d+\.0", text) for text in texts):  # pandas' way of writing 3, beside gaps
        texts = [text[:-2] for text in texts]
    if texts and all(text.lstrip("-").isdecimal() for text in texts):
        numbers = [_read_number(text, row, path) for row, text in enumerate(texts, start=1)]
        names = numbered(numbers, expected or read_class_names(path.parent), path)
        labels = np.array(numbers, "int64")
    else:
        names = ordered(sorted(set(texts)), expected or read_class_names(path.parent), path)
        position = {name: i for i, name in enumerate(names)}
        labels = np.array([position[text] for text in texts], "int64")
    return Listing(tuple(files), labels, names)


def _find_file(folder: Path, name: str) -> str:
    """The file that a list means: its path as Windows writes it, or without its suffix, are understood too."""
    tries = [name, name.replace("\\", "/")]
    tries += [text + suffix for text in tries for suffix in _SUFFIXES]
    return str(folder / next((text for text in tries if os.path.isfile(folder / text)), name))


def _check_single(texts: Sequence[str], path: Path) -> None:
    """An image with several labels must not become one of a class of its own."""
    known = set(texts)
    for row, text in enumerate(texts, start=1):
        parts = [part for part in re.split(r"[\s,;|\[\]'\"]+", text) if part]
        if len(parts) > 1 and text not in parts and all(part in known for part in parts):
            raise ValueError(f"data={str(path)!r}: row {row} has several labels, {text!r}; it must have one")


def _check_once(files: Sequence[str], texts: Sequence[str], path: Path) -> None:
    """A list with a row for each of an image's several labels shows the image as each of them; this says so."""
    known: dict[str, str] = {}
    pairs = [(os.path.normpath(file), text) for file, text in zip(files, texts, strict=True)]
    if several := [(file, text) for file, text in pairs if known.setdefault(file, text) != text]:
        file, text = several[0]
        warnings.warn(
            f"data={str(path)!r}: {len(several)} rows give an image another label than a row before, such as {file!r}: "
            f"{known[file]!r} and {text!r}",
            stacklevel=5,
        )


def _csv_rows(path: Path) -> list[Row]:
    text = read_text(path).lstrip()
    if said := re.match(r"sep=(.)\n", text):  # Excel's own line
        text = text[said.end() :]
    separator = said[1] if said else max(_SEPARATORS, key=text.partition("\n")[0].count)
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), delimiter=separator)]
    rows = [row for row in rows if any(row)]  # spreadsheets end in rows of nothing
    if not rows:
        return []
    columns = _columns({name: i for i, name in reversed(list(enumerate(rows[0])))})
    file, label = (0, 1) if columns is None else columns
    rows = rows if columns is None else rows[1:]
    for number, row in enumerate(rows, start=1):
        if len(row) <= max(file, label) or not row[file] or not row[label]:
            raise ValueError(f"data={str(path)!r}: row {number} must have a path and a label; it is {row}")
    return [(row[file], row[label]) for row in rows]


def _columns(names: Mapping[Any, Any]) -> tuple[Any, Any] | None:
    """What stands under the name of a column of files and under that of labels; None where one is missing."""
    lower = {str(name).strip().lower().replace(" ", "_"): value for name, value in names.items()}
    found = [next((lower[n] for n in known if n in lower), None) for known in (_FILE_COLUMNS, _LABEL_COLUMNS)]
    return None if None in found else (found[0], found[1])


def _json_rows(path: Path) -> list[Row]:
    data = list(map(json.loads, read_lines(path))) if path.suffix.lower() == ".jsonl" else json.loads(read_text(path))
    if isinstance(data, dict):
        return [(str(file), str(label).strip()) for file, label in data.items()]
    rows = []
    for number, row in enumerate(data if isinstance(data, list) else [data], start=1):
        found = _columns(row) if isinstance(row, dict) else None
        if found is None:
            raise ValueError(f'data={str(path)!r}: entry {number} must be {{"path": …, "label": …}}; it is {row!r}')
        if isinstance(found[1], list):
            raise ValueError(f"data={str(path)!r}: entry {number} has several labels, {found[1]!r}; it must have one")
        rows.append((str(found[0]), str(found[1]).strip()))
    return rows


def _text_rows(path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        row = line.rsplit("\t" if "\t" in line else None, maxsplit=1)
        if len(row) != 2 and (separator := next((s for s in ",;" if s in line), None)):
            row = line.rsplit(separator, maxsplit=1)
        if len(row) != 2 or not all(cell.strip() for cell in row):
            raise ValueError(f"data={str(path)!r}: line {number} must be a path and a label; it is {line!r}")
        rows.append((row[0].strip().rstrip(",;"), row[1].strip()))
    return rows[1:] if rows and _columns({name: i for i, name in enumerate(rows[0])}) == (0, 1) else rows


def _read_number(text: str, row: int, path: Path) -> int:
    try:
        return int(text)
    except ValueError:  # such as --5
        raise ValueError(f"data={str(path)!r}: label {text!r} of row {row} is no number") from None
