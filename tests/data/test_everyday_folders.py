"""Folders and lists as people have them give the images that are meant, and what is left out is said."""

import json
import os
import sys
import warnings

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from keras_resnext.data import find_unreadable, read_listing
from keras_resnext.preprocessing import image_suffixes, load_image

ROWS = [(f"img/{i}.jpg", ("cat", "dog")[i % 2]) for i in range(6)]


def save(path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((24, 32, 3), 99, "uint8")).save(path, **options)


@pytest.fixture
def classes(tmp_path):
    for name in ("cat", "dog"):
        for i in range(3):
            save(tmp_path / "data" / name / f"{i}.jpg")
    return tmp_path / "data"


@pytest.fixture
def lists(tmp_path):
    for name, _ in ROWS:
        save(tmp_path / name)
    return tmp_path


def silent(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_listing(path)


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir", ".ipynb_checkpoints", ".git", "#recycle"])
@pytest.mark.parametrize("inside", ["", "cat"])
def test_leftovers_are_no_classes_and_hold_no_images(classes, name, inside):
    save(classes / inside / name / "cat" / "0.jpg")
    (classes / "cat" / ".DS_Store").write_bytes(b"x")
    (classes / "cat" / "Thumbs.db").write_bytes(b"x")
    (classes / "cat" / "._0.jpg").write_bytes(b"Mac OS X")
    listing = silent(classes)
    assert (len(listing), listing.classes) == (6, ("cat", "dog"))


@pytest.mark.parametrize("target", [".", "..", "../..", "../cat"])
def test_links_that_lead_back_are_not_followed(classes, target):
    (classes / "cat" / "loop").symlink_to(classes / "cat" / target)
    assert len(silent(classes)) == 6


def test_links_to_other_folders_are_followed(classes, tmp_path):
    save(tmp_path / "elsewhere" / "a.jpg")
    (classes / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (classes / "cat" / "again").symlink_to(tmp_path / "elsewhere")
    assert len(silent(classes)) == 7


def test_every_suffix_that_pillow_reads_is_taken_and_others_are_counted(classes):
    for name in ("a.jfif", "b.JPE", "c.webp", "d.TIFF", "e.jp2"):
        save(classes / "cat" / name, format={"c": "WEBP", "d": "TIFF", "e": "JPEG2000"}.get(name[0], "JPEG"))
    for name in ("notes.txt", "a.xmp", "b.xmp", "README"):
        (classes / "dog" / name).write_text("x")
    message = (
        r"4 files are not images that Pillow reads and are skipped: \.xmp \(2\), \.txt \(1\), without a suffix \(1\)"
    )
    with pytest.warns(UserWarning, match=message):
        assert len(read_listing(classes)) == 11
    assert not {".pdf", ".eps", ".mpg", ".h5"} & set(image_suffixes())


def test_a_png_with_much_text(classes):
    text = PngImagePlugin.PngInfo()
    text.add_text("prompt", "x" * 3_000_000, zip=True)
    path = classes / "cat" / "generated.png"
    save(path, pnginfo=text)
    with pytest.raises(ValueError, match="MAX_TEXT_CHUNK"), Image.open(path) as image:
        image.load()
    assert (load_image(path, 24) == 99).all()


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take UTF-8 alone")
def test_folder_names_in_latin_1(classes):
    os.rename(classes / "cat", os.fsencode(classes / "k") + b"\xe4se")
    listing = silent(classes)
    assert listing.classes == ("dog", "käse")
    assert all(os.path.isfile(file) for file in listing.files)


def table(separator=",", header="path,label", rows=ROWS, end="\n"):
    return "".join(f"{end.join([header.replace(',', separator), *(separator.join(row) for row in rows)])}{end}")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("comma.csv", table().encode()),
        ("semicolon.csv", table(";").encode()),
        ("tab.csv", table("\t").encode()),
        ("tab.tsv", table("\t").encode()),
        ("bom.csv", table().encode("utf-8-sig")),
        ("excel.csv", table("\t", end="\r\n").encode("utf-16")),
        ("columns.csv", table(header="Image ID,Category").encode()),
        ("reversed.csv", table(header="class,filename", rows=[row[::-1] for row in ROWS]).encode()),
        ("suffixes.csv", table(header="image_id,label", rows=[(n.removesuffix(".jpg"), c) for n, c in ROWS]).encode()),
        ("backslashes.csv", table(rows=[(n.replace("/", "\\"), c) for n, c in ROWS], end="\r\n").encode()),
        ("blank.csv", (table() + ",\n\n , \n").encode()),
        ("no_header.csv", "".join(f"{n},{c}\n" for n, c in ROWS).encode()),
        ("bom.json", json.dumps([{"file_name": n, "class": c} for n, c in ROWS]).encode("utf-8-sig")),
        ("bom.txt", "".join(f"{n} {c}\n\n" for n, c in ROWS).encode("utf-8-sig")),
        ("commas.txt", "".join(f"{n},{c}\n" for n, c in ROWS).encode()),
        ("UPPER.CSV", table().encode()),
        ("pipe.csv", table("|").encode()),
        ("excel_says.csv", ("sep=;\n" + table(";")).encode()),
        ("old_mac.csv", table(end="\r").encode()),
        ("header.txt", table(" ").encode()),
        ("comma_and_space.txt", "".join(f"{n}, {c}\n" for n, c in ROWS).encode()),
        ("held.json", json.dumps({"images": [{"file_name": n, "class": c} for n, c in ROWS]}).encode()),
        ("lines.jsonl", "".join(json.dumps({"file_name": n, "label": c}) + "\n" for n, c in ROWS).encode("utf-8-sig")),
    ],
)  # fmt: skip
def test_lists(lists, name, data):
    (lists / name).write_bytes(data)
    listing = silent(lists / name)
    assert listing.classes == ("cat", "dog")
    assert [os.path.relpath(file, lists) for file in listing.files] == [name for name, _ in ROWS]
    assert listing.labels.tolist() == [0, 1] * 3


def test_class_names_beside_a_list_may_have_a_mark(lists):
    (lists / "list.txt").write_bytes("".join(f"{n} {i % 2}\n" for i, (n, _) in enumerate(ROWS)).encode("utf-8-sig"))
    (lists / "labels.txt").write_bytes("cat\r\ndog\r\n\r\n".encode("utf-8-sig"))
    assert silent(lists / "list.txt").classes == ("cat", "dog")


@pytest.mark.parametrize("header", ["photo,kind", "path,species", "a,label"])
def test_columns_of_other_names_are_no_image(lists, header):
    (lists / "list.csv").write_text(table(header=header))
    with pytest.raises(ValueError, match=r"the first row, .* is neither an image and its label nor names of columns"):
        read_listing(lists / "list.csv")


def test_an_image_listed_with_two_labels_is_said(lists):
    (lists / "list.csv").write_text(table(rows=[*ROWS, (ROWS[0][0], "dog")]))
    with pytest.warns(UserWarning, match=r"1 rows give an image another label .*0\.jpg': 'cat' and 'dog'"):
        assert len(read_listing(lists / "list.csv")) == 7


def test_whole_numbers_that_pandas_wrote_with_a_point(lists):
    (lists / "list.csv").write_text(table(rows=[(n, f"{i % 2}.0") for i, (n, _) in enumerate(ROWS)]))
    assert silent(lists / "list.csv").classes == ("0", "1")


def test_a_file_linked_twice_counts_once(classes):
    images = len(read_listing(classes))
    first = sorted((classes / "cat").iterdir())[0]
    (classes / "cat" / "again.jpg").symlink_to(first)
    (classes / "cat" / "more").mkdir()
    os.link(first, classes / "cat" / "more" / "hard.jpg")
    assert len(read_listing(classes)) == images


def test_a_link_does_not_give_images_two_classes(classes):
    (classes / "cat" / "more").symlink_to(classes / "dog")
    with pytest.raises(ValueError, match="belong to two classes, 'cat' and 'dog', by a link"):
        read_listing(classes)


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems know no difference")
def test_folders_whose_names_look_alike_are_not_taken_for_one(classes):
    for name in ("caf\u00e9", "cafe\u0301"):
        save(classes / name / "0.jpg")
    with pytest.raises(ValueError, match="have one name, written in two ways"):
        read_listing(classes)


def test_a_class_of_unread_formats_says_what_it_holds(classes):
    for image in (classes / "cat").iterdir():
        image.rename(image.with_suffix(".heic"))
    with pytest.raises(ValueError, match=r"cat' holds no images .*; it holds \.heic \(3\)"):
        read_listing(classes)


def test_a_folder_that_cannot_be_read_is_an_error(classes, monkeypatch):
    (classes / "cat" / "locked").mkdir()
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="locked"):
        read_listing(classes)


def test_a_link_to_nothing_is_an_unreadable_image(classes):
    (classes / "cat" / "gone.jpg").symlink_to("nothing.jpg")
    listing = silent(classes)
    assert listing.fingerprint()
    index = listing.files.index(str(classes / "cat" / "gone.jpg"))
    assert find_unreadable(listing) == {index: "No such file or directory"}


def test_a_png_with_a_large_colour_profile(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, 2_000_000, "uint8").tobytes()
    save(tmp_path / "profile.png", icc_profile=noise)
    assert (load_image(tmp_path / "profile.png", 24) == 99).all()


def test_a_large_file_that_is_no_image_is_not_read_whole(tmp_path):
    with open(tmp_path / "film.bin", "wb") as file:
        file.truncate(1 << 40)  # of zeros that take no space
    with pytest.raises(ValueError, match="is not an image that Pillow reads"):
        load_image(tmp_path / "film.bin")
