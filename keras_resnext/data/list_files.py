"""Images in lists: CSV, JSON and text."""

import csv
import io
import json
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import read_lines, read_text
from .listing import Listing
from .records import read_class_names
from .targets import LABEL_COLUMNS, holds_numbers, read_targets

LISTS = (".csv", ".tsv", ".json", ".jsonl", ".txt")
_FILE_COLUMNS = (
    *("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_id", "image_path"),
    *("image_name", "img", "img_path", "id"),
)
_SUFFIXES = (".jpg", ".jpeg", ".png")  # that identifiers in place of file names leave out

Table = tuple[list[str], dict[str, list[Any]]]  # files, and by name the columns that say what they show


def read_list(path: Path, expected: tuple[str, ...] | None) -> Listing:
    """The images that a list names, and what it says of them."""
    readers = {".csv": _csv_table, ".tsv": _csv_table, ".json": _json_table, ".jsonl": _json_table, ".txt": _text_table}
    try:
        names, columns = readers[path.suffix.lower()](path)
    except (json.JSONDecodeError, csv.Error) as error:
        raise ValueError(f"data={str(path)!r} cannot be read: {error}") from None
    files = [_find_file(path.parent, name) for name in names]
    absent = [file for file in files if not os.path.isfile(file)]
    if len(files) > 1 and absent == files[:1]:
        first = (names[0], *(cells[0] for cells in columns.values()))
        raise ValueError(
            f"data={str(path)!r}: the first row, {first}, is neither an image and its label nor names of columns; "
            f"these are known: {', '.join(_FILE_COLUMNS)} and {', '.join(LABEL_COLUMNS)}, or one of 0 and 1 a label"
        )
    if absent:
        raise FileNotFoundError(f"data={str(path)!r}: {len(absent)} listed images are missing, such as {absent[0]!r}")
    kind, labels, classes = read_targets(columns, expected or read_class_names(path.parent), path)
    if kind == "single":
        _check_once(files, [classes[label] for label in labels], path)
    return Listing(tuple(files), labels, classes, kind=kind)


def _find_file(folder: Path, name: str) -> str:
    """The file that a list means: its path as Windows writes it, or without its suffix, are understood too."""
    tries = [name, name.replace("\\", "/")]
    tries += [text + suffix for text in tries for suffix in _SUFFIXES]
    return str(folder / next((text for text in tries if os.path.isfile(folder / text)), name))


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


def _csv_table(path: Path) -> Table:
    text = read_text(path).lstrip()
    if said := re.match(r"sep=(.)\n", text):  # Excel's own line
        text = text[said.end() :]
    separator = said[1] if said else _find_separator(text.partition("\n")[0])
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), delimiter=separator)]
    rows = [row for row in rows if any(row)]  # spreadsheets end in rows of nothing
    if not rows:
        return [], {"label": []}
    table: dict[str, list[Any]] = {}
    for i, name in enumerate(rows[0]):
        table.setdefault(name, [row[i] if i < len(row) else "" for row in rows[1:]])
    named = _find_columns(table)
    found = [] if named is None else [name for name in named[1] if name not in LABEL_COLUMNS]
    if twice := [name for name in found if rows[0].count(name) > 1]:
        raise ValueError(f"data={str(path)!r}: two columns are called {twice[0]!r}")
    files, columns = named or ([row[0] for row in rows], {"label": [(*row, "")[1] for row in rows]})
    if named is None and (more := {*columns["label"]} & {cell for row in rows for cell in row[2:]} - {""}):
        raise ValueError(
            f"data={str(path)!r} has labels such as {min(more)!r} in more columns than one, which have no names; write "
            "the labels of an image into one column, separated by |"
        )
    for number, (file, row) in enumerate(zip(files, rows[named is not None :], strict=True), start=1):
        if not file:
            raise ValueError(f"data={str(path)!r}: row {number} must have a path and a label; it is {row}")
    return files, columns


def _find_separator(line: str) -> str:
    """A tab, else the first of the others: what follows it may separate the labels of an image."""
    found = re.search(r"[,;|]", re.sub(r'"[^"]*"', "", line))
    return "\t" if "\t" in line else found[0] if found else ","


def _find_columns(table: dict[str, list[Any]]) -> Table | None:
    """The column of files and those of labels, or of numbers; None where either is missing."""
    lower = {_plain_name(name): name for name in reversed(table)}
    file = next((lower[known] for known in _FILE_COLUMNS if known in lower), None)
    if file is None:
        return None
    label = next((known for known in LABEL_COLUMNS if known in lower), None)
    if label is not None:
        return table[file], {label: table[lower[label]]}
    # "" and "Unnamed: 0" number the rows where pandas wrote the list.
    passed = {*_FILE_COLUMNS, "", "unnamed:_0"}
    others = {name: cells for name, cells in table.items() if _plain_name(name) not in passed}
    return (table[file], others) if any(map(holds_numbers, others.values())) else None


def _plain_name(column: str) -> str:
    return column.strip().lower().replace(" ", "_")


def _json_table(path: Path) -> Table:
    data = list(map(json.loads, read_lines(path))) if path.suffix.lower() == ".jsonl" else json.loads(read_text(path))
    if isinstance(data, dict):
        held = next(iter(data.values()), None)
        if len(data) > 1 or not isinstance(held, list) or not all(isinstance(entry, dict) for entry in held):
            return list(data), {"label": list(data.values())}
        data = held  # {"images": [{"path": …}, …]}
    if data == []:
        return [], {"label": []}
    found: list[Table] = []
    for number, entry in enumerate(data if isinstance(data, list) else [data], start=1):
        columns = (
            _find_columns({str(name): [cell] for name, cell in entry.items()}) if isinstance(entry, dict) else None
        )
        if columns is None:
            raise ValueError(f'data={str(path)!r}: entry {number} must be {{"path": …, "label": …}}; it is {entry!r}')
        found.append(columns)
    files = [str(names[0]) for names, _ in found]
    if all(name in LABEL_COLUMNS for _, columns in found for name in columns):
        return files, {next(iter(found[0][1]), "label"): [cell for _, columns in found for (cell,) in columns.values()]}
    names = dict.fromkeys(name for _, columns in found for name in columns)
    return files, {name: [columns.get(name, [None])[0] for _, columns in found] for name in names}


def _text_table(path: Path) -> Table:
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        row = line.rsplit("\t" if "\t" in line else None, maxsplit=1)
        if len(row) != 2 and (separator := next((s for s in ",;" if s in line), None)):
            row = line.rsplit(separator, maxsplit=1)
        if len(row) != 2 or not all(cell.strip() for cell in row):
            raise ValueError(f"data={str(path)!r}: line {number} must be a path and a label; it is {line!r}")
        rows.append((row[0].strip().rstrip(",;"), row[1].strip()))
    found = _find_columns({name: [row[i] for row in rows[1:]] for i, name in enumerate(rows[0])}) if rows else None
    return found or ([file for file, _ in rows], {"label": [label for _, label in rows]})
