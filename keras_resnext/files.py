"""Files and folders that appear whole or not at all, and text files as people write them."""

import codecs
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def placed_whole(path: str | os.PathLike[str], *, folder: bool = False) -> Iterator[Path]:
    """A path aside to write a file to, or a folder aside to fill; it takes the name `path` once the block ends.

    If the block raises, `path` is as it was. What is aside is hidden, and a file aside has the same suffix.

    Args:
        path: of a file, which is replaced, or of a folder, which must be new or empty. Folders above a folder are made.
        folder: which of them it is.

    Raises:
        FileNotFoundError: the folder of a file does not exist.
        IsADirectoryError: a file is to replace a folder.
        NotADirectoryError: a folder is to replace a file.
        FileExistsError: the folder is not empty.
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
    aside = target.with_name(f".{secrets.token_hex(6)}.{target.name}")
    try:
        yield aside
        with open(aside, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(aside, target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


@contextmanager
def _folder_aside(target: Path) -> Iterator[Path]:
    """A folder inside `target`, which may be the root of a disk of its own: no other folder can be renamed to it."""
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"path={str(target)!r} is a file, not a folder")
    if target.is_dir() and (found := sorted(os.listdir(target))):
        raise FileExistsError(f"path={str(target)!r} must be a new or an empty folder; it holds {found[0]!r}")
    made = [folder for folder in (target, *target.parents) if not folder.exists()]
    aside = target / f".{secrets.token_hex(6)}.aside"
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


def remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    """Removes what killed processes have written aside of files of these names."""
    for name in names:
        for file in folder.iterdir():
            if re.fullmatch(rf"\.[0-9a-f]{{12}}\.{re.escape(name)}", file.name):
                file.unlink(missing_ok=True)


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
