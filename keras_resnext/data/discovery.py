"""Finds labelled images: folders of class folders, lists, TFRecords, and their parts for training and validation."""

import fnmatch
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from . import tfds
from .class_names import check_names, numbered
from .folders import COMMON, read_folders
from .list_files import LISTS, read_list
from .listing import Listing
from .records import RECORD_NAME, index_records, read_class_names
from .targets import multi_hot

SPLITS = {"train": ("train", "training"), "val": ("val", "validation", "valid", "test")}


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


def read_listing(
    path: str | os.PathLike[str], classes: Sequence[str] | None = None, *, arrays: bool = False
) -> Listing:
    """Finds labelled images.

    Args:
        path: a folder with one folder of images a class (searched downwards, classes sorted by name, as torchvision's
            ImageFolder); a list: .csv with columns `path` and `label` (a header is optional), .json with
            [{"path": …, "label": …}, …] or {path: label}, .jsonl with such an entry a line, or .txt with "path number"
            lines as mmcls has them, paths relative to the list; several labels or numbers an image stand in lists as
            `targets.read_targets` says; a folder or a pattern (`records/train*`) of TFRecords
            in ImageNet's layout; `tfds:NAME`, of a data set of tensorflow_datasets what it has to validate on, else
            all of it (`find_splits` gives both parts).
        classes: the names that are expected, in order, such as those of the training images; default as found.
        arrays: whether .npy files in folders are images, as they are of other than three channels.

    Raises:
        FileNotFoundError: there is nothing at `path`, or a listed image is missing.
        ValueError: no images, one class alone, an empty class, names that differ in case alone, labels out of range,
            or a list that cannot be read.
    """
    path = next(part for part in reversed(find_splits(path)) if part) if tfds.is_name(path) else Path(path)
    listing = _find(path, None if classes is None else tuple(classes), arrays)
    if not len(listing):
        raise ValueError(f"data={str(path)!r} holds no images ({COMMON})")
    if not listing.classes:
        raise ValueError(f"data={str(path)!r}: no image has a label")
    if classes is None and len(listing.classes) < 2 and listing.kind == "single":
        raise ValueError(f"data={str(path)!r} has one class alone, {listing.classes[0]!r}; at least two are needed")
    check_names(listing.classes)
    return listing


def _find(path: Path, classes: tuple[str, ...] | None, arrays: bool) -> Listing:
    if path.is_dir():
        records = sorted(str(path / name) for name in os.listdir(path) if RECORD_NAME.search(name))
        return _read_records(path, records, classes) if records else read_folders(path, classes, arrays)
    if "*" in path.name and path.parent.is_dir():
        records = sorted(str(file) for file in path.parent.glob(path.name) if RECORD_NAME.search(file.name))
        return _read_records(path.parent, records, classes)
    if not path.exists():
        raise FileNotFoundError(f"data={str(path)!r}: there is no such file or folder")
    if RECORD_NAME.search(path.name):
        return _read_records(path.parent, [str(path)], classes)
    if path.suffix.lower() not in LISTS:
        raise ValueError(f"data={str(path)!r} must be a folder, a list ({', '.join(LISTS)}) or TFRecords")
    return read_list(path, classes)


def _read_records(folder: Path, files: list[str], expected: tuple[str, ...] | None) -> Listing:
    owners, spans, labels = index_records(files)
    flat = [label for row in labels for label in row]
    names = numbered(flat, expected or read_class_names(folder), folder)
    single = all(len(row) == 1 for row in labels)
    found = np.array(flat, "int64") if single else multi_hot(labels, len(names))
    return Listing(tuple(files[i] for i in owners), found, names, spans, "single" if single else "multi")
