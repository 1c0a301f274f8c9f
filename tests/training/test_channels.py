"""`keras-resnext train --channels N`: from files of arrays to a model that predicts and is evaluated on such files."""

import json

import keras
import numpy as np
import pytest

from keras_resnext import cli
from keras_resnext.network.input_preprocessing import get_preprocessing
from tests.training.small_runs import SMALL

pytestmark = pytest.mark.usefixtures("no_curves")
OPTIONS = ("--epochs", "1", "--batch-size", "8")


def run(*arguments):
    with pytest.raises(SystemExit) as end:
        cli.main(list(map(str, arguments)))
    return end.value.code or 0


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """Two classes of which the third channel, of uint16, tells."""
    root, rng = tmp_path_factory.mktemp("arrays"), np.random.default_rng(0)
    for label in range(2):
        (root / f"c{label}").mkdir()
        for i in range(20):
            values = rng.normal(20000, 1000, (12, 14, 5)) + 9000 * label * (np.arange(5) == 2)
            np.save(root / f"c{label}" / f"{i:02}.npy", values.astype("uint16"))
    return root


def test_trained_evaluated_and_predicted(arrays, tmp_path, capsys):
    command = ("train", arrays, "--output", tmp_path / "run", "--channels", "5", *SMALL, *OPTIONS)
    assert run(*command) == 0
    out = capsys.readouterr().out
    assert "Channels of 36 training images, mean and deviation: " in out
    model = keras.saving.load_model(tmp_path / "run/best.keras")
    how = get_preprocessing(model)
    assert model.input_shape[-1] == how.bands == 5
    values = np.stack([np.load(path) for path in sorted(arrays.glob("*/*.npy"))]).astype("float64")
    assert how.mean == pytest.approx(values.mean((0, 1, 2)), rel=0.02)
    assert how.std == pytest.approx(values.std((0, 1, 2)), rel=0.1)

    assert run("evaluate", tmp_path / "run", arrays) == 0
    assert "40 images of 2 classes" in capsys.readouterr().out
    np.save(tmp_path / "four.npy", values[0, ..., :4])
    assert run("predict", tmp_path / "run", arrays / "c0/00.npy", tmp_path / "four.npy", "--json") == 1
    out, error = capsys.readouterr()
    assert [each["class"] in ("c0", "c1") for each in json.loads(out)[0]["predictions"]] == [True, True]
    assert "four.npy' has 4 channels, not 5" in error


def test_colours_are_for_rgb(arrays, tmp_path, capsys):
    command = ("train", arrays, "--output", tmp_path / "run", "--channels", "5", *SMALL, *OPTIONS)
    assert run(*command, "--policy", "rand_augment") == 2
    assert "change red, green and blue, but the images have --channels 5; leave them out" in capsys.readouterr().err
    assert not (tmp_path / "run/run.json").exists()


def test_other_numbers_of_channels_are_told(arrays, tmp_path, capsys):
    assert run("train", arrays, "--output", tmp_path / "run", "--channels", "4", *SMALL, *OPTIONS) == 2
    error = capsys.readouterr().err
    assert "40 of 40 images cannot be read" not in error  # of the 36 to train on
    assert "36 of 36 images cannot be read" in error
    assert "has 5 channels, not 4" in error
