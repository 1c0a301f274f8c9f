"""Images in class folders."""

import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..preprocessing import image_suffixes
from .class_names import ordered
from .listing import Listing

# What operating systems, network storage and notebooks leave; beside these, names that begin with a dot.
_LEFTOVERS = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"}
_LEFTOVER_FILES = {"thumbs.db", "desktop.ini"}
COMMON = ".jpg, .jpeg, .png, .webp and the others that Pillow reads"


def read_folders(root: Path, expected: tuple[str, ...] | None, arrays: bool = False) -> Listing:
    """The images below one folder a class, with `arrays` .npy files too; other files are counted in a warning.

    Raises:
        OSError: a folder cannot be read.
        ValueError: no class folders, one without images, two of the same name, or images that would have two classes.
    """
    found: dict[str, Path] = {}
    for entry in sorted((entry for entry in os.scandir(root) if entry.is_dir()), key=lambda entry: entry.name):
        first = Path(entry.path) if _is_leftover(entry.name) else found.setdefault(_class_name(entry.name), Path(entry))
        if first != Path(entry.path):
            raise ValueError(
                f"class folders {str(first)!r} and {entry.path!r} have one name, written in two ways; rename one"
            )
    if not found:
        raise ValueError(f"data={str(root)!r} holds no class folders")
    names = ordered(sorted(found), expected, root)
    files: list[str] = []
    labels: list[int] = []
    skipped: Counter[str] = Counter()
    owners: dict[str, str] = {}  # of the folders that images lie in
    for name in sorted(found):
        others: Counter[str] = Counter()
        images = sorted(find_images(found[name], others, arrays))
        if not images:
            held = f"; it holds {_list_suffixes(others)}" if others else ""
            raise ValueError(f"class folder {str(found[name])!r} holds no images ({COMMON}){held}")
        for folder in sorted({os.path.dirname(image) for image in images}):
            if (owner := owners.setdefault(os.path.realpath(folder), name)) != name:
                raise ValueError(f"images below {folder!r} belong to two classes, {owner!r} and {name!r}, by a link")
        skipped += others
        files += images
        labels += [names.index(name)] * len(images)
    if skipped:
        kinds = _list_suffixes(skipped)
        warnings.warn(
            f"data={str(root)!r}: {skipped.total()} files are not images that Pillow reads and are skipped: {kinds}",
            stacklevel=4,
        )
    return Listing(tuple(files), np.array(labels, "int64"), names)


def find_images(folder: Path, skipped: Counter[str] | None = None, arrays: bool = False) -> Iterable[str]:
    """Paths of the images below a folder; links are followed, each folder is visited and each file given once.

    Args:
        folder: where to look.
        skipped: counts the suffixes of files that are not images.
        arrays: whether .npy files are images too.
    """
    suffixes = (*image_suffixes(), *([".npy"] if arrays else []))
    top, visited, given = os.path.realpath(folder), set[str](), set[tuple[int, int]]()
    for place, folders, names in os.walk(folder, onerror=_fail, followlinks=True):
        real = os.path.realpath(place)
        # A link up leads to other classes, and back here.
        if real in visited or (real != top and (top + os.sep).startswith(real.rstrip(os.sep) + os.sep)):
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not _is_leftover(name))
        for name in sorted(names):
            suffix = os.path.splitext(name)[1].lower()
            if suffix in suffixes and not name.startswith("."):
                path = os.path.join(place, name)
                if (file := _identify(path)) not in given:
                    given.add(file)
                    yield path
            elif skipped is not None and not name.startswith(".") and name.lower() not in _LEFTOVER_FILES:
                skipped[suffix] += 1


def _identify(path: str) -> tuple[int, int]:
    """Equal for all links to one file; a link to nothing, which whoever reads it reports, is a file of its own."""
    try:
        found = os.stat(path)
    except OSError:
        found = os.lstat(path)
    return found.st_dev, found.st_ino


def _fail(error: OSError) -> None:
    raise error  # a folder that may not be read would be passed over


def _list_suffixes(counts: Counter[str]) -> str:
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0] or "~"))[:8]
    return ", ".join(f"{suffix or 'without a suffix'} ({count})" for suffix, count in most)


def _is_leftover(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LEFTOVERS


def _class_name(folder: str) -> str:
    """A folder's name as text: bytes that are not UTF-8 are Windows-1252, and macOS's letters are composed."""
    if any("\udc80" <= letter <= "\udcff" for letter in folder):
        folder = os.fsencode(folder).decode("cp1252", errors="replace")
    return unicodedata.normalize("NFC", folder)
