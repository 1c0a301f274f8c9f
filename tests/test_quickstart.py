"""The quickstart: its data, a short real run, and, slowly, the whole one."""

import io
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from keras_resnext import quickstart
from keras_resnext.digits import encode_png, held_out_split, load_digits
from keras_resnext.export.models_config import ModelConfig, parse_config
from keras_resnext.preprocessing import load_image, preprocess_input
from keras_resnext.quickstart import QuickstartResult, run_quickstart

pytest.importorskip("tensorflow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("the quickstart exports, which needs the TensorFlow backend", allow_module_level=True)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=100)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_digits_are_the_uci_ones() -> None:
    images, labels = load_digits()
    assert (images.shape, images.dtype, images.min(), images.max()) == ((1797, 8, 8), np.uint8, 0, 16)
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert images.sum(dtype=int) == 561718


def test_a_fifth_of_each_class_is_held_out() -> None:
    labels = load_digits()[1]
    mask = held_out_split(labels)
    assert np.array_equal(mask, held_out_split(labels))
    assert np.bincount(labels[mask]).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]


def test_images_use_the_whole_range() -> None:
    image = np.asarray(Image.open(io.BytesIO(encode_png(np.arange(64).reshape(8, 8) % 17))))
    assert (image.dtype, image.shape, image.min(), image.max(), image[0, 1]) == (np.uint8, (8, 8), 0, 255, 16)


def check_files(result: QuickstartResult, folder: Path) -> None:
    assert result.model == folder / "digits.keras"
    assert (result.version / "saved_model.pb").is_file()
    assert (result.version / "assets" / "labels.txt").read_text().split() == list("0123456789")
    assert Image.open(result.image).size[0] >= 600
    # The files go together: the saved model sees in the saved image what Keras saw.
    model = keras.saving.load_model(result.model, compile=False)
    scores = np.asarray(model(preprocess_input(load_image(result.sample, 16)[None].astype("float32"))))
    images, labels = load_digits()
    held_out = {encode_png(images[i]): labels[i] for i in np.flatnonzero(held_out_split(labels))}
    assert scores.argmax() == held_out[result.sample.read_bytes()]


def test_training_never_sees_what_is_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class StopError(Exception):
        pass

    seen: list[np.ndarray] = []

    def train(images: np.ndarray, labels: np.ndarray, **_: object) -> None:
        seen.extend([images, labels])
        raise StopError

    monkeypatch.setattr(quickstart, "train", train)
    with pytest.raises(StopError):
        run_quickstart(tmp_path, console=quiet())
    images, labels = load_digits()
    mask = held_out_split(labels)
    expected = [load_image(encode_png(digit), 16) for digit in images[~mask][:20]]
    np.testing.assert_allclose(seen[0][:20], preprocess_input(np.stack(expected)), atol=1.01 / 57)
    assert np.array_equal(seen[1], labels[~mask])
    assert len(seen[0]) == 1438


def test_wrong_epochs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="epochs=0 must be at least 1"):
        run_quickstart(tmp_path / "x", epochs=0)
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_the_whole_run_and_a_second_one(tmp_path: Path) -> None:
    folder, console = tmp_path / "new" / "models", quiet()
    result = run_quickstart(folder, console=console)
    assert result.accuracy >= 0.97
    assert result.max_difference < 1e-5
    assert result.version == folder / "digits" / "1"
    check_files(result, folder)
    text = printed(console)
    for part in ("Training", "accuracy", "held-out digits right", str(result.version), "keras-resnext predict"):
        assert part in text
    again = run_quickstart(folder, epochs=1, console=console)
    assert again.version == folder / "digits" / "2"
    check_files(again, folder)
    config = parse_config((folder / "models.config").read_text())
    assert config == {"digits": ModelConfig("digits", "/models/digits")}, "TF Serving finds it"
