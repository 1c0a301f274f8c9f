"""TFRecords of labelled images in ImageNet's layout, indexed for random access without reading the images."""

import os
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..files import read_lines

RECORD_NAME = re.compile(r"-\d{5}-of-\d{5}$|\.tfrecords?(-\d{5}-of-\d{5})?$|\.tfrec$")
CLASSES_FILE = "labels.txt"
# What others call it: mmcls, and tensorflow_datasets beside the records of a data set.
CLASSES_FILES = (CLASSES_FILE, "classes.txt", "label.labels.txt", "labels.labels.txt")

# Names of the features: what holds the image, what holds its label or labels, and the label of the first class.
# ImageNet's records (tensorflow/models, build_imagenet_data.py) count from 1, tensorflow_datasets' from 0.
LAYOUTS = (("image/encoded", "image/class/label", 1), ("image", "label", 0), ("image", "labels", 0))

_LENGTH_DELIMITED = 2


def index_records(files: Sequence[str]) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
    """Where the images of TFRecord files are.

    Only the frames of the records and of the features in them are read, not the images.

    Returns:
        (index into `files` int64 (n,), offset and length of each encoded image int64 (n, 2), its labels from 0).

    Raises:
        ValueError: a file that is cut, or a record without image and label.
    """
    owners: list[int] = []
    spans: list[tuple[int, int]] = []
    labels: list[list[int]] = []
    for number, path in enumerate(files):
        with open(path, "rb") as file:
            for start, length in _records(file, path):
                features = _features(file, start, start + length)
                for image, label, first in LAYOUTS:
                    if image in features and label in features:
                        spans.append(_bytes_value(file, *features[image]))
                        labels.append([value - first for value in _int_values(file, *features[label])])
                        owners.append(number)
                        break
                else:
                    wanted = " or ".join(f"{image!r} and {label!r}" for image, label, _ in LAYOUTS)
                    raise ValueError(
                        f"{path}: the record at byte {start} has no {wanted}; it has {', '.join(sorted(features))}"
                    )
    return np.array(owners, "int64"), np.array(spans, "int64").reshape(-1, 2), labels


def read_class_names(folder: Path) -> tuple[str, ...] | None:
    """The names in the first of `CLASSES_FILES` that is there, one a line; None where there is none."""
    for name in CLASSES_FILES:
        if (folder / name).is_file():
            return tuple(read_lines(folder / name))
    return None


def _records(file: BinaryIO, path: str) -> Iterator[tuple[int, int]]:
    """(offset, length) of each record: 8 bytes of length, 4 of checksum, the data, 4 of checksum."""
    size, position = os.fstat(file.fileno()).st_size, 0
    while position < size:
        file.seek(position)
        header = file.read(12)
        end = position + 16 + (struct.unpack("<Q", header[:8])[0] if len(header) == 12 else size)
        if end > size:
            raise ValueError(f"{path}: not a TFRecord file, or cut: a record at byte {position} is not whole")
        yield position + 12, end - position - 16
        position = end


def _fields(file: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, wire type, start of the value, its end) of each field of the protocol buffer message in start..end."""
    position = start
    while position < end:
        file.seek(position)
        head = file.read(20)  # two varints of ten bytes at most
        key, used = _varint(head, 0)
        kind = key & 7
        value, after = _varint(head, used)
        if kind == _LENGTH_DELIMITED:
            first = position + after
            last = first + value
        elif kind == 0:
            first, last = position + used, position + after
        else:
            raise ValueError(f"a feature at byte {position} is of wire type {kind}, which no tf.Example has there")
        if last > end:
            raise ValueError(f"a feature at byte {position} is cut")
        yield key >> 3, kind, first, last
        position = last


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise ValueError("broken protocol buffer: a number that does not end")
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position


def _features(file: BinaryIO, start: int, end: int) -> dict[str, tuple[int, int]]:
    """Name and place of each `Feature` of a `tf.Example`: Example.features.feature is a map of name to Feature."""
    found = {}
    for _, _, first, last in _fields(file, start, end):
        for _, _, entry, entry_end in _fields(file, first, last):
            parts = {number: (begin, stop) for number, _, begin, stop in _fields(file, entry, entry_end)}
            if 1 in parts and 2 in parts:
                file.seek(parts[1][0])
                found[file.read(parts[1][1] - parts[1][0]).decode("utf-8", "replace")] = parts[2]
    return found


def _bytes_value(file: BinaryIO, start: int, end: int) -> tuple[int, int]:
    """Feature.bytes_list.value[0]: its offset and length."""
    for _, _, first, last in _fields(file, start, end):
        for _, _, begin, stop in _fields(file, first, last):
            return begin, stop - begin
    raise ValueError(f"the image at byte {start} is empty")


def _int_values(file: BinaryIO, start: int, end: int) -> list[int]:
    """Feature.int64_list.value, packed or not; an empty list is one, an empty feature is an error."""
    values = None
    for _, _, first, last in _fields(file, start, end):
        values = [] if values is None else values
        for _, _, begin, stop in _fields(file, first, last):
            file.seek(begin)
            data, position = file.read(stop - begin), 0
            while position < len(data):
                value, position = _varint(data, position)
                values.append(value - (1 << 64) if value >> 63 else value)
    if values is None:
        raise ValueError(f"the label at byte {start} is empty")
    return values
