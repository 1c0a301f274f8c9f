"""Labelled images written as TFRecords in ImageNet's layout (tensorflow/models, build_imagenet_data.py)."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf
from rich.console import Console

from ..files import placed_whole
from ..preprocessing import open_image
from ..progress import Bar
from .check import leave_out_unreadable
from .discovery import find_splits, read_listing
from .listing import Listing
from .records import CLASSES_FILE, LAYOUTS

SHARD_BYTES = 100_000_000  # of images in a file, where no number of files is given
MOST_SHARDS = 99_999  # five digits in their names
READ_AHEAD = 64  # images in memory

_FIRST_LABEL = LAYOUTS[0][2]
# Names of colour spaces as ImageNet's records have them; others are called as Pillow calls them.
_COLOUR_SPACES = {"RGB": "RGB", "L": "Grayscale", "1": "Grayscale"}


def write_records(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    shards: int | None = None,
    seed: int = 0,
    strict: bool = False,
    limit: int | None = None,
    console: Console | None = None,
) -> dict[str, Listing]:
    """Writes a data set of classes or labels as TFRecords that `find_splits` and `read_listing` find again.

    Its classes stand in labels.txt beside them. Encoded images are copied byte for byte, whatever their format; at most
    `READ_AHEAD` of them are in memory.

    Args:
        data: what `read_listing` takes, or a folder with train and val: of that, `validation-…` is written too.
        output: the folder for `train-00000-of-00008` and so on: absent, or empty. All appears in it at the end.
        shards: number of files of training images; default so many that each has about 100 MB. Those of validation
            have as many images each.
        seed: of the order of the images.
        strict, limit: of `check_images`.
        console: where to tell of progress and of what is left out.

    Returns:
        {"train": the images written, "validation": …}, in the order in which they are written.

    Raises:
        FileExistsError, NotADirectoryError: `output` is not empty, or no folder; nothing is read then.
        ValueError: as `read_listing` and `check_images`; `shards` out of range; a class name of more than one line;
            numbers for labels.
        OSError: a file cannot be read, or written, such as on a full disk; `output` is left as it was.
    """
    console = console or Console(quiet=True)
    with placed_whole(output, folder=True) as folder:
        listings = _find(data)
        if shards is not None and not 1 <= shards <= (most := min(MOST_SHARDS, len(listings["train"]))):
            raise ValueError(f"shards={shards!r} must lie in 1..{most}; there are {len(listings['train'])} images")
        if any(listing.kind == "raw" for listing in listings.values()):
            raise ValueError(f"data={os.fspath(data)!r} has numbers for labels; records hold classes and labels")
        names = _class_lines(listings["train"].classes)
        rng = np.random.default_rng(seed)
        for split, listing in listings.items():
            listing = leave_out_unreadable(listing, split, strict=strict, limit=limit, console=console)
            listings[split] = listing.select(rng.permutation(len(listing)))
        shards = shards or min(MOST_SHARDS, max(1, round(_size(listings["train"]) / SHARD_BYTES)))
        share = shards / len(listings["train"])
        with Bar("Writing", sum(map(len, listings.values())), console, unit="images") as bar:
            for split, listing in listings.items():
                count = shards if split == "train" else min(MOST_SHARDS, max(1, round(len(listing) * share)))
                for number, part in enumerate(np.array_split(np.arange(len(listing)), count)):
                    _write_shard(listing.select(part), folder / f"{split}-{number:05}-of-{count:05}", bar.advance)
        (folder / CLASSES_FILE).write_bytes(names)
    return listings


def make_example(data: bytes, labels: Sequence[int], texts: Sequence[str], filename: str) -> tf.train.Example:
    """One record: `data` as it is, and what its header says.

    Args:
        data: the encoded image.
        labels: its class, or all of its labels, counted from 0; the record counts from 1, as ImageNet's.
        texts: the name of each.
        filename: where it came from, without folders.
    """
    with open_image(data) as image:
        (width, height), mode, kind, channels = image.size, image.mode, image.format, len(image.getbands())
    if kind == "MPO":  # Pillow's name of a JPEG file with more images behind the first, as phones write them
        kind = "JPEG"
    numbers = {
        "image/height": [height],
        "image/width": [width],
        "image/channels": [channels],
        "image/class/label": [label + _FIRST_LABEL for label in labels],
    }
    strings = {
        "image/encoded": [data],
        "image/format": [str(kind).encode()],
        "image/colorspace": [_COLOUR_SPACES.get(mode, mode).encode()],
        "image/class/text": [text.encode() for text in texts],
        "image/filename": [os.fsencode(filename)],
    }
    features = {k: tf.train.Feature(int64_list=tf.train.Int64List(value=v)) for k, v in numbers.items()}
    features |= {k: tf.train.Feature(bytes_list=tf.train.BytesList(value=v)) for k, v in strings.items()}
    return tf.train.Example(features=tf.train.Features(feature=features))


def _find(data: str | os.PathLike[str]) -> dict[str, Listing]:
    place, beside = find_splits(data)
    listings = {"train": read_listing(place)}
    if beside is not None:
        listings["validation"] = read_listing(beside, listings["train"].classes)
    return listings


def _class_lines(classes: tuple[str, ...]) -> bytes:
    lines = "".join(f"{name}\n" for name in classes)
    if lines.splitlines() != list(classes):
        wrong = next(name for name in classes if f"{name}\n".splitlines() != [name])
        raise ValueError(f"class name {wrong!r} must be one line of text, as {CLASSES_FILE} has one class a line")
    return lines.encode()


def _size(listing: Listing) -> int:
    return sum(map(os.path.getsize, listing.files)) if listing.spans is None else int(listing.spans[:, 1].sum())


def _write_shard(listing: Listing, path: Path, advance: Callable[[int], None]) -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for index, data in enumerate(_read(listing)):
            found = listing.labels[index]
            labels = [int(found)] if listing.kind == "single" else np.flatnonzero(found).tolist()
            filename = os.path.basename(listing.name(index))
            example = make_example(data, labels, [listing.classes[label] for label in labels], filename)
            writer.write(example.SerializeToString())
            advance(1)
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _read(listing: Listing) -> Iterator[bytes]:
    """The encoded images in order, a few at a time by several threads, for disks where each takes long to find."""
    with ThreadPoolExecutor(8) as pool:
        for start in range(0, len(listing), READ_AHEAD):
            yield from pool.map(listing.read, range(start, min(start + READ_AHEAD, len(listing))))
