"""Looks through a data set for what makes training fail or validation lie."""

import os
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from rich.console import Console

from ..data import Listing, describe, find_splits, find_unreadable, read_listing
from ..progress import Bar
from .findings import KINDS, DataReport, Finding, counts_of
from .image_facts import COARSE, FACTS, SIDE, facts_of
from .image_rules import odd_images, rare_classes
from .near_duplicates import find_duplicates

if TYPE_CHECKING:
    from ..classifier import Classifier, Model
    from ..network.input_preprocessing import Given

WORDS = {"train": "training", "val": "validation"}


class Looks:
    """What each image of a split tells, gathered while it is decoded for whatever reason.

    Attributes:
        side: pixels of the sides that a JPEG must keep when it is decoded.
        seen: bool (n,), the images that were decoded.
        facts: `FACTS` (n,) of those.
    """

    def __init__(self, count: int, *, sharpness: bool = True) -> None:
        self.sharpness, self.side = sharpness, SIDE if sharpness else COARSE
        self.seen, self.facts = np.zeros(count, bool), np.zeros(count, FACTS)

    def __call__(self, index: int, data: bytes, size: tuple[int, int], image: Image.Image) -> None:
        self.facts[index] = facts_of(data, size, image, sharpness=self.sharpness)
        self.seen[index] = True


def check_data(
    data: str | os.PathLike[str] | Listing,
    val: str | os.PathLike[str] | Listing | None = None,
    *,
    model: "Model | None" = None,
    preprocessing: "Given" = None,
    image_size: int | None = None,
    ignore: Collection[str] = (),
    console: Console | None = None,
) -> DataReport:
    """Looks for what is wrong with images and labels; changes nothing.

    Each image is decoded once, coarsely, on all processors. Copies are found by a perceptual hash, also those that were
    saved again or resized; brightness, blur and sizes by fixed limits (`image_rules`); labels that look wrong only with
    a model (`doubtful_labels`), for which the images are read a second time.

    Args:
        data: what `data.read_listing` takes, a folder with train and val included, or images to train on.
        val: images to validate on; default those of the folder.
        model: what knows images of this kind, as `open_classifier` takes it. Of a Keras model the features judge, and
            its classes do not matter; an export judges by its scores.
        preprocessing, image_size: of that model, as in `open_classifier`.
        ignore: kinds of findings that are normal here, of `findings.KINDS`.
        console: where to show progress; default nowhere.

    Raises:
        FileNotFoundError: a path to nothing.
        ValueError: data that cannot be read, an unknown kind, or a model that cannot judge these labels.
    """
    if unknown := [kind for kind in ignore if kind not in KINDS]:
        raise ValueError(f"ignore={unknown[0]!r} must be one of {', '.join(KINDS)}")
    started, console = time.monotonic(), console or Console(quiet=True)
    splits = read_splits(data, val)
    classifier = None if model is None or "label" in ignore else _open(model, splits, image_size, preprocessing)
    looks = {name: Looks(len(listing), sharpness="blurred" not in ignore) for name, listing in splits.items()}
    findings = []
    for name, listing in splits.items():
        look = looks[name]
        with Bar(f"Looking at the {WORDS[name]} images", len(listing), console, unit="images") as bar:
            problems = find_unreadable(listing, progress=bar.update, look=look, side=look.side)
        findings += [_finding(splits, "unreadable", name, i, reason) for i, reason in problems.items()]
    seen = Seen.of(splits, looks)
    groups = find_duplicates(seen.facts)
    findings += review(seen, groups)
    if classifier is not None:
        from .doubtful_labels import judge

        with Bar("Judging the labels", len(seen.facts), console, unit="images") as bar:
            doubtful = judge(seen.read, seen.labels, splits["train"].classes, classifier, groups, bar)
        findings += [seen.finding("label", i, reason, severity) for i, reason, severity in doubtful]
    return DataReport(
        images={name: len(listing) for name, listing in splits.items()},
        classes=splits["train"].classes,
        findings=_sorted(finding for finding in findings if finding.kind not in ignore),
        labels_judged=classifier is not None,
        seconds=time.monotonic() - started,
    )


@dataclass(frozen=True)
class Seen:
    """The images of all splits that could be decoded, those to train on first.

    Attributes:
        splits: the listings by name, "train" and perhaps "val".
        places: (split, index in it) of each image.
        facts: `FACTS` (n,).
    """

    splits: Mapping[str, Listing]
    places: tuple[tuple[str, int], ...]
    facts: np.ndarray

    @classmethod
    def of(cls, splits: Mapping[str, Listing], looks: Mapping[str, Looks]) -> "Seen":
        """What was looked at."""
        places = tuple((name, i) for name in splits for i in np.flatnonzero(looks[name].seen).tolist())
        return cls(splits, places, np.concatenate([looks[name].facts[looks[name].seen] for name in splits]))

    @property
    def labels(self) -> np.ndarray:
        """(n,) or (n, labels), as `Listing.labels`."""
        owners = np.array([split for split, _ in self.places])
        indices = np.array([i for _, i in self.places], "int64")
        return np.concatenate([listing.labels[indices[owners == name]] for name, listing in self.splits.items()])

    def name(self, i: int) -> str:
        """Of image `i`."""
        split, index = self.places[i]
        return self.splits[split].name(index)

    def read(self, i: int) -> bytes:
        """The file's content."""
        split, index = self.places[i]
        return self.splits[split].read(index)

    def finding(self, kind: str, i: int, reason: str, severity: float, other: str = "") -> Finding:
        """About image `i`."""
        return _finding(self.splits, kind, *self.places[i], reason, severity, other)


def review(seen: Seen, groups: np.ndarray) -> list[Finding]:
    """What is wrong with images and classes but for labels; `groups` as of `find_duplicates`."""
    found = [seen.finding(kind, i, reason, severity) for kind, i, reason, severity in odd_images(seen.facts)]
    for split, name, reason, severity in rare_classes(seen.splits):
        found.append(Finding("imbalance", split, "", name, reason, float(severity)))
    labels = seen.labels
    for i in np.flatnonzero(groups != np.arange(len(groups))).tolist():
        first = int(groups[i])
        same_file = seen.facts["digest"][i] == seen.facts["digest"][first]
        reason = f"{'is the same file as' if same_file else 'shows the same as'} {seen.name(first)}"
        crossing = seen.places[i][0] != seen.places[first][0]
        differing = bool(np.any(labels[i] != labels[first]))
        kinds = ["leak"] * crossing + ["conflict"] * differing or ["duplicate"]
        label = _label(seen.splits, *seen.places[first])
        said = {"conflict": f"{reason}, which is labelled {label}"}
        found += [seen.finding(kind, i, said.get(kind, reason), float(same_file), seen.name(first)) for kind in kinds]
    return found


def summarise_looks(splits: Mapping[str, Listing], looks: Mapping[str, Looks]) -> dict[str, int]:
    """How many findings there are of each kind, those of none left out; nothing where a split was not looked at."""
    if not all(look.seen.any() for look in looks.values()):
        return {}
    seen = Seen.of(splits, looks)
    return counts_of(review(seen, find_duplicates(seen.facts)))


def _open(
    model: "Model", splits: Mapping[str, Listing], image_size: int | None, preprocessing: "Given"
) -> "Classifier":
    """Keras is imported only where there is a model."""
    from ..classifier import open_classifier

    if (listing := splits["train"]).kind != "single":
        raise ValueError(f"model={model!r} judges labels of one class an image; the data has {describe(listing)}")
    return open_classifier(model, image_size=image_size, preprocessing=preprocessing)


def read_splits(
    data: str | os.PathLike[str] | Listing, val: str | os.PathLike[str] | Listing | None = None
) -> dict[str, Listing]:
    """The images of "train" and, where there are some, of "val", as `check_data` takes them; errors as there."""
    training, beside = (data, None) if isinstance(data, Listing) else _read(data)
    if val is not None:
        beside = val if isinstance(val, Listing) else read_listing(val, training.classes)
    found = {"train": training} | ({} if beside is None else {"val": beside})
    for name, listing in found.items():
        if not len(listing):
            raise ValueError(f"data holds no {WORDS[name]} images")
        if listing.kind != training.kind or listing.classes != training.classes:
            raise ValueError(f"val has {describe(listing)}, other labels than data, which has {describe(training)}")
    return found


def _read(data: str | os.PathLike[str]) -> tuple[Listing, Listing | None]:
    place, beside = find_splits(data)
    training = read_listing(place)
    return training, None if beside is None else read_listing(beside, training.classes)


def _finding(
    splits: Mapping[str, Listing], kind: str, split: str, index: int, reason: str, severity: float = 0, other: str = ""
) -> Finding:
    name, label = splits[split].name(index), _label(splits, split, index)
    return Finding(kind, split, name, label, reason, float(severity), other, index)


def _label(splits: Mapping[str, Listing], split: str, index: int) -> str:
    listing = splits[split]
    if listing.kind == "single":
        return listing.classes[listing.labels[index]]
    if listing.kind == "multi":
        return "|".join(listing.classes[i] for i in np.flatnonzero(listing.labels[index]))
    return "|".join(f"{value:g}" for value in listing.labels[index])


def _sorted(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    order = list(KINDS)
    return tuple(sorted(findings, key=lambda finding: (order.index(finding.kind), -finding.severity)))
