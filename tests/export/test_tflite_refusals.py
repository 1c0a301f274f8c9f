"""What TFLite cannot hold is refused, and a failure leaves the old file."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_resnext.export import export_tflite
from tests.export.tflite_material import SIZE, make_images, small
from tests.support import normalised_by_imagenet


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization": "int4"}, r"quantization='int4' must be one of None, 'float16', 'dynamic', 'int8', 'int16x8'"),
        ({"io_type": "uint8"}, "io_type='uint8' must be one of float32 for quantization=None"),
        ({"quantization": "dynamic", "io_type": "int8"}, "io_type='int8' must be one of float32 for"),
        ({"quantization": "int8", "io_type": "int16"}, "must be one of float32, int8, uint8 for quantization='int8'"),
        ({"quantization": "int16x8", "io_type": "uint8"}, "must be one of float32, int16 for"),
        ({"quantization": "int8"}, "quantization='int8' needs calibration"),
        ({"quantization": "int16x8"}, "quantization='int16x8' needs calibration"),
        ({"calibration": make_images(2, 16)}, "calibration is for int8 and int16x8, not for quantization=None"),
        ({"batch_size": 0}, "batch_size=0 must be a positive integer"),
        ({"batch_size": True}, "batch_size=True must be a positive integer"),
        ({"tolerance": -1}, "tolerance=-1 must be a number above 0"),
        ({"tolerance": float("nan")}, "tolerance=nan must be a number above 0"),
        ({"image_size": 32}, r"image_size=32 must be \(16, 16\), which model=.* fixes"),
        ({"images": ["nowhere.png"]}, "nowhere.png"),
        ({"quantization": "int8", "calibration": []}, r"calibration=\[\] is empty"),
        ({"quantization": "int8", "calibration": 3}, "must be a folder of images, a list of paths, or an array"),
        ({"quantization": "int8", "calibration": [b"x"]}, "must be a folder of images, a list of paths, or an array"),
        ({"quantization": "int8", "calibration": "nowhere"}, "calibration='nowhere': there is no such folder"),
        ({"quantization": "int8", "calibration": ["nowhere.png"]}, "nowhere.png"),
        ({"quantization": "int8", "calibration": make_images(2, 24)}, r"shape \(2, 24, 24, 3\).*\(n, 16, 16, 3\)"),
        ({"quantization": "int8", "calibration": make_images(0, 16)}, r"shape \(0, 16, 16, 3\)"),
        ({"quantization": "int8", "calibration": make_images(2, 16).astype(str)}, "type <U"),
        ({"quantization": "int8", "calibration": make_images(2, 16) / 255}, "values from .* RGB on 0..255"),
        ({"quantization": "int8", "calibration": make_images(2, 16) - 128}, "values from -.* RGB on 0..255"),
        ({"quantization": "int8", "calibration": make_images(2, 16) * np.nan}, "values from nan"),
    ],
)  # fmt: skip
def test_wrong_arguments(tiny: keras.Model, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        export_tflite(tiny, tmp_path / "model.tflite", **options)
    assert list(tmp_path.iterdir()) == []


def test_calibration_folders_without_images(tiny: keras.Model, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    with pytest.raises(ValueError, match=r"calibration=.*images.* is empty"):
        export_tflite(tiny, tmp_path / "m.tflite", quantization="int8", calibration=folder)
    for i in range(3):
        (folder / f"{i}.jpg").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"holds no readable image among 3 files: .*0\.jpg"):
        export_tflite(tiny, tmp_path / "m.tflite", quantization="int8", calibration=folder)
    assert [file.name for file in tmp_path.iterdir()] == ["images"]


def test_wrong_paths(tiny: keras.Model, tmp_path: Path) -> None:
    for name in ("model.h5", "tflite", ".tflite"):
        with pytest.raises(ValueError, match=r"must be a file that ends in \.tflite"):
            export_tflite(tiny, tmp_path / name)
    (tmp_path / "folder.tflite").mkdir()
    with pytest.raises(ValueError, match=r"must be a file that ends in \.tflite"):
        export_tflite(tiny, tmp_path / "folder.tflite")
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*missing"):
        export_tflite(tiny, tmp_path / "missing" / "model.tflite")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: "resnext50", "must be a keras.Model; got str"),
        (lambda: keras.Sequential([layers.Dense(3)]), "has no known inputs"),
        (lambda: small(input_shape=(SIZE, SIZE, 1)), "must take one input"),
        (lambda: small(include_top=False, out_indices=(0, 2)), "must give one output"),
    ],
)
def test_what_is_no_such_model(make: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        export_tflite(make(), tmp_path / "model.tflite")
    assert list(tmp_path.iterdir()) == []


def test_another_backend_is_refused(tiny: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match="KERAS_BACKEND=tensorflow"):
        export_tflite(tiny, tmp_path / "model.tflite")


class Odd(layers.Layer):
    def call(self, inputs: Any) -> Any:
        return tf.math.bessel_i0e(inputs)


def odd_model() -> keras.Model:
    image = keras.Input((16, 16, 3))
    x = layers.GlobalAveragePooling2D()(Odd(name="odd_one")(layers.Conv2D(4, 3)(image)))
    return normalised_by_imagenet(keras.Model(image, layers.Dense(3, activation="softmax")(x), name="odd"))


def test_operations_that_tflite_lacks_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model='odd' .* TFLite, which lacks BesselI0e \(.*odd_one.*\)"):
        export_tflite(odd_model(), tmp_path / "model.tflite")
    assert list(tmp_path.iterdir()) == []


def test_custom_operations_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A converter that lets them through, as with SELECT_TF_OPS or custom ones allowed, is not enough."""
    real = tf.lite.TFLiteConverter.from_concrete_functions

    def lenient(*args: Any) -> Any:
        converter = real(*args)
        converter.allow_custom_ops = True
        return converter

    monkeypatch.setattr(tf.lite.TFLiteConverter, "from_concrete_functions", lenient)
    with pytest.raises(ValueError, match="needs operations that are not TFLite's own: custom BesselI0e"):
        export_tflite(odd_model(), tmp_path / "model.tflite")
    assert list(tmp_path.iterdir()) == []


def test_split_convolutions_are_refused(tiny: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from keras_resnext.export import tflite

    counted = Counter({"CONV_2D": 40})
    monkeypatch.setattr(tflite, "count_operations", lambda content: counted)
    with pytest.raises(ValueError, match="has 5 convolutions, and its TFLite file 40: some were split"):
        export_tflite(tiny, tmp_path / "model.tflite")


def test_what_differs_is_not_put_in_place(tflite_model: keras.Model, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_text("the old one")
    with pytest.raises(ValueError, match="does not compute what the model does"):
        export_tflite(tflite_model, path, quantization="dynamic", tolerance=1e-6)
    assert path.read_text() == "the old one"
    assert os.listdir(tmp_path) == ["model.tflite"]


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_failure_keeps_the_old_file(
    tiny: keras.Model, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.tflite"
    path.write_text("the old one")
    seen = []

    def fail(*args: Any) -> None:
        seen.extend(sorted(os.listdir(tmp_path)))
        raise KeyboardInterrupt

    monkeypatch.setattr(os, moment, fail)
    with pytest.raises(KeyboardInterrupt):
        export_tflite(tiny, path)
    assert sum(name.endswith("model.tflite") for name in seen) == 2  # the new one lay beside it
    assert path.read_text() == "the old one"
    assert os.listdir(tmp_path) == ["model.tflite"]
