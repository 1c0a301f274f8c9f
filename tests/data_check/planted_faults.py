"""Folders of real images in which faults are planted, and which of them a data check finds."""

import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from keras_resnext.data_check import DataReport

VALIDATION = 0.2
# What is planted, and the kinds of findings that count as found.
COPIES = ("copy", "resaved copy", "copy in val", "resaved copy in val")
FAULTS = (*COPIES, "label", "dark", "bright", "blurred", "unreadable")
FOUND_AS = {
    "copy": {"duplicate", "conflict"},
    "resaved copy": {"duplicate", "conflict"},
    "copy in val": {"leak"},
    "resaved copy in val": {"leak"},
}


@dataclass(frozen=True)
class Planted:
    """A folder with train and val, and by file what was done to it."""

    folder: Path
    faults: dict[str, str]
    images: int


def photographs() -> dict[str, np.ndarray]:
    """uint8 (height, width, 3) of scikit-image's and scikit-learn's, by name."""
    from skimage import data

    names = ("astronaut", "coffee", "chelsea", "rocket", "camera", "coins", "brick", "grass", "gravel")
    found = {name: getattr(data, name)() for name in (*names, "immunohistochemistry", "clock")}
    try:
        from sklearn.datasets import load_sample_images

        found |= dict(zip(("temple", "flower"), load_sample_images().images, strict=True))
    except ImportError:  # not needed by the tests
        pass
    return {name: np.stack([x] * 3, -1) if x.ndim == 2 else x for name, x in found.items()}


def patches(side: int) -> tuple[list[np.ndarray], list[str]]:
    """Patches of `side` pixels that do not overlap, of all photographs, labelled with the photograph's name."""
    images, labels = [], []
    for name, photograph in photographs().items():
        height, width = (length // side for length in photograph.shape[:2])
        for y in range(height):
            for x in range(width):
                images.append(photograph[y * side : (y + 1) * side, x * side : (x + 1) * side])
                labels.append(name)
    return images, labels


def plant(
    folder: Path,
    images: list[np.ndarray],
    labels: list[str],
    share: float,
    seed: int = 0,
    suffix: str = ".jpg",
    kinds: tuple[str, ...] = FAULTS,
) -> Planted:
    """Writes images into class folders of train and val, with faults in a share of them, as many of each of `kinds`."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images)).tolist()
    count = max(1, round(share * len(images) / len(kinds)))
    faulty = dict(zip(order, [fault for fault in kinds for _ in range(count)], strict=False))
    names, faults = sorted(set(labels)), {}
    for number, i in enumerate(order):
        fault = faulty.get(i, "")
        split = "val" if rng.random() < VALIDATION and "copy" not in fault else "train"
        image, label = Image.fromarray(images[i]), labels[i]
        if fault == "label":
            label = str(rng.choice([name for name in names if name != label]))
        path = folder / split / label / f"{number:05}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        content = _encoded(CHANGES.get(fault, lambda x: x)(image), suffix)
        path.write_bytes(content[: len(content) // 3] if fault == "unreadable" else content)
        if "copy" in fault:  # the original stays in train
            beside = folder / ("val" if "val" in fault else "train") / label / f"{number:05}_copy{suffix}"
            beside.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(_resaved(image) if "resaved" in fault else content)
            path = beside
        if fault:
            faults[str(path)] = fault
    return Planted(folder, faults, len(images) + sum("copy" in fault for fault in faults.values()))


def compare(planted: Planted, report: DataReport) -> tuple[dict[str, tuple[int, int]], dict[str, int]]:
    """({fault: (found, planted)}, {kind: false alarms}); what is found of an image with a fault is no false alarm."""
    found: dict[str, set[str]] = {}
    for finding in report.findings:
        if finding.image:
            found.setdefault(finding.image, set()).add(finding.kind)
    hits = {fault: [0, 0] for fault in FAULTS}
    for path, fault in planted.faults.items():
        hits[fault][1] += 1
        hits[fault][0] += bool(found.get(path, set()) & FOUND_AS.get(fault, {fault}))
    alarms = Counter(min(kinds) for path, kinds in found.items() if path not in planted.faults)
    return {fault: (a, b) for fault, (a, b) in hits.items() if b}, dict(alarms)


def _encoded(image: Image.Image, suffix: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, {".jpg": "JPEG", ".png": "PNG"}[suffix], **({"quality": 90} if suffix == ".jpg" else {}))
    return stream.getvalue()


def _resaved(image: Image.Image) -> bytes:
    """Another size, another quality."""
    stream = io.BytesIO()
    image.resize((round(image.width * 0.8), round(image.height * 0.8)), Image.Resampling.BICUBIC).save(
        stream, "JPEG", quality=70
    )
    return stream.getvalue()


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "dark": lambda image: image.point(lambda value: round(value * 0.12)),
    "bright": lambda image: image.point(lambda value: min(255, 235 + value // 8)),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(image.width / 24)),
}
