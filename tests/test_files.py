"""Whatever is written appears whole or not at all."""

import errno
import os
import resource
import subprocess
import sys

import numpy as np
import pytest

from keras_resnext.files import placed_whole
from keras_resnext.os_errors import as_built_in


def test_a_file_takes_its_name_once_it_is_whole(tmp_path):
    path = tmp_path / "file.weights.h5"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), placed_whole(path) as aside:
        aside.write_text("half \ud800", encoding="utf-8")
    assert path.read_text() == "old"
    with placed_whole(path) as aside:
        assert aside.name.startswith(".")
        assert aside.name.endswith(".weights.h5")
        aside.write_text("new")
        assert path.read_text() == "old"
    assert [p.read_text() for p in tmp_path.iterdir()] == ["new"]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "file")
    with placed_whole(tmp_path / "link") as aside:
        assert aside.parent.name == "elsewhere"
        aside.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "link").read_text() == "new"


def test_places_for_files_that_are_refused(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder, not a file"), placed_whole(tmp_path):
        pass
    with pytest.raises(FileNotFoundError, match="in a folder that does not exist"), placed_whole(tmp_path / "a" / "b"):
        pass


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_is_filled_once_it_is_whole(tmp_path, exists):
    path = tmp_path / "a" / "b"
    if exists:
        path.mkdir(parents=True)
    with pytest.raises(UnicodeEncodeError), placed_whole(path, folder=True) as aside:
        (aside / "one").write_text("half \ud800", encoding="utf-8")
    assert path.exists() == exists
    assert not list(path.glob("*"))
    with placed_whole(path, folder=True) as aside:
        (aside / "one").write_text("1")
        (aside / "inner").mkdir()
        (aside / "inner" / "two").write_text("2")
        assert not (path / "one").exists()
    assert sorted(os.listdir(path)) == ["inner", "one"]


def test_places_for_folders_that_are_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="new or an empty folder; it holds 'file'"):
        placed_whole(tmp_path, folder=True).__enter__()
    with pytest.raises(NotADirectoryError, match="is a file, not a folder"):
        placed_whole(tmp_path / "file", folder=True).__enter__()


KILLED = """
import os, signal, sys
from pathlib import Path
from keras_resnext.files import placed_whole

target, moves = Path(sys.argv[1]), int(sys.argv[2])
real = os.replace

def replace(*names):  # killed before this move
    global moves
    moves -= 1
    if moves < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(*names)

os.replace = replace
with placed_whole(target, folder=target.name == "folder") as aside:
    if target.name == "folder":
        for name in "abc":
            (aside / name).mkdir()
            (aside / name / "file").write_text("half")
    else:
        aside.write_text("half")
"""


@pytest.mark.parametrize(("name", "moves"), [("file", 0), ("folder", 0), ("folder", 2)])
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path, name, moves):
    path = tmp_path / name
    assert subprocess.run([sys.executable, "-c", KILLED, path, str(moves)]).returncode == -9
    inside = path if name == "folder" else tmp_path
    assert len(os.listdir(inside)) == 2 + (name == "folder") + moves  # aside, lock, journal
    with placed_whole(path, folder=name == "folder") as aside:
        assert len(os.listdir(inside)) == 1 + (aside.exists())
        (aside / "new" if name == "folder" else aside).write_text("new")
    assert os.listdir(inside) == (["new"] if name == "folder" else ["file"])


def test_what_a_living_process_has_aside_stays(tmp_path):
    with placed_whole(tmp_path / "one") as one, placed_whole(tmp_path / "two") as two:
        one.write_text("1")
        two.write_text("2")
        with placed_whole(tmp_path / "three") as three:
            three.write_text("3")
    assert sorted(os.listdir(tmp_path)) == ["one", "three", "two"]


def test_what_only_looks_like_a_leftover_stays(tmp_path):
    """Another's files, locks that are links or pipes, and a file that was put where half a folder had been moved."""
    for name in (".best", ".0123456789ab.best", ".writing", ".0123456789ab.moving"):
        (tmp_path / name).touch()
    (tmp_path / ".000000000000.writing").symlink_to("best")
    os.mkfifo(tmp_path / ".000000000001.writing")
    (tmp_path / ".000000000002.writing").touch()
    (tmp_path / ".000000000002.moving").write_text('{"best": [1, 2, 3], "../best": 1}')
    (tmp_path / "best").write_text("mine")
    with placed_whole(tmp_path / "new") as aside:
        aside.touch()
    found = {*os.listdir(tmp_path)}
    assert found >= {"best", "new", ".best", ".0123456789ab.best", ".0123456789ab.moving", ".writing"}
    assert ".000000000002.writing" not in found
    assert (tmp_path / "best").read_text() == "mine"


def test_a_disk_that_refuses_leaves_nothing(tmp_path):
    """As every library writes: what TensorFlow and HDF5 raise for it becomes an OSError."""
    import h5py
    import tensorflow as tf

    def with_hdf5(path):
        with h5py.File(path, "w") as file:
            file["x"] = np.ones(100_000)

    ways = {
        "numpy": lambda path: path.write_bytes(bytes(800_000)),
        "hdf5": with_hdf5,
        "tensorflow": lambda path: tf.io.write_file(str(path), bytes(800_000)),
    }
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # as a full disk, but for the number of the error
    try:
        for name, write in ways.items():
            with pytest.raises(OSError, match=r"File too large|errno = 27"), placed_whole(tmp_path / name) as aside:
                write(aside)
            assert os.listdir(tmp_path) == []
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_errors_of_the_machine_in_pythons_words():
    import tensorflow as tf

    full = as_built_in(tf.errors.ResourceExhaustedError(None, None, "/x/variables; No space left on device"), "/x")
    assert (type(full), full.errno, full.filename) == (OSError, errno.ENOSPC, "/x")
    for error in (
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor\nand so on"),
        RuntimeError("RESOURCE_EXHAUSTED: OOM when allocating tensor"),
    ):
        small = as_built_in(error)
        assert isinstance(small, MemoryError)
        assert "OOM when allocating tensor" in str(small)
        assert "\n" not in str(small)
    for error in (ValueError("No space left on device"), OSError("as it is"), RuntimeError("a fault"), KeyError("x")):
        assert as_built_in(error) is None
