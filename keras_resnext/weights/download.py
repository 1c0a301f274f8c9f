"""Fetches a file: resumed after a break, verified by its hash, in place whole or not at all, once for all processes."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
import warnings
from pathlib import Path

from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

ATTEMPTS = 4  # connections; each goes on where the last broke off
TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 20
BROKEN = (OSError, http.client.HTTPException)  # what urllib raises


class DownloadError(OSError):
    """A file that could not be fetched; the message says from where, why, and where to put it by hand."""


def download(url: str, path: Path, sha256_prefix: str, *, timeout: float = TIMEOUT) -> Path:
    """Brings the file at `url` to `path`, unless it is there already, and shows progress on standard error.

    A file at `path` whose hash is right is used as it is, whoever put it there. A broken download leaves
    `path` + ".part", with which the next call goes on. Processes that want the same file wait for the first.

    Args:
        url: http or https.
        path: where the file should be; its folder is made.
        sha256_prefix: hex digits that the file's SHA-256 must begin with.
        timeout: seconds without a byte after which a connection is given up.

    Returns:
        `path`.

    Raises:
        DownloadError: no connection, another answer than the file, or a file with another hash.
    """
    if _matches(path, sha256_prefix):  # so a cache need not be writable
        return path
    found = f"the file there has another SHA-256, {sha256(path)}; " if path.is_file() else ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not _matches(path, sha256_prefix):  # another process may have brought it meanwhile
                part = path.with_name(f"{path.name}.part")
                _fetch_verified(url, part, sha256_prefix, timeout)
                if found:
                    warnings.warn(f"{path} is replaced: {found.removesuffix('; ')}", stacklevel=2)
                os.replace(part, path)
    except BROKEN as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise DownloadError(
            f"cannot download {url} ({reason}). Fetch it by other means, if need be, and put it at {path}; {found}"
            f"its SHA-256 must begin with {sha256_prefix}"
        ) from error
    return path


def _matches(path: Path, sha256_prefix: str) -> bool:
    return path.is_file() and sha256(path).startswith(sha256_prefix)


def sha256(*paths: str | os.PathLike[str]) -> str:
    """Hex digits of the SHA-256 of a file, or of several one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(CHUNK):
                digest.update(block)
    return digest.hexdigest()


def _fetch_verified(url: str, part: Path, sha256_prefix: str, timeout: float) -> None:
    """Fills `part`. What an earlier call left may be of another file, so a wrong hash gets one fresh start."""
    for resumed in (part.exists(), False):
        _fetch(url, part, timeout)
        if _matches(part, sha256_prefix):
            return
        found = sha256(part)
        part.unlink()
        if not resumed:
            raise OSError(f"its SHA-256 is {found}")


def _fetch(url: str, part: Path, timeout: float) -> None:
    """Appends to `part` until it is complete, over several connections where they break."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=Console(stderr=True))
    task = progress.add_task(url.rsplit("/", 1)[-1], total=None)
    try:
        for left in reversed(range(ATTEMPTS)):
            try:
                with _request(url, part.stat().st_size if part.exists() else 0, timeout) as response:
                    # A server that does not know ranges sends the whole file again.
                    start = part.stat().st_size if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
                    length = response.headers.get("Content-Length", "")
                    total = start + int(length) if length.isdecimal() else None
                    progress.update(task, completed=start, total=total)
                    progress.start()  # not before there is something to show
                    with open(part, "r+b" if start else "wb") as file:
                        file.seek(start)
                        while block := response.read(CHUNK):
                            file.write(block)
                            progress.advance(task, len(block))
                        file.flush()
                        os.fsync(file.fileno())
                if total is not None and part.stat().st_size < total:  # http.client says nothing of a short answer
                    raise ConnectionError(f"the connection broke off at {part.stat().st_size} of {total} bytes")
                return
            except urllib.error.HTTPError as error:
                if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and part.exists():
                    return  # nothing is left to fetch; the hash tells whether that is right
                raise OSError(f"HTTP {error.code} {error.reason}") from None
            except BROKEN:
                if not left:
                    raise
    finally:
        if progress.live.is_started:  # stopping prints a line of its own
            progress.stop()


def _request(url: str, start: int, timeout: float) -> http.client.HTTPResponse:
    headers = {"User-Agent": "keras_resnext", **({"Range": f"bytes={start}-"} if start else {})}
    response: http.client.HTTPResponse = urllib.request.urlopen(
        urllib.request.Request(url, headers=headers), timeout=timeout
    )
    return response
