"""Downloads from a real server on loopback: whole, broken, wrong, slow, shared and killed."""

import hashlib
import http.client
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from keras_resnext.weights.download import DownloadError, download, sha256
from tests.file_server import serve

SIZE = 3_000_001


@pytest.fixture
def server(tmp_path):
    (tmp_path / "served").mkdir()
    content = np.random.default_rng(0).integers(0, 256, SIZE, "uint8").tobytes()
    (tmp_path / "served" / "file.pth").write_bytes(content)
    with serve(tmp_path / "served") as server:
        server.prefix = hashlib.sha256(content).hexdigest()[:8]
        server.content = content
        yield server


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "deep" / "file.pth"


def names(target):
    return {path.name for path in target.parent.iterdir()} - {f"{target.name}.lock", f"{target.name}.sha256"}


def test_downloads_once(server, target):
    for _ in range(2):
        assert download(server.url("file.pth"), target, server.prefix) == target
    assert target.read_bytes() == server.content
    assert server.requests["file.pth"] == 1
    assert names(target) == {"file.pth"}
    assert sha256(target).startswith(server.prefix)


def test_a_file_put_there_by_hand_is_used(server, target):
    target.parent.mkdir(parents=True)
    target.write_bytes(server.content)
    download("http://127.0.0.1:9/file.pth", target, server.prefix)
    target.parent.chmod(0o500)  # as in a shared cache, which may be read-only
    try:
        download("http://127.0.0.1:9/file.pth", target, server.prefix)
    finally:
        target.parent.chmod(0o700)
    assert names(target) == {"file.pth"}
    target.write_bytes(b"damaged")
    with pytest.raises(DownloadError, match=r"the file there has another SHA-256, [0-9a-f]{64}; its SHA-256 must"):
        download("http://127.0.0.1:9/file.pth", target, server.prefix)
    assert target.read_bytes() == b"damaged"
    with pytest.warns(UserWarning, match=r"file\.pth is replaced: the file there has another SHA-256"):
        download(server.url("file.pth"), target, server.prefix)
    assert target.read_bytes() == server.content


@pytest.mark.parametrize("ranges", [True, False])
def test_goes_on_after_broken_connections(server, target, ranges):
    server.cut, server.ranges = 3, ranges
    download(server.url("file.pth"), target, server.prefix)
    assert target.read_bytes() == server.content
    assert server.offsets == ([0, 100_000, 200_000, 300_000] if ranges else [0] * 4)


def test_a_connection_that_always_breaks_is_an_error_and_the_next_call_goes_on(server, target):
    server.cut = 4
    with pytest.raises(DownloadError, match=r"broke off at 400000 of 3000001 bytes.*put it at .*file\.pth"):
        download(server.url("file.pth"), target, server.prefix)
    assert names(target) == {"file.pth.part"}
    download(server.url("file.pth"), target, server.prefix)
    assert server.offsets[-1] == 400_000
    assert target.read_bytes() == server.content
    assert names(target) == {"file.pth"}


def test_what_an_earlier_call_left_may_be_wrong(server, target):
    target.parent.mkdir(parents=True)
    part = target.with_name("file.pth.part")
    for left in (b"x" * 1000, b"x" * SIZE, b"x" * (SIZE + 5)):
        target.unlink(missing_ok=True)
        part.write_bytes(left)
        download(server.url("file.pth"), target, server.prefix)
        assert target.read_bytes() == server.content


def test_a_wrong_hash_keeps_nothing(server, target):
    target.parent.mkdir(parents=True)
    target.write_bytes(b"old")
    with pytest.raises(DownloadError, match=r"its SHA-256 is [0-9a-f]{64}\).*must begin with 00000000"):
        download(server.url("file.pth"), target, "00000000")
    assert target.read_bytes() == b"old"
    assert names(target) == {"file.pth"}


def test_404_and_no_server(server, target):
    for url, reason in ((server.url("none.pth"), "HTTP 404"), ("http://127.0.0.1:9/file.pth", "refused")):
        with pytest.raises(DownloadError, match=reason) as error:
            download(url, target, "12345678")
        for part in (url, str(target), "12345678"):
            assert part in str(error.value)
    assert server.requests["none.pth"] == 1  # an answer is not asked for again
    assert names(target) == set()


def test_a_slow_server_is_waited_for_and_a_silent_one_is_not(server, target):
    server.pause = 0.01
    download(server.url("file.pth"), target, server.prefix, timeout=5)
    assert target.read_bytes() == server.content
    target.unlink()
    server.pause = 1.0
    with pytest.raises(DownloadError, match="timed out"):
        download(server.url("file.pth"), target, server.prefix, timeout=0.05)


def process(server, target):
    code = f"""
import pathlib, sys
from keras_resnext.weights.download import download
download({server.url("file.pth")!r}, pathlib.Path({str(target)!r}), {server.prefix!r})
"""
    # The command's name: then importing the package loads no framework.
    return subprocess.Popen([sys.executable, "-c", f"{code}"])


def test_two_processes_at_once_download_once(server, target):
    server.pause = 0.02
    processes = [process(server, target) for _ in range(3)]
    assert [p.wait(60) for p in processes] == [0, 0, 0]
    assert server.requests["file.pth"] == 1
    assert target.read_bytes() == server.content


def test_killed_at_any_moment_the_target_is_old_or_new(server, target):
    rng = np.random.default_rng(0)
    target.parent.mkdir(parents=True)
    target.write_bytes(b"old")
    server.pause = 0.005
    for _ in range(6):
        running = process(server, target)
        time.sleep(0.3 + rng.uniform(0, 0.5))
        running.send_signal(signal.SIGKILL)
        running.wait()
        assert target.read_bytes() in (b"old", server.content)
    assert process(server, target).wait(60) == 0
    assert target.read_bytes() == server.content


def test_the_server_speaks_http(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    connection.request("GET", "/file.pth", headers={"Range": "bytes=3000000-"})
    assert (answer := connection.getresponse()).status == 206
    assert answer.read() == server.content[-1:]
