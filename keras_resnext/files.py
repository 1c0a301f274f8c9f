"""Files and folders that appear whole or not at all, and text files as people write them."""

import codecs
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .claims import JOURNAL, claimed, record_moves, remove_leftovers


@contextmanager
def placed_whole(path: str | os.PathLike[str], *, folder: bool = False) -> Iterator[Path]:
    """A path aside to write a file to, or a folder aside to fill; it takes the name `path` once the block ends.

    If the block raises, `path` is as it was. What is aside is hidden, and a file aside has the same suffix. What
    killed processes left aside in that folder is removed.

    Args:
        path: of a file, which is replaced, or of a folder, which must be new or empty. Folders above a folder are made.
        folder: which of them it is.

    Raises:
        FileNotFoundError: the folder of a file does not exist.
        IsADirectoryError: a file is to replace a folder.
        NotADirectoryError: a folder is to replace a file.
        FileExistsError: the folder is not empty.
        OSError: the disk refuses, whichever library was writing.
    """
    with _folder_aside(Path(path)) if folder else _file_aside(Path(path)) as aside:
        yield aside


@contextmanager
def _file_aside(path: Path) -> Iterator[Path]:
    target = Path(os.path.realpath(path))  # a link may lead to another disk, which nothing can be renamed to
    if target.is_dir():
        raise IsADirectoryError(f"path={str(path)!r} is a folder, not a file")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path={str(path)!r} is in a folder that does not exist")
    with claimed(target.parent) as prefix:
        aside = target.with_name(f"{prefix}{target.name}")
        yield aside
        with open(aside, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(aside, target)


@contextmanager
def _folder_aside(target: Path) -> Iterator[Path]:
    """A folder inside `target`, which may be the root of a disk of its own: no other folder can be renamed to it."""
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"path={str(target)!r} is a file, not a folder")
    remove_leftovers(target)
    if target.is_dir() and (found := sorted(os.listdir(target))):
        raise FileExistsError(f"path={str(target)!r} must be a new or an empty folder; it holds {found[0]!r}")
    with made_folder(target), claimed(target) as prefix:
        aside = target / f"{prefix}aside"
        aside.mkdir()
        yield aside
        files = sorted(aside.iterdir())
        record_moves(target, prefix, files)
        for file in files:
            os.replace(file, target / file.name)
        aside.rmdir()
        (target / f"{prefix}{JOURNAL}").unlink()


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """The folder and those above it are made where they are missing; if the block raises, those go again."""
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with suppress(OSError):  # not made, or no longer empty
            for place in made:
                place.rmdir()
        raise


_MARKS = (  # UTF-32's begins as UTF-16's does
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a file as editors and spreadsheets write it: lines end in `\\n`, and there is no byte-order mark.

    UTF-8, and UTF-16 and UTF-32 with a mark or, of UTF-16, without. Anything else is read as Windows-1252, which
    Latin-1 is part of, with a warning.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not text.
    """
    data = Path(path).read_bytes()
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "")
    if not encoding and b"\0" in data[:200]:  # letters of most languages have a zero beside them
        encoding = "utf-16-le" if data[:200][1::2].count(0) >= data[:200][::2].count(0) else "utf-16-be"
    try:
        text = data.decode(encoding or "utf-8")
    except UnicodeDecodeError:
        text = "" if encoding else data.decode("cp1252", errors="replace")
        if not encoding:
            warnings.warn(f"{os.fspath(path)} is not UTF-8; it was read as Windows-1252", stacklevel=2)
    controls = any(letter < " " and letter not in "\t\n\r\f" for letter in text)
    if (data and not text) or controls or "\ufffd" in text:
        raise ValueError(f"{os.fspath(path)} is not a text file")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """The lines of a text file without spaces around them, blank ones left out; errors as of `read_text`."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]
