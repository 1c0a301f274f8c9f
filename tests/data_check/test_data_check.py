"""What is planted in real images is found, little else is, and every way to ask says the same."""

import csv
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resnext.data import read_listing
from keras_resnext.data_check import check_data
from keras_resnext.data_check.doubtful_labels import find_doubtful, neighbour_probabilities
from keras_resnext.data_check.image_facts import FACTS, blur_of, facts_of
from keras_resnext.data_check.image_rules import odd_images
from keras_resnext.data_check.near_duplicates import find_duplicates
from keras_resnext.digits import load_digits
from tests.cli.test_cli import run
from tests.data_check.planted_faults import FAULTS, Planted, compare, patches, plant


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    images, labels = patches(80)
    kept = [
        i for i, image in enumerate(images) if image.mean(2).std() > 15 and image.max() > 128
    ]  # sky is no image of anything
    return plant(tmp_path_factory.mktemp("planted"), [images[i] for i in kept], [labels[i] for i in kept], 0.08)


def test_planted_faults_are_found(planted: Planted) -> None:
    found, alarms = compare(planted, check_data(planted.folder, ignore=["imbalance"]))
    assert found.pop("label")[0] == 0  # needs a model
    assert set(found) == set(FAULTS) - {"label"}
    hits, faults = np.sum(list(found.values()), axis=0)
    assert faults >= 16
    assert hits >= 0.9 * faults, found
    assert sum(alarms.values()) <= 0.05 * planted.images, alarms


def test_the_command(planted: Planted, tmp_path: Path, capsys: Any) -> None:
    files = [tmp_path / name for name in ("found.csv", "found.json", "sheet.png", "sheet.html")]
    code, out, _ = run(
        "check", planted.folder, "--csv", files[0], "--json", files[1], "--sheet", files[2], capsys=capsys
    )
    report = check_data(planted.folder)
    assert code == 0
    assert "labels              not judged; --model MODEL judges them" in out
    rows = list(csv.DictReader(files[0].open()))
    assert [(row["kind"], row["image"]) for row in rows] == [(f.kind, f.image) for f in report.findings]
    facts = json.loads(files[1].read_text())
    assert facts["counts"] == report.counts()
    assert all(row["other"] in row["reason"] for row in rows)
    assert Image.open(files[2]).width > 500
    code, _, _ = run("check", planted.folder, "--strict", "--ignore", "dark", "--sheet", files[3], capsys=capsys)
    page = files[3].read_text()
    assert code == 1
    assert page.count("data:image/jpeg;base64,") > 10
    assert "<h2>Dark images" not in page
    assert "<h2>Blurred images" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ignore", "ugly"], "--ignore 'ugly' must be one of unreadable, leak,"),
        (["--sheet", "a.jpg"], "--sheet 'a.jpg' must end in .png or .html"),
        (["--csv", "nowhere/a.csv"], "there is no folder 'nowhere'"),
        (["--val", "nowhere"], "'nowhere': there is no such file or folder"),
        (["--model", "nothing.keras"], "nothing.keras"),
    ],
)
def test_bad_arguments_are_one_line(arguments: list[str], message: str, planted: Planted, capsys: Any) -> None:
    code, out, err = run("check", planted.folder, *arguments, capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert message in err


def test_labels_that_neighbours_speak_against(tmp_path: Path, capsys: Any) -> None:
    """Digits in their own pixels as features: a model that passes them on is enough."""
    digits, labels = load_digits()
    images = [np.repeat(np.round(digit * (255 / 16)).astype("uint8")[..., None], 3, 2) for digit in digits[:500]]
    planted = plant(tmp_path / "digits", images, [str(label) for label in labels[:500]], 0.05, 0, ".png", ("label",))
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    model.save(tmp_path / "m.keras")
    ignored = ["dark", "bright", "plain", "tiny", "shape", "blurred", "duplicate", "leak", "conflict", "imbalance"]
    found, alarms = compare(planted, check_data(planted.folder, model=tmp_path / "m.keras", ignore=ignored))
    hits, faults = found["label"]
    assert faults > 15
    assert hits >= 0.9 * faults
    assert alarms.get("label", 0) <= 0.05 * planted.images
    (tmp_path / "numbers.csv").write_text(f"path,value\n{next(iter(planted.faults))},1.5\n")
    code, _, err = run("check", tmp_path / "numbers.csv", "--model", tmp_path / "m.keras", capsys=capsys)
    assert (code, "judges labels of one class an image" in err) == (2, True)


def test_copies_with_other_labels_are_conflicts(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), "uint8")
    for split, label, image in (("train", "a", 0), ("train", "b", 1), ("val", "b", 0), ("val", "a", 2)):
        (tmp_path / split / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise[image]).save(tmp_path / split / label / "x.png")
    report = check_data(tmp_path, ignore=["blurred"])
    assert report.counts() == {"leak": 1, "conflict": 1}
    leak, conflict = report.findings
    assert leak.other == conflict.other == str(tmp_path / "train" / "a" / "x.png")
    assert conflict.reason.endswith("which is labelled a")
    with pytest.raises(ValueError, match="other labels than data"):
        check_data(read_listing(tmp_path / "train"), read_listing(tmp_path / "val", ("b", "a")))


def test_copies_are_found_among_many_and_fast() -> None:
    """Two hashes that differ in up to 6 bits are compared, whatever the bits."""
    rng, n, copies = np.random.default_rng(0), 20000, 1000
    facts = np.zeros(n, FACTS)
    facts["hash"], facts["digest"], facts["deviation"] = rng.integers(0, 2**63, n, "uint64"), np.arange(n), 50
    facts["thumb"] = rng.integers(0, 255, (n, 16, 16))
    facts["thumb"][-copies:], changed = facts["thumb"][:copies], facts["hash"][:copies].copy()
    for _ in range(6):
        changed ^= np.uint64(1) << rng.integers(0, 64, copies, "uint64")
    facts["hash"][-copies:] = changed
    groups = find_duplicates(facts)
    assert (groups[-copies:] == np.arange(copies)).all()
    assert (groups[:-copies] == np.arange(n - copies)).all()


def test_blur_is_as_scikit_image_orders_it() -> None:
    from skimage import data
    from skimage.filters import gaussian
    from skimage.measure import blur_effect

    images = [np.round(gaussian(data.camera(), sigma) * 255).astype("uint8") for sigma in (0.5, 1, 2, 4, 8)]
    ours, theirs = [blur_of(image) for image in images], [blur_effect(image, h_size=9) for image in images]
    assert ours == sorted(ours)
    assert np.abs(np.subtract(ours, theirs)).max() < 0.12  # without its smoothing across
    assert blur_of(np.zeros((30, 30), "uint8")) == 1
    assert np.isnan(blur_of(np.zeros((30, 17), "uint8")))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "LA", "1", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 2)])
def test_any_image_has_facts(mode: str, size: tuple[int, int]) -> None:
    found = facts_of(b"", size, Image.new(mode, size))
    assert (found["width"], found["height"]) == size


def test_odd_sizes_are_beside_the_usual() -> None:
    facts = np.zeros(9, FACTS)
    facts["width"] = facts["height"] = 200
    facts["high"], facts["deviation"] = 255, 50
    facts["width"][1] = facts["height"][1] = 40
    facts["width"][2] = 900
    assert [(kind, i) for kind, i, *_ in odd_images(facts)] == [("tiny", 1), ("shape", 2)]
    assert list(odd_images(facts[:0])) == []


def test_doubt_needs_a_class_that_is_sure() -> None:
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.05, 0.95], [0.55, 0.45]])
    found, seems = find_doubtful(p, np.array([0, 0, 1, 1, 0, 1]))
    assert (found.tolist(), seems.tolist()) == ([4], [1])
    one = neighbour_probabilities(np.eye(3, dtype="float32"), np.array([0, 1, 1]), 2, np.arange(3))
    assert one.sum(1) == pytest.approx(1)


def test_training_tells_what_is_wrong_and_goes_on(planted: Planted, capsys: Any) -> None:
    from rich.console import Console

    from keras_resnext.training.setup import find_images, look_through
    from keras_resnext.training.train_options import ImageOptions

    training, validation = find_images(planted.folder, None, 0)
    look_through(training, validation, ImageOptions(skip_limit=20), Console(width=300))
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.startswith("Data check: validation images that are in the training set too: ")
    assert told.endswith("`keras-resnext check` lists them.")
