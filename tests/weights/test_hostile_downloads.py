"""Servers, caches and files that lie: what is downloaded is bounded in every way, and nothing else is written."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from keras_resnext.weights import https
from keras_resnext.weights.download import DownloadError, download
from tests.file_server import serve

CONTENT = bytes(range(256)) * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
PREFIX = DIGEST[:8]


@pytest.fixture
def server(tmp_path):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "file.pth").write_bytes(CONTENT)
    with serve(tmp_path / "served") as server:
        yield server


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "file.pth"


def left(target: Path) -> set[str]:
    return {path.name for path in target.parent.iterdir()} - {"file.pth.lock"} if target.parent.exists() else set()


def same_digits(content: bytes, digits: int) -> bytes:
    """Other bytes whose SHA-256 begins as that of `content`."""
    wanted, number = hashlib.sha256(content).hexdigest()[:digits], 0
    while not hashlib.sha256(b"forged %d" % number).hexdigest().startswith(wanted):
        number += 1
    return b"forged %d" % number


def test_the_whole_hash_is_kept_from_the_first_use(server, target, capsys):
    digits, forged = 3, same_digits(CONTENT, 3)
    download(server.url("file.pth"), target, PREFIX[:digits])
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == (
        f"keras-resnext: file.pth: of its SHA-256 only {PREFIX[:3]} is published; from now on it must be {DIGEST}"
    )
    record = target.with_name("file.pth.sha256")
    assert record.read_text() == f"{DIGEST}  file.pth\n"
    download(server.url("file.pth"), target, PREFIX[:digits])
    assert capsys.readouterr().err == ""
    for path in (target, server.folder / "file.pth"):  # in the cache, then on the server too
        path.write_bytes(forged)
    with pytest.raises(DownloadError, match=rf"begin with {DIGEST}, which file\.pth\.sha256 beside it has"):
        download(server.url("file.pth"), target, PREFIX[:digits])
    assert target.read_bytes() == forged  # what was there stays for whoever wants to look at it
    record.write_text("no hash")
    download(server.url("file.pth"), target, PREFIX[:digits])
    assert record.read_text() == f"{hashlib.sha256(forged).hexdigest()}  file.pth\n"


def test_a_hash_that_the_server_names_is_compared(server, target):
    """As Hugging Face's hub names it, in the answer that leads to the file."""
    server.redirects["resolve"] = "file.pth"
    server.headers = {"X-Linked-ETag": f'"{"0" * 64}"'}
    with pytest.raises(DownloadError, match=rf"its SHA-256 is {DIGEST}, its server says 0000"):
        download(server.url("resolve"), target, "")
    assert left(target) == set()
    server.headers = {"X-Linked-ETag": f'"{DIGEST}"'}
    download(server.url("resolve"), target, "")
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("lengths", [True, False])
def test_what_is_too_large_is_cut_off(server, target, lengths):
    server.lengths = lengths
    with pytest.raises(DownloadError, match=r"larger than 200,000 bytes") as error:
        download(server.url("file.pth"), target, PREFIX, most=200_000)
    assert "\n" not in str(error.value)
    assert left(target) == set()
    assert sum(server.requests.values()) == 1


def test_a_length_that_lies(server, target):
    server.headers = {"Content-Length": "9" * 15}
    with pytest.raises(DownloadError, match="larger than"):
        download(server.url("file.pth"), target, PREFIX)
    server.headers = {"Content-Length": str(len(CONTENT) + 10)}
    with pytest.raises(DownloadError, match=r"HTTP 416|broke off|SHA-256 is"):
        download(server.url("file.pth"), target, "00000000")


@pytest.mark.parametrize("trickle", [0.0, 0.05])
def test_a_server_that_never_ends(server, target, trickle):
    """Bytes keep coming, of the file or of a header, so no timeout ever passes."""
    server.pause, server.trickle = 0.2, trickle
    started = time.monotonic()
    with pytest.raises(DownloadError, match=r"took too long|no answer in"):
        download(server.url("file.pth"), target, PREFIX, deadline=0.5)
    assert time.monotonic() - started < 3
    if not trickle:
        server.pause = 0
        download(server.url("file.pth"), target, PREFIX)
        assert server.offsets[-1] > 0  # what had arrived is not fetched again


@pytest.mark.parametrize(
    "place", ["file:///etc/hostname", "ftp://127.0.0.1/x", "http://192.0.2.1/x", "data:,x", "//[", "http://\u00ff/"]
)
def test_addresses_that_are_not_fetched_from(server, target, place):
    server.redirects["moved"] = place
    with pytest.raises(DownloadError, match=r"leads to .*(which is not https|no address)"):
        download(server.url("moved"), target, PREFIX)
    assert server.requests["moved"] == 1
    if ":" in place:
        with pytest.raises(DownloadError, match="which is not https"):
            download(place, target, PREFIX)
    assert left(target) == set()


def test_redirects_are_bounded_and_stay_https(server, target, monkeypatch):
    server.redirects |= {"there": "moved", "moved": "file.pth", "back": "forth", "forth": "back"}
    download(server.url("there"), target, PREFIX)
    with pytest.raises(DownloadError, match="more than 5 redirects"):
        download(server.url("back"), target.with_name("other"), PREFIX)
    assert server.requests["back"] + server.requests["forth"] == https.MOST_REDIRECTS + 1
    with pytest.raises(DownloadError, match="which is not https"):
        download("http://localhost.example/file.pth", target.with_name("other"), PREFIX)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_part_that_is_a_link_is_not_written_through(server, target, tmp_path, link):
    precious = tmp_path / "precious"
    precious.write_text("do not touch")
    target.parent.mkdir()
    link(precious, target.with_name("file.pth.part"))
    download(server.url("file.pth"), target, PREFIX)
    assert target.read_bytes() == CONTENT
    assert precious.read_text() == "do not touch"
    assert not target.is_symlink()


def test_the_cache_is_the_users_own(server, target):
    download(server.url("file.pth"), target, PREFIX)
    assert (target.parent.stat().st_mode & 0o777, target.stat().st_mode & 0o777) == (0o700, 0o600)
