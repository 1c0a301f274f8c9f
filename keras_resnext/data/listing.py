"""Labelled images in files, of which none is opened yet."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Listing:
    """Labelled images in files.

    Attributes:
        files: n paths.
        labels: as `kind` has it.
        classes: names of the classes or labels; of numbers, what they are called.
        spans: int64 (n, 2), offset and length in bytes of each image inside its file; None where files are images.
        kind: "single": one class an image, `labels` int64 (n,), indices into `classes`. "multi": any number of labels,
            none too, uint8 (n, classes) of 0 and 1. "raw": numbers, float64 (n, numbers).
    """

    files: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    spans: np.ndarray | None = None
    kind: str = "single"

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

    def targets(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """float32 (n, classes): what a model is to give for each image: 1 at its class or labels, or its numbers."""
        if self.kind == "single":
            return np.eye(len(self.classes), dtype="float32")[self.labels[indices]]
        return self.labels[indices].astype("float32")

    def counts(self) -> np.ndarray:
        """int64 (classes,): how many images have each class or label; all of them have each number."""
        if self.kind == "single":
            return np.bincount(self.labels, minlength=len(self.classes))
        return self.labels.astype(bool).sum(0) if self.kind == "multi" else np.full(len(self.classes), len(self))

    def fingerprint(self) -> str:
        """SHA-256 in hex of classes, labels, file names and sizes, wherever the folder stands."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
        digest.update(self.labels.astype("<f8" if self.kind == "raw" else "<i8").tobytes())
        distinct = sorted(set(self.files))
        root = os.path.commonpath([os.path.dirname(file) for file in distinct]) if distinct else ""
        sizes = {file: os.path.getsize(file) if os.path.exists(file) else -1 for file in distinct}  # links to nothing
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


def split_listing(listing: Listing, share: float, seed: int) -> tuple[Listing, Listing]:
    """Takes the same random share of each class away, at least one image.

    Of images with several labels, the same share of those that have a label in common which is their rarest; a label
    that one image alone has stays with the others.

    Args:
        listing: all images.
        share: of each class, between 0 and 1.
        seed: of which ones.

    Returns:
        (the others, those taken away), with the same classes.

    Raises:
        ValueError: images with numbers, `share` is not between 0 and 1, or a class has too few images to be shared.
    """
    if listing.kind == "raw":
        raise ValueError("listing.kind='raw' must be 'single' or 'multi': a share of each class is held out")
    if not 0 < share < 1:
        raise ValueError(f"validation={share!r} must lie between 0 and 1")
    rng = np.random.default_rng(seed)
    taken = np.zeros(len(listing), bool)
    owners = listing.labels if listing.kind == "single" else _rarest_labels(listing)
    for label, name in enumerate((*listing.classes, "none")):
        members = rng.permutation(np.flatnonzero(owners == label))
        if not len(members):  # a list may skip numbers
            continue
        count = max(1, round(len(members) * share))
        if count >= len(members):
            if listing.kind == "multi":
                continue
            raise ValueError(f"class {name!r} has {len(members)} images, too few to hold out {share:.0%} of them")
        taken[members[:count]] = True
    if not taken.any():
        raise ValueError(f"{len(listing)} images are too few to hold out {share:.0%} of them")
    return listing.select(np.flatnonzero(~taken)), listing.select(np.flatnonzero(taken))


def _rarest_labels(listing: Listing) -> np.ndarray:
    """int64 (n,): of each image's labels the one that the fewest images have; for none, the number of labels.

    Shared out by these, as many images of a rare label are on both sides as of a frequent one (Sechidis et al. 2011,
    "On the stratification of multi-label data", in one pass).
    """
    counts = np.where(listing.labels > 0, listing.counts(), len(listing) + 1)
    return np.where(listing.labels.any(1), counts.argmin(1), len(listing.classes))
