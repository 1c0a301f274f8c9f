"""The images that a command is given: files and folders."""

from collections import Counter
from pathlib import Path


def check_files(paths: list[Path]) -> None:
    """A mistyped path should not wait for a framework."""
    for path in paths:
        if path.is_dir():
            raise ValueError(f"image={str(path)!r} is a folder, not an image")
        if not path.is_file():
            raise FileNotFoundError(f"image={str(path)!r}: there is no such file")


def find_images(paths: list[Path]) -> list[Path]:
    """The files among `paths` as given, and in place of each folder the images in it, sorted.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a folder without images.
    """
    from ..data.folders import find_images as find_below

    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            check_files([path])
            found.append(path)
            continue
        inside = sorted(map(Path, find_below(path)))
        if not inside:
            raise ValueError(f"image={str(path)!r} is a folder without images")
        found += inside
    return found


def distinct_stems(paths: list[Path]) -> list[str]:
    """File names without suffix; where several are the same, with the place in the list."""
    counts = Counter(path.stem for path in paths)
    return [path.stem if counts[path.stem] == 1 else f"{path.stem}-{i}" for i, path in enumerate(paths, start=1)]
