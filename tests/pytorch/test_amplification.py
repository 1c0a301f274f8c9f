"""A small file cannot ask for much: bounds count what is copied and looked at, and zip archives hold what they say."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from keras_resnext.pytorch.checkpoint import read_checkpoint, write_checkpoint
from keras_resnext.pytorch.file_part import MAX_WIDE
from keras_resnext.pytorch.unpickler import MAX_NAME, Placeholder
from tests.pytorch.making import STORAGE, machine, refuse, rezip, short

STORED = b"(" + STORAGE + b"K\x0ctQ"
MANY = b"}q\x00(" + b"".join(b"M" + struct.pack("<H", i) + b"\x89" for i in range(2000)) + b"u0"


def text(value: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value


BOMBS = {
    "names of devices that double": (
        short("cuda" * 10) + b"q\x00" + b"ctorch\ndevice\nh\x00h\x00\x86Rq\x00" * 30 + b".", "a device takes a name"
    ),
    "metadata read again and again": (
        MANY + (b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORED + b"K\x00))\x89}h\x00tR0") * 500 + b"N.",
        "takes more than 300000 steps",
    ),
    "identities read again and again": (
        b"(" + STORAGE + b"K\x0c" + b"N" * 50_000 + b"tq\x00" + b"h\x00Q0" * 20_000 + b".", "a persistent id that is no"
    ),
    "dictionaries made of one": (MANY + b"cbuiltins\ndict\nq\x01" + b"h\x01h\x00\x85R0" * 500 + b"N.", "more than"),
    "keys of many parts": (
        b"(" + b"K\x01" * 60 + b"tq\x00}" + b"h\x00Ns" * 20_000 + b".", "takes more than 300000 steps"
    ),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_work_on_what_is_there_already_is_counted(bomb: str) -> None:
    pickled, message = BOMBS[bomb]
    with pytest.raises(ValueError, match=message):
        machine(pickled)


def test_long_names_of_classes_are_cut_before_they_are_joined() -> None:
    pickled = text(b"a" * 1_000_000) + b"q\x00(" + b"h\x00h\x00\x93" * 200 + b"t."
    tracemalloc.start()
    names = machine(pickled)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    assert all(type(name) is Placeholder and len(name.name) < MAX_NAME + 10 for name in names)


def test_texts_that_take_four_times_their_size(tmp_path: Path) -> None:
    wide = text(b"a" * (MAX_WIDE // 4) + "\U0001f600".encode())
    refuse(tmp_path / "x.pth", rezip(b"(" + wide * 4 + b"t."), "beyond Latin-1")
    (tmp_path / "x.pth").write_bytes(rezip(b"(" + text("é".encode() * (MAX_WIDE // 4)) * 4 + b"t."))
    assert len(read_checkpoint(tmp_path / "x.pth").data) == 4


@pytest.fixture
def archive(tmp_path: Path) -> bytearray:
    write_checkpoint(tmp_path / "good.pth", {"a": np.arange(100.0)})
    return bytearray((tmp_path / "good.pth").read_bytes())


def test_content_is_what_its_checksum_says(archive: bytearray, tmp_path: Path) -> None:
    archive[archive.index(np.float64(50).tobytes())] ^= 1
    refuse(tmp_path / "x.pth", bytes(archive), "entry 'data/0' is damaged: its CRC-32")


# Places in the last record of the central directory, what is written there, and what is said of it.
LIES = {
    "encryption": (8, b"\x01", "encrypted or of an unknown kind"),
    "a patch": (8, b"\x20", "encrypted or of an unknown kind"),
    "another CRC-32": (16, b"\x00\x01\x02\x03", "contradict each other"),
    "compression": (10, b"\x08", "contradict each other"),
    "another size": (20, struct.pack("<LL", 1, 1), "contradict each other"),
    "another name": (47, b"x", "damaged or out of bounds"),
}


@pytest.mark.parametrize("lie", LIES)
def test_both_directories_of_a_zip_archive_agree(lie: str, archive: bytearray, tmp_path: Path) -> None:
    place, written, message = LIES[lie]
    start = archive.rindex(b"PK\x01\x02") + place
    archive[start : start + len(written)] = written
    refuse(tmp_path / "x.pth", bytes(archive), message)


def test_entries_do_not_overlap(tmp_path: Path) -> None:
    def zipped(entries: dict[str, bytes]) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            for name, content in entries.items():
                file.writestr(name, content)
        return buffer.getvalue()

    inner = zipped({"a/data/0": bytes(1000)})
    local, central = inner[: inner.index(b"PK\x01\x02")], inner[inner.index(b"PK\x01\x02") : inner.index(b"PK\x05\x06")]
    outer = zipped({"a/data.pkl": b"N.", "a/data/1": local})
    directory, end = outer.index(b"PK\x01\x02"), outer.index(b"PK\x05\x06")
    moved = central[:42] + struct.pack("<L", outer.index(local)) + central[46:]
    length = end + len(moved) - directory
    ended = outer[end : end + 8] + struct.pack("<HHLL", 3, 3, length, directory) + bytes(2)
    refuse(tmp_path / "x.pth", outer[:end] + moved + ended, "entries overlap")
