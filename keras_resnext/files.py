"""Files and folders that appear whole or not at all."""

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to write, which takes the name `path` once the block ends; if it raises, what was there stays.

    Raises:
        FileNotFoundError: the folder does not exist.
        IsADirectoryError: `path` is a folder.
    """
    target = Path(os.path.realpath(path))  # where it is written aside: a link may lead to another disk
    if target.is_dir():
        raise IsADirectoryError(f"path={os.fspath(path)!r} is a folder, not a file")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path={os.fspath(path)!r} is in a folder that does not exist")
    aside = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    try:
        with open(aside, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    """Takes away what killed processes have written aside of files of these names, here and in `keras_files`."""
    for stem, suffix in map(os.path.splitext, names):
        aside = rf"\.{re.escape(stem)}({re.escape(suffix)})?\.[0-9a-f]{{12}}(\.tmp|{re.escape(suffix)})"
        for file in folder.iterdir():
            if re.fullmatch(aside, file.name):
                file.unlink(missing_ok=True)


@contextmanager
def folder_filled_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to write files into, which are moved into the folder `path` once the block ends.

    If it raises, `path` is as it was, absent or empty. Meanwhile what is written lies in a hidden folder inside `path`:
    `path` may be the root of a disk of its own, which no other folder can be renamed to.

    Raises:
        FileExistsError: `path` is not empty.
        NotADirectoryError: it is no folder.
    """
    target = Path(path)
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"path={os.fspath(path)!r} is a file, not a folder")
    if target.is_dir() and (found := sorted(os.listdir(target))):
        raise FileExistsError(f"path={os.fspath(path)!r} must be a new or an empty folder; it holds {found[0]!r}")
    made = [folder for folder in (target, *target.parents) if not folder.exists()]
    aside = target / f".{secrets.token_hex(6)}.tmp"
    moved: list[Path] = []
    try:
        aside.mkdir(parents=True)
        yield aside
        for file in sorted(aside.iterdir()):
            moved.append(target / file.name)
            os.replace(file, moved[-1])
        aside.rmdir()
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        for file in moved:
            file.unlink(missing_ok=True)
        with suppress(OSError):  # not made, or no longer empty
            for folder in made:
                folder.rmdir()
        raise
