"""Images in lists: CSV, JSON and text."""

import csv
import json
import os
from pathlib import Path

import numpy as np

from .class_names import numbered, ordered
from .listing import Listing
from .records import read_class_names

LISTS = (".csv", ".json", ".txt")
_FILE_COLUMNS = ("path", "file", "filename", "image")
_LABEL_COLUMNS = ("label", "class", "target")


def read_list(path: Path, expected: tuple[str, ...] | None) -> Listing:
    try:
        rows = {".csv": _csv_rows, ".json": _json_rows, ".txt": _text_rows}[path.suffix](path)
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise ValueError(f"data={str(path)!r} cannot be read: {error}") from None
    files = [str(path.parent / file) for file, _ in rows]
    if absent := [file for file in files if not os.path.isfile(file)]:
        raise FileNotFoundError(f"data={str(path)!r}: {len(absent)} listed images are missing, such as {absent[0]!r}")
    texts = [str(label).strip() for _, label in rows]
    if texts and all(text.lstrip("-").isdecimal() for text in texts):
        numbers = [_read_number(text, row, path) for row, text in enumerate(texts, start=1)]
        names = numbered(numbers, expected or read_class_names(path.parent), path)
        labels = np.array(numbers, "int64")
    else:
        names = ordered(sorted(set(texts)), expected or read_class_names(path.parent), path)
        position = {name: i for i, name in enumerate(names)}
        labels = np.array([position[text] for text in texts], "int64")
    return Listing(tuple(files), labels, names)


def _csv_rows(path: Path) -> list[tuple[str, str]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    if not rows:
        return []
    header = [cell.strip().lower() for cell in rows[0]]
    columns = [next((header.index(n) for n in names if n in header), None) for names in (_FILE_COLUMNS, _LABEL_COLUMNS)]
    if None in columns:
        columns = [0, 1]
    else:
        rows = rows[1:]
    first, second = (int(column or 0) for column in columns)
    for number, row in enumerate(rows, start=1):
        if len(row) <= max(first, second):
            raise ValueError(f"data={str(path)!r}: row {number} must have a path and a label; it is {row}")
    return [(row[first], row[second]) for row in rows]


def _json_rows(path: Path) -> list[tuple[str, str]]:
    data = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(data, dict):
        return [(str(file), str(label)) for file, label in data.items()]
    rows = []
    for number, row in enumerate(data if isinstance(data, list) else [data], start=1):
        found = [next((row[n] for n in names if n in row), None) for names in (_FILE_COLUMNS, _LABEL_COLUMNS)] if (
            isinstance(row, dict)
        ) else [None]  # fmt: skip
        if None in found:
            raise ValueError(f'data={str(path)!r}: entry {number} must be {{"path": …, "label": …}}; it is {row!r}')
        rows.append((str(found[0]), str(found[1])))
    return rows


def _text_rows(path: Path) -> list[tuple[str, str]]:
    rows = [line.rsplit(maxsplit=1) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    for number, row in enumerate(rows, start=1):
        if len(row) != 2:
            raise ValueError(f"data={str(path)!r}: line {number} must be a path and a label; it is {' '.join(row)!r}")
    return [(row[0], row[1]) for row in rows]


def _read_number(text: str, row: int, path: Path) -> int:
    try:
        return int(text)
    except ValueError:  # such as --5
        raise ValueError(f"data={str(path)!r}: label {text!r} of row {row} is no number") from None
