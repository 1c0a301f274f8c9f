"""What a data check found, as a table, CSV and JSON."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

# What can be wrong, the gravest first, and how it is said.
KINDS = {
    "unreadable": "unreadable images",
    "leak": "validation images that are in the training set too",
    "conflict": "copies of one image with different labels",
    "label": "labels that look wrong",
    "duplicate": "copies of an image in the same set",
    "imbalance": "classes with few images",
    "dark": "dark images",
    "bright": "overexposed images",
    "plain": "images that show almost nothing",
    "blurred": "blurred images",
    "tiny": "images much smaller than the others",
    "shape": "very long images",
}


@dataclass(frozen=True)
class Finding:
    """One thing that looks wrong.

    Attributes:
        kind: one of `KINDS`.
        split: "train" or "val".
        image: its name; empty where the finding is of a class.
        label: the name of its class, of several `a|b`.
        reason: what is wrong, in words.
        severity: the larger the worse, among findings of one kind.
        other: the image of which it is a copy.
        index: place of the image in its split; None of a class.
    """

    kind: str
    split: str
    image: str
    label: str
    reason: str
    severity: float = 0.0
    other: str = ""
    index: int | None = None


def counts_of(findings: Sequence[Finding]) -> dict[str, int]:
    """How many there are of each kind, the gravest first, without those of none."""
    found = Counter(finding.kind for finding in findings)
    return {kind: found[kind] for kind in KINDS if found[kind]}


@dataclass(frozen=True)
class DataReport:
    """What a data check found.

    Attributes:
        images: how many images each split has, such as {"train": 900, "val": 100}.
        classes: their names.
        findings: the gravest kind first, and in each the worst first.
        labels_judged: whether a model looked for labels that look wrong.
        seconds: it took.
    """

    images: dict[str, int]
    classes: tuple[str, ...]
    findings: tuple[Finding, ...]
    labels_judged: bool
    seconds: float

    def counts(self) -> dict[str, int]:
        """How many findings there are of each kind, without those of none."""
        return counts_of(self.findings)

    def worst(self, count: int) -> tuple[Finding, ...]:
        """Up to `count` findings of images, shared among the kinds, each kind's worst first."""
        of_images = [finding for finding in self.findings if finding.index is not None]
        before = Counter[str]()
        turns = []
        for finding in of_images:
            turns.append(before[finding.kind])
            before[finding.kind] += 1
        first = sorted(range(len(of_images)), key=lambda i: turns[i])[:count]
        return tuple(of_images[i] for i in sorted(first))

    def facts(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return {
            "images": self.images,
            "classes": list(self.classes),
            "counts": self.counts(),
            "findings": [asdict(finding) for finding in self.findings],
            "labels_judged": self.labels_judged,
            "seconds": self.seconds,
        }

    def csv(self) -> bytes:
        """A row a finding, under the names of the columns."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["kind", "split", "image", "class", "reason", "other", "severity"])
        for f in self.findings:
            writer.writerow([f.kind, f.split, f.image, f.label, f.reason, f.other, f"{f.severity:.4g}"])
        return stream.getvalue().encode("utf-8", "surrogateescape")
