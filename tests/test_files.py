"""Whatever is written appears whole or not at all."""

import os

import pytest

from keras_resnext.files import placed_whole, remove_leftovers


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


def test_what_killed_processes_left_is_removed(tmp_path):
    names = [".0123456789ab.best.keras", "best.keras", ".0123456789ab.other.keras", ".best.keras"]
    for name in names:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path, ["best.keras"])
    assert sorted(os.listdir(tmp_path)) == sorted(names[1:])
