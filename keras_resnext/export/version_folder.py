"""A version on disk, BASE/NAME/VERSION as TF Serving has it: what its files are called, and how it gets there whole."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..claims import claimed
from ..files import made_folder
from .export_options import MAX_VERSION

GRAPH = "saved_model.pb"
MANIFEST = "manifest.json"
LITERT_FILE = "model.tflite"  # what TF Serving's --prefer_tflite_model looks for
KERAS_FILE = "assets.extra/model.keras"  # the model itself, for what a SavedModel cannot do: Grad-CAM
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"


def find_versions(folder: Path) -> dict[int, Path]:
    """Folders by version, those with a graph; one that is being copied may still lack other files."""
    try:
        inside = list(os.scandir(folder))
    except OSError:
        return {}
    return {
        int(entry.name): Path(entry.path)
        for entry in inside
        if entry.name.isdecimal() and os.path.isfile(os.path.join(entry.path, GRAPH))
    }


@dataclass
class NewVersion:
    """A version that is being written.

    Attributes:
        aside: the folder to make and fill.
        path: where it is once the block of `placed_version` has ended; before that, the base.
    """

    aside: Path
    path: Path


@contextmanager
def placed_version(base: Path, version: int | None = None) -> Iterator[NewVersion]:
    """A folder aside to fill, which becomes BASE/VERSION by one rename once the block ends.

    After an error nothing stays, and what a killed export left is removed by the next. `files.placed_whole` moves a
    folder's files one by one, which is too little here: TF Serving looks at the base every second and loads what it
    finds. It takes integer names alone, and so does not see the folder aside.

    Args:
        base: folder of the model; made where it is missing.
        version: its number; default the highest plus one, and one more where another export takes that meanwhile.

    Raises:
        FileExistsError: the version exists already.
        OSError: the disk refuses, whichever library was writing.
    """
    if version is not None and (base / str(version)).exists():
        raise FileExistsError(f"version={version} exists already: {base / str(version)}")
    with made_folder(base), claimed(base) as prefix:
        new = NewVersion(aside=base / f"{prefix}export", path=base)
        yield new
        for file in new.aside.rglob("*"):
            if file.is_file():
                with open(file, "r+b") as written:
                    os.fsync(written.fileno())
        new.path = _publish(new.aside, base, version)


def _publish(aside: Path, base: Path, version: int | None) -> Path:
    while True:
        target = base / str(_next_version(base) if version is None else version)
        try:
            os.rename(aside, target)
            return target
        except OSError:
            # Another export may have taken the number meanwhile.
            if not target.exists():
                raise
            if version is not None:
                raise FileExistsError(f"version={version} exists already: {target}") from None


def _next_version(base: Path) -> int:
    numbers = [int(folder.name) for folder in base.iterdir() if folder.name.isdecimal()]
    return 1 + max((number for number in numbers if number < MAX_VERSION), default=0)
