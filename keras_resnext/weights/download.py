"""Fetches a file: resumed after a break, verified by its hash, in place whole or not at all, once for all processes."""

import hashlib
import http.client
import os
import re
import stat
import sys
import time
import urllib.error
import warnings
from contextlib import suppress
from pathlib import Path
from typing import IO

from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from ..claims import remove_leftovers
from ..files import placed_whole
from ..os_errors import REFUSALS
from ..terminal import printable
from .https import AddressError, open_address

ATTEMPTS = 4  # connections; each goes on where the last broke off
TIMEOUT = 30.0  # seconds without a byte
DEADLINE = 3 * 3600.0  # seconds in all: 3.3 GB at 2.5 Mbit/s
MOST_BYTES = 8 * 10**9  # more than any published checkpoint
CHUNK = 1 << 20
DIGITS = 64  # of a SHA-256 in hex
BROKEN = (OSError, http.client.HTTPException)  # what a connection raises
_FLAGS = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


class DownloadError(OSError):
    """A file that could not be fetched; the message says from where, why, and where to put it by hand."""


class _RefusedError(OSError):
    """What no further connection would change."""


class _TooLargeError(_RefusedError):
    pass


def download(
    url: str,
    path: Path,
    sha256_prefix: str,
    *,
    most: int = MOST_BYTES,
    timeout: float = TIMEOUT,
    deadline: float = DEADLINE,
) -> Path:
    """Brings the file at `url` to `path`, unless it is there already, and shows progress on standard error.

    A file at `path` whose hash is right is used as it is, whoever put it there. A broken download leaves
    `path` + ".part", with which the next call goes on. Processes that want the same file wait for the first.

    Where only the beginning of the SHA-256 is known, all of it is written into `path` + ".sha256" at first use, or what
    the server names; from then on the file has to be that one.

    Args:
        url: https, or http on loopback.
        path: where the file should be; its folder is made, for this user alone.
        sha256_prefix: hex digits that the file's SHA-256 must begin with.
        most: bytes that it may have.
        timeout: seconds without a byte after which a connection is given up.
        deadline: seconds for all of it.

    Returns:
        `path`.

    Raises:
        DownloadError: no connection, another answer than the file, one that is too large or takes too long, or a file
            with another hash.
    """
    remove_leftovers(path.parent)
    record = path.with_name(f"{path.name}.sha256")
    known = _recorded(record, sha256_prefix)
    found = sha256(path) if path.is_file() else ""
    if found and found.startswith(known):  # so a cache need not be writable
        _record(record, found, sha256_prefix, known)
        return path
    other = f"the file there has another SHA-256, {found}; " if found else ""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            # Another process may have brought it meanwhile.
            known = _recorded(record, sha256_prefix)
            if not path.is_file() or not (digest := sha256(path)).startswith(known):
                part = path.with_name(f"{path.name}.part")
                digest = _fetch_verified(url, part, known, _Limits(most, timeout, time.monotonic() + deadline))
                if other:
                    warnings.warn(f"{path} is replaced: {other.removesuffix('; ')}", stacklevel=2)
                os.replace(part, path)
            _record(record, digest, sha256_prefix, known)
    except BROKEN as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        first = f", which {record.name} beside it has from its first use" if len(known) > len(sha256_prefix) else ""
        raise DownloadError(
            f"cannot download {url} ({reason}). Fetch it by other means, if need be, and put it at {path}; {other}"
            f"its SHA-256 must begin with {known}{first}"
        ) from error
    return path


def sha256(*paths: str | os.PathLike[str]) -> str:
    """Hex digits of the SHA-256 of a file, or of several one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(CHUNK):
                digest.update(block)
    return digest.hexdigest()


def _recorded(record: Path, prefix: str) -> str:
    """The whole SHA-256 from the first use, else the digits that are published."""
    try:
        with open(record, encoding="ascii") as file:
            text = file.read(DIGITS + 1)[:DIGITS]
    except (OSError, ValueError):
        return prefix
    return text if re.fullmatch(r"[0-9a-f]{64}", text) and text.startswith(prefix) else prefix


def _record(record: Path, digest: str, prefix: str, known: str) -> None:
    """Writes the whole hash down as `sha256sum -c` reads it, and says so once."""
    if len(known) == DIGITS:
        return
    with suppress(OSError):  # a shared cache may be read-only
        with placed_whole(record) as aside:
            aside.write_text(f"{digest}  {record.stem}\n", encoding="ascii")
        shown = f"of its SHA-256 only {prefix} is published" if prefix else "no SHA-256 of it is published"
        print(printable(f"keras-resnext: {record.stem}: {shown}; from now on it must be {digest}"), file=sys.stderr)


class _Limits:
    """What a download may take: bytes, seconds without one, and the time at which it ends."""

    def __init__(self, most: int, timeout: float, end: float) -> None:
        self.most, self.timeout, self.end = most, timeout, end

    def check_size(self, size: int) -> None:
        if size > self.most:
            raise _TooLargeError(f"it is larger than {self.most:,} bytes")

    def seconds_left(self) -> float:
        if (left := self.end - time.monotonic()) <= 0:
            raise _RefusedError("it took too long; the next call goes on where it was")
        return left


def _fetch_verified(url: str, part: Path, wanted: str, limits: _Limits) -> str:
    """Fills `part`, and returns its hash. What an earlier call left may be of another file: it gets one fresh start."""
    resumed = _size(part) > 0
    while True:
        named = _fetch(url, part, limits)
        digest = sha256(part)
        if digest.startswith(wanted) and digest.startswith(named):
            return digest
        part.unlink()
        if not resumed:
            raise OSError(f"its SHA-256 is {digest}" + (f", its server says {named}" if named else ""))
        resumed = False


def _size(part: Path) -> int:
    """Bytes of what an earlier call left; what is not this user's own plain file is taken away, never written to."""
    try:
        facts = part.lstat()
    except FileNotFoundError:
        return 0
    own = not hasattr(os, "geteuid") or facts.st_uid == os.geteuid()
    if stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1 and own:
        return facts.st_size
    part.unlink()
    return 0


def _open(part: Path, start: int) -> IO[bytes]:
    if start:
        file = os.fdopen(os.open(part, _FLAGS), "r+b")
        file.seek(start)
        return file
    part.unlink(missing_ok=True)
    return os.fdopen(os.open(part, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600), "r+b")


def _fetch(url: str, part: Path, limits: _Limits) -> str:
    """Appends to `part` until it is complete, over several connections; returns the hash that the server names."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=Console(stderr=True))
    task = progress.add_task(printable(url.rsplit("/", 1)[-1]), total=None)
    try:
        for left in reversed(range(ATTEMPTS)):
            try:
                start = _size(part)
                headers = {"User-Agent": "keras_resnext", **({"Range": f"bytes={start}-"} if start else {})}
                answer = open_address(url, headers, limits.timeout, limits.seconds_left())
                with answer.body as response:
                    # A server that does not know ranges sends the whole file again.
                    start = start if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
                    length = response.headers.get("Content-Length", "")
                    total = start + int(length) if re.fullmatch("[0-9]{1,18}", length) else None
                    limits.check_size(total or 0)
                    progress.update(task, completed=start, total=total)
                    progress.start()  # not before there is something to show
                    done = start
                    with _open(part, start) as file:
                        while block := response.read1(CHUNK):
                            done += len(block)
                            limits.check_size(done)
                            file.write(block)
                            progress.advance(task, len(block))
                            limits.seconds_left()
                        file.flush()
                        os.fsync(file.fileno())
                if total is not None and done < total:  # http.client says nothing of a short answer
                    raise ConnectionError(f"the connection broke off at {done} of {total} bytes")
                return answer.sha256
            except urllib.error.HTTPError as error:
                if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and _size(part):
                    return ""  # nothing is left to fetch; the hash tells whether that is right
                raise OSError(f"HTTP {error.code} {error.reason}") from None
            except _TooLargeError:
                part.unlink(missing_ok=True)
                raise
            except (_RefusedError, AddressError):
                raise
            except BROKEN as error:
                if not left or getattr(error, "errno", None) in REFUSALS:
                    raise
    finally:
        if progress.live.is_started:  # stopping prints a line of its own
            progress.stop()
    raise AssertionError("the last attempt returns or raises")
