"""Images in class folders."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from .class_names import ordered
from .listing import Listing

# torchvision's ImageFolder, and GIF.
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")


def read_folders(root: Path, expected: tuple[str, ...] | None) -> Listing:
    found = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if not found:
        raise ValueError(f"data={str(root)!r} holds no class folders")
    names = ordered(found, expected, root)
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
