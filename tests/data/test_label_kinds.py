"""Several labels an image, none, or numbers: read as people write them, and refused where they do not fit."""

import json
import os

import numpy as np
import pytest

from keras_resnext.data import (
    as_multi,
    as_numbers,
    as_single,
    check_images,
    describe,
    find_splits,
    read_listing,
)
from tests.data.data_material import make_image

FILES = ("a.png", "b.png", "c.png", "d.png")
LABELS = ([[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 1]], ("bird", "cat", "hot dog"))  # by name: bird, cat, hot dog
CELLS = ([("bird", "hot dog"), ("cat",), (), ("hot dog", "cat", "bird")], FILES)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name in FILES:
        make_image().save(folder / name)
    return folder


def write(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


def joined(separator, header="file,labels", quote='"', names=CELLS[0]):
    rows = (f"{file},{quote}{separator.join(labels)}{quote}\n" for file, labels in zip(FILES, names, strict=True))
    return f"{header}\n" + "".join(rows)


BY_FILE = dict(zip(FILES, map(list, CELLS[0]), strict=True))
ROWS = list(zip(FILES, LABELS[0], strict=True))
HOT = "".join(f"{file},{','.join(map(str, row))}\n" for file, row in ROWS)
TRUE = [{"image": file, **dict(zip(LABELS[1], map(bool, row), strict=True))} for file, row in ROWS]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pipe.csv", joined("|", header="file,label")),
        ("pipes_without_header.csv", joined("|", quote="").partition("\n")[2]),
        ("semicolon.csv", joined(" ; ")),
        ("comma.csv", joined(", ")),
        ("tabs.tsv", joined(",", quote="").replace(".png,", ".png\t").replace("file,", "file\t")),
        ("pandas.csv", "file,tags\n" + "".join(f'{file},"{list(row)}"\n' for file, row in BY_FILE.items())),
        ("lists.json", json.dumps([{"path": file, "labels": row} for file, row in BY_FILE.items()])),
        ("by_file.json", json.dumps(BY_FILE)),
        ("lines.jsonl", "".join(json.dumps({"path": f, "label": row}) + "\n" for f, row in BY_FILE.items())),
        ("hot.csv", "filename,bird,cat,hot dog\n" + HOT),
        ("hot_of_pandas.csv", ",filename,bird,cat,hot dog\n" + "".join(f"1,{line}\n" for line in HOT.split())),
        ("points.csv", "file;bird;cat;hot dog\n" + HOT.replace(",", ".0;").replace("png.0;", "png;")),
        ("true.json", json.dumps(TRUE)),
        ("expected.csv", "file,hot dog,bird\n" + "".join(f"{f},{r[2]},{r[0]}\n" for f, r in ROWS)),
    ],
)  # fmt: skip
def test_several_labels_an_image(name, text, images):
    expected = ("bird", "cat", "hot dog") if name == "expected.csv" else None
    listing = read_listing(write(images, name, text), expected)
    assert (listing.kind, listing.classes) == ("multi", LABELS[1])
    wanted = np.array(LABELS[0], "uint8")
    if expected:
        wanted[:, 1] = 0  # of which the list says nothing
    np.testing.assert_array_equal(listing.labels, wanted)
    assert [os.path.basename(file) for file in listing.select([3, 0]).files] == ["d.png", "a.png"]
    np.testing.assert_array_equal(listing.select([3, 0]).labels, wanted[[3, 0]])


@pytest.mark.parametrize(
    ("text", "classes", "labels"),
    [
        ("id,labels\na,scab rust\nb,rust\nc,scab\n", ("rust", "scab"), [[1, 1], [1, 0], [0, 1]]),
        ("image,tags\na.png,clear primary\nb.png,clear\n", ("clear", "primary"), [[1, 1], [1, 0]]),
        ('path,label\na.png,"0,2"\nb.png,1\n', ("0", "1", "2"), [[1, 0, 1], [0, 1, 0]]),
        ("path,label\na.png,[0 1 1]\nb.png,[1 0 0]\n", ("0", "1", "2"), [[0, 1, 1], [1, 0, 0]]),
        ("path,cat\na.png,1\nb.png,0\n", ("cat",), [[1], [0]]),
    ],
)
def test_other_ways_of_several_labels(text, classes, labels, images):
    listing = read_listing(write(images, "list.csv", text))
    assert (listing.kind, listing.classes, listing.labels.tolist()) == ("multi", classes, labels)


@pytest.mark.parametrize(
    ("name", "text", "classes", "labels"),
    [
        ("a.csv", "file,value\na.png,0.5\nb.png,-3\n", ("value",), [[0.5], [-3]]),
        ("a.csv", 'file;target\na.png;"0,5"\nb.png;3\n', ("target",), [[0.5], [3]]),
        ("a.csv", "file,x,y\na.png,0.5,1\nb.png,2,1e3\n", ("x", "y"), [[0.5, 1], [2, 1000]]),
        ("a.json", '[{"file": "a", "value": [1, 2]}, {"file": "b", "value": [3, 4]}]', ("0", "1"), [[1, 2], [3, 4]]),
    ],
)  # fmt: skip
def test_numbers(name, text, classes, labels, images):
    listing = read_listing(write(images, name, text))
    assert (listing.kind, listing.classes, listing.labels.tolist()) == ("raw", classes, labels)


@pytest.mark.parametrize(
    "text",
    [
        "file,target\na.png,3\nb.png,1\n",  # whole numbers may be classes
        "file,labels\na.png,hot dog\nb.png,cat\n",
        'file,label\na.png,"cat, tabby"\nb.png,dog\n',
    ],
)
def test_one_label_stays_one(text, images):
    assert read_listing(write(images, "list.csv", text)).kind == "single"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.png,cat\nb.png,\n", "row 2 must have a path and a label; it has no label"),
        (
            "file,label\na.png,cat dog\nb.png,cat\nc.png,dog\nd.png,hot dog\n",
            "several labels, 'cat dog', but",
        ),
        ("file,cat,dog\na.png,1,\nb.png,0,1\n", "row 1 has '' in column 'dog'; without a column such as 'label'"),
        ("file,cat,width\na.png,1,640\nb.png,0,480\n", "column 'cat' holds 0 and 1 and column 'width' other numbers"),
        ("file,value\na.png,1\nb.png,nan\n", "row 2 has 'nan' in column 'value'; it must hold a number"),
        ("file,labels\na.png,\nb.png,\n", "no image has a label"),
        ("file,cat,cat\na.png,1,0\nb.png,0,1\n", "two columns are called 'cat'"),
        ("file,Cat,cat\na.png,1,0\nb.png,0,1\n", "class names 'Cat' and 'cat' are the same"),
        ("a.png,cat,dog\nb.png,dog,\n", "has labels such as 'dog' in more columns than one, which have no names"),
        ('[{"file": "a.png", "label": [{"name": "cat"}]}]', "row 1 must have a label or a list of labels"),
        ("file,labels\na.png,cat|fox\n", "'fox', which are not among the expected"),
    ],
)
def test_lists_that_say_no_one_thing(text, message, images):
    path = write(images, "list.json" if text.startswith("[") else "list.csv", text)
    with pytest.raises(ValueError, match=message):
        read_listing(path, ("cat", "dog") if "fox" in text else None)


def test_what_a_model_is_asked(images):
    several = read_listing(write(images, "several.csv", joined("|")))
    assert describe(several) == "4 images with several of 3 labels, 1.5 an image, 1 with none"
    with pytest.raises(ValueError, match=r"several of 3 labels.*such as '.*a.png': bird, hot dog\), but it wants one"):
        as_single(several, "it wants one")
    hot = as_single(read_listing(write(images, "hot.csv", "file,cat,dog\na.png,0,1\nb.png,1,0\n")), "")
    assert (hot.kind, hot.labels.tolist(), hot.counts().tolist()) == ("single", [1, 0], [1, 1])
    numbers = read_listing(write(images, "classes.csv", "file,target\na.png,20\nb.png,3\n"))
    assert as_numbers(numbers, "").labels.tolist() == [[20], [3]]
    for change, reason in ((as_multi, "labels"), (as_single, "a class")):
        with pytest.raises(ValueError, match=rf"2 images with a number each \(value\), but it wants {reason}"):
            change(as_numbers(numbers, ""), f"it wants {reason}")
    with pytest.raises(ValueError, match=r"2 images of 2 classes \('cat', 'dog'\), but it wants numbers"):
        as_numbers(hot, "it wants numbers")


def test_an_image_of_several_rows_or_folders_has_all_of_their_labels(images, tmp_path):
    for label, name in (("cat", "a.png"), ("dog", "a.png"), ("dog", "b.png"), ("cat", "c.png")):
        (tmp_path / label).mkdir(exist_ok=True)
        os.link(images / name, tmp_path / label / f"{label}{name}")
    found = as_multi(read_listing(tmp_path), "")
    names = [os.path.basename(file)[3:] for file in found.files]
    assert dict(zip(names, found.labels.tolist(), strict=True)) == {"a.png": [1, 1], "b.png": [0, 1], "c.png": [1, 0]}


def test_records_keep_several_labels(images, tmp_path):
    pytest.importorskip("tensorflow")
    from keras_resnext.data.tf_records import write_records

    source = write(images, "several.csv", joined("|"))
    written = write_records(source, tmp_path / "records", shards=2)["train"]
    again = read_listing(find_splits(tmp_path / "records")[0])
    assert (again.kind, again.classes) == ("multi", LABELS[1])
    np.testing.assert_array_equal(again.labels, written.labels)
    assert [again.read(i) for i in range(4)] == [written.read(i) for i in range(4)]
    numbers = write(images, "numbers.csv", "file,value\na.png,1\nb.png,2\n")
    with pytest.raises(ValueError, match="has numbers for labels; records hold classes and labels"):
        write_records(numbers, tmp_path / "numbers")


def test_a_label_of_which_nothing_can_be_read_is_an_error(images, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    text = f"file,labels\n{images / 'a.png'},cat|dog\n{images / 'b.png'},\nbroken.png,owl|cat\n"
    listing = read_listing(write(tmp_path, "list.csv", text))
    with pytest.raises(ValueError, match="no image of class 'owl' can be read"):
        check_images(listing, limit=1)
    assert check_images(listing.select([0, 1]))[0].fingerprint() != listing.fingerprint()


def test_an_image_listed_twice_with_one_label_counts_twice(images):
    text = "file,label\na.png,cat\na.png,cat\nb.png,dog\n"
    assert as_multi(read_listing(write(images, "twice.csv", text)), "").labels.tolist() == [[1, 0], [1, 0], [0, 1]]
