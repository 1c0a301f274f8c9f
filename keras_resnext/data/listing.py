"""Which images there are and what class each has: folders of class folders, CSV, JSON and text lists, TFRecords."""

import csv
import fnmatch
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from . import tfds
from .records import CLASSES_FILE, RECORD_NAME, index_records, read_class_names

# torchvision's ImageFolder, and GIF.
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
LISTS = (".csv", ".json", ".txt")
MOST_UNNAMED = 100_000  # classes whose names nobody gives; ImageNet-21k has 21,841
SPLITS = {"train": ("train", "training"), "val": ("val", "validation", "valid", "test")}

_FILE_COLUMNS = ("path", "file", "filename", "image")
_LABEL_COLUMNS = ("label", "class", "target")


@dataclass(frozen=True)
class Listing:
    """Labelled images in files.

    Attributes:
        files: n paths.
        labels: int64 (n,), indices into `classes`.
        classes: names.
        spans: int64 (n, 2), offset and length in bytes of each image inside its file; None where files are images.
    """

    files: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    spans: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """What an error calls image `index`."""
        return self.files[index] + ("" if self.spans is None else f" at byte {self.spans[index, 0]}")

    def read(self, index: int) -> bytes:
        """The encoded image, such as the content of a JPEG file."""
        with open(self.files[index], "rb") as file:
            if self.spans is None:
                return file.read()
            offset, length = self.spans[index].tolist()
            file.seek(offset)
            return file.read(length)

    def select(self, indices: Sequence[int] | np.ndarray) -> "Listing":
        """Of these images alone, in the given order; the classes stay."""
        indices = np.asarray(indices, "int64")
        files = tuple(self.files[i] for i in indices)
        return replace(
            self, files=files, labels=self.labels[indices], spans=None if self.spans is None else self.spans[indices]
        )

    def fingerprint(self) -> str:
        """SHA-256 in hex of classes, labels, file names and sizes, wherever the folder stands."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        digest.update(self.labels.astype("<i8").tobytes())
        distinct = sorted(set(self.files))
        root = os.path.commonpath([os.path.dirname(file) for file in distinct]) if distinct else ""
        sizes = {file: os.path.getsize(file) for file in distinct}
        for file in self.files:
            digest.update(f"{os.path.relpath(file, root)}\0{sizes[file]}\0".encode("utf-8", "surrogateescape"))
        if self.spans is not None:
            digest.update(self.spans.astype("<i8").tobytes())
        return digest.hexdigest()


class CachedReader:
    """Reads each image of a listing from its file once, and keeps what is encoded in memory.

    Args:
        listing: whose images `read` gives.
    """

    def __init__(self, listing: Listing) -> None:
        self.listing, self._held = listing, dict[int, bytes]()

    def read(self, index: int) -> bytes:
        """As `Listing.read`; any number of threads may call it."""
        if (data := self._held.get(index)) is None:
            data = self._held[index] = self.listing.read(index)
        return data


def find_splits(path: str | os.PathLike[str]) -> tuple[Path, Path | None]:
    """The training and the validation part of a data set: PATH/train and PATH/val, else all of it and None.

    Folders are called as in `SPLITS`; TFRecords are told apart by the beginning of their names (`train-00000-of-…`), or
    by what follows the data set's name in tensorflow_datasets' (`cifar10-train.tfrecord-00000-of-…`). `tfds:NAME` is
    the folder of that data set (`tfds.prepare`).
    """
    root = tfds.prepare(path) if tfds.is_name(path) else Path(path)
    if not root.is_dir():
        return root, None
    found = {split: next((root / n for n in names if (root / n).is_dir()), None) for split, names in SPLITS.items()}
    if found["train"] is not None:
        return found["train"], found["val"]
    records = [name for name in os.listdir(root) if RECORD_NAME.search(name)]
    for before, after in (("", ""), ("*-", ".")):
        patterns = {
            split: next((p for p in (f"{before}{n}{after}*" for n in names) if fnmatch.filter(records, p)), None)
            for split, names in SPLITS.items()
        }
        if patterns["train"] is not None:
            return root / patterns["train"], None if patterns["val"] is None else root / patterns["val"]
    return root, None


def read_listing(path: str | os.PathLike[str], classes: Sequence[str] | None = None) -> Listing:
    """Finds labelled images.

    Args:
        path: a folder with one folder of images a class (searched downwards, classes sorted by name, as torchvision's
            ImageFolder); a list: .csv with columns `path` and `label` (a header is optional), .json with
            [{"path": …, "label": …}, …] or {path: label}, or .txt with "path number" lines as mmcls has them, paths
            relative to the list; a folder or a pattern (`records/train*`) of TFRecords in ImageNet's layout;
            `tfds:NAME`, of a data set of tensorflow_datasets what it has to validate on, else all of it (`find_splits`
            gives both parts).
        classes: the names that are expected, in order, such as those of the training images; default as found.

    Raises:
        FileNotFoundError: there is nothing at `path`, or a listed image is missing.
        ValueError: no images, one class alone, an empty class, names that differ in case alone, labels out of range,
            or a list that cannot be read.
    """
    path = next(part for part in reversed(find_splits(path)) if part) if tfds.is_name(path) else Path(path)
    listing = _find(path, None if classes is None else tuple(classes))
    if not len(listing):
        raise ValueError(f"data={str(path)!r} holds no images ({', '.join(SUFFIXES)})")
    if classes is None and len(listing.classes) < 2:
        raise ValueError(f"data={str(path)!r} has one class alone, {listing.classes[0]!r}; at least two are needed")
    _check_names(listing.classes)
    return listing


def split_listing(listing: Listing, share: float, seed: int) -> tuple[Listing, Listing]:
    """Takes the same random share of each class away, at least one image.

    Args:
        listing: all images.
        share: of each class, between 0 and 1.
        seed: of which ones.

    Returns:
        (the others, those taken away), with the same classes.

    Raises:
        ValueError: `share` is not between 0 and 1, or a class has too few images to be shared.
    """
    if not 0 < share < 1:
        raise ValueError(f"validation={share!r} must lie between 0 and 1")
    rng = np.random.default_rng(seed)
    taken = np.zeros(len(listing), bool)
    for label, name in enumerate(listing.classes):
        members = rng.permutation(np.flatnonzero(listing.labels == label))
        if not len(members):  # a list may skip numbers
            continue
        count = max(1, round(len(members) * share))
        if count >= len(members):
            raise ValueError(f"class {name!r} has {len(members)} images, too few to hold out {share:.0%} of them")
        taken[members[:count]] = True
    return listing.select(np.flatnonzero(~taken)), listing.select(np.flatnonzero(taken))


def _find(path: Path, classes: tuple[str, ...] | None) -> Listing:
    if path.is_dir():
        records = sorted(str(path / name) for name in os.listdir(path) if RECORD_NAME.search(name))
        return _read_records(path, records, classes) if records else _read_folders(path, classes)
    if "*" in path.name and path.parent.is_dir():
        records = sorted(str(file) for file in path.parent.glob(path.name) if RECORD_NAME.search(file.name))
        return _read_records(path.parent, records, classes)
    if not path.exists():
        raise FileNotFoundError(f"data={str(path)!r}: there is no such file or folder")
    if RECORD_NAME.search(path.name):
        return _read_records(path.parent, [str(path)], classes)
    if path.suffix not in LISTS:
        raise ValueError(f"data={str(path)!r} must be a folder, a list ({', '.join(LISTS)}) or TFRecords")
    return _read_list(path, classes)


def _read_folders(root: Path, expected: tuple[str, ...] | None) -> Listing:
    found = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if not found:
        raise ValueError(f"data={str(root)!r} holds no class folders")
    names = _ordered(found, expected, root)
    files: list[str] = []
    labels: list[int] = []
    for name in found:
        images = sorted(_walk(root / name))
        if not images:
            raise ValueError(f"class folder {str(root / name)!r} holds no images ({', '.join(SUFFIXES)})")
        files += images
        labels += [names.index(name)] * len(images)
    return Listing(tuple(files), np.array(labels, "int64"), names)


def _walk(folder: Path) -> Iterable[str]:
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(place, n) for n in names if n.lower().endswith(SUFFIXES) and not n.startswith("."))


def _read_list(path: Path, expected: tuple[str, ...] | None) -> Listing:
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
        names = _numbered(numbers, expected or read_class_names(path.parent), path)
        labels = np.array(numbers, "int64")
    else:
        names = _ordered(sorted(set(texts)), expected or read_class_names(path.parent), path)
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


def _read_records(folder: Path, files: list[str], expected: tuple[str, ...] | None) -> Listing:
    owners, spans, labels = index_records(files)
    names = _numbered(labels, expected or read_class_names(folder), folder)
    return Listing(tuple(files[i] for i in owners), labels, names, spans)


def _ordered(found: Sequence[str], expected: tuple[str, ...] | None, path: Path) -> tuple[str, ...]:
    if expected is None:
        return tuple(found)
    if unknown := [name for name in found if name not in expected]:
        raise ValueError(
            f"data={str(path)!r} has the classes {', '.join(map(repr, unknown[:5]))}, which are not among the expected "
            f"{len(expected)}: {', '.join(map(repr, expected[:10]))}{', …' * (len(expected) > 10)}"
        )
    return expected


def _read_number(text: str, row: int, path: Path) -> int:
    try:
        return int(text)
    except ValueError:  # such as --5
        raise ValueError(f"data={str(path)!r}: label {text!r} of row {row} is no number") from None


def _numbered(labels: Sequence[int] | np.ndarray, names: tuple[str, ...] | None, path: Path) -> tuple[str, ...]:
    """The names of the classes that `labels` number; where none are known the numbers up to the highest label."""
    count = len(names) if names is not None else MOST_UNNAMED
    for row, label in enumerate(labels, start=1):
        if not 0 <= label < count:
            known = f"{count} classes" if names is not None else f"more need their names in {CLASSES_FILE} beside"
            raise ValueError(f"data={str(path)!r}: label {label} of image {row} is outside 0..{count - 1} ({known})")
    return names if names is not None else tuple(map(str, range(int(max(labels)) + 1 if len(labels) else 0)))


def _check_names(classes: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for name in classes:
        if (key := name.strip().casefold()) in seen:
            raise ValueError(f"class names {seen[key]!r} and {name!r} are the same but for case and spaces")
        seen[key] = name
