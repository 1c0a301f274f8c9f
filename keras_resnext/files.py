"""Files that appear whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
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
