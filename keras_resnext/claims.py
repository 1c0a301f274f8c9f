"""Temporary files in a folder: tells those of a killed process, to be removed, from those of a running one.

Whoever writes aside holds a lock on `.TOKEN.writing`, and all its names there begin with `.TOKEN.`. The system drops
the lock when the process ends, however it ends, and so the next one to write in that folder knows what is left over.
"""

import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .os_errors import as_built_in

try:
    import fcntl
except ImportError:  # Windows: nobody is ever known to be dead, and leftovers stay
    fcntl = None  # type: ignore[assignment]

LOCK, JOURNAL = "writing", "moving"
_LOCK_NAME = re.compile(rf"\.[0-9a-f]{{12}}\.{LOCK}")
_FLAGS = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


@contextmanager
def claimed(folder: Path) -> Iterator[str]:
    """The beginning of names in `folder`, such as ".0123456789ab.", for what is written aside there.

    What dead processes left is removed first. When the block ends, whatever still has such a name goes.

    Raises:
        OSError: the folder cannot be written to; also in place of what TensorFlow or HDF5 raise in the block where the
            disk refuses.
        MemoryError: in place of what TensorFlow or JAX raise in the block for want of memory.
    """
    remove_leftovers(folder)
    prefix, handle = _claim(folder)
    try:
        yield prefix
    except OSError as error:
        if error.filename is None and error.errno:
            error.filename = os.fspath(folder)
        elif isinstance(error.filename, str):
            error.filename = error.filename.replace(prefix, "")  # nobody knows that name
        raise
    except Exception as error:
        if (plain := as_built_in(error, folder)) is None:
            raise
        raise plain from error
    finally:
        _remove(folder, prefix)
        os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Removes what processes that are dead have left aside in `folder`, and half of a folder that they had moved in."""
    with suppress(OSError):
        locks = [entry.name for entry in os.scandir(folder) if _LOCK_NAME.fullmatch(entry.name)]
        for name in locks:
            with suppress(OSError):  # of a living process, or another user's
                handle = os.open(folder / name, _FLAGS)
                try:
                    if _lock(handle):
                        _remove(folder, name.removesuffix(LOCK))
                finally:
                    os.close(handle)


def record_moves(folder: Path, prefix: str, files: list[Path]) -> None:
    """Writes down what is about to be moved into `folder`, so that it can be taken back if only half of it gets there.

    Remove `folder / (prefix + JOURNAL)` once all is in place.
    """
    with open(folder / f"{prefix}{JOURNAL}", "x") as journal:
        json.dump({file.name: _identity(file) for file in files}, journal)
        journal.flush()
        os.fsync(journal.fileno())


def _claim(folder: Path) -> tuple[str, int]:
    while True:
        prefix = f".{secrets.token_hex(6)}."
        lock = folder / f"{prefix}{LOCK}"
        try:
            handle = os.open(lock, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            error.filename = os.fspath(folder)
            raise
        # Before it was locked, another process may have taken it for a dead one's.
        with suppress(BlockingIOError):
            _lock(handle)
            if lock.exists():
                return prefix, handle
        os.close(handle)


def _lock(handle: int) -> bool:
    """Locks an open file; False where its disk or the system has no locks. Raises BlockingIOError if it is taken."""
    if fcntl is None or not stat.S_ISREG(os.fstat(handle).st_mode):
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _remove(folder: Path, prefix: str) -> None:
    """Removes all that has names with this beginning, the lock last, and takes back what is half moved."""
    with suppress(OSError, ValueError, AttributeError):
        for name, identity in json.loads((folder / f"{prefix}{JOURNAL}").read_text()).items():
            file = folder / Path(name).name
            with suppress(OSError):
                if _identity(file) == identity:  # still the file that was moved, and nobody's since
                    _remove_path(file)
    with suppress(OSError):
        for name in sorted(os.listdir(folder)):
            if name.startswith(prefix) and not name.endswith(f".{LOCK}"):
                _remove_path(folder / name)
        os.unlink(folder / f"{prefix}{LOCK}")


def _identity(file: Path) -> list[int]:
    facts = file.lstat()
    return [facts.st_dev, facts.st_ino, facts.st_mtime_ns]


def _remove_path(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
