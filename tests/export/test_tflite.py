"""TFLite files compute what the model computes, in every quantization."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import interpreter as litert
from keras import layers
from PIL import Image

from keras_resnext import preprocess_input
from keras_resnext.digits import encode_png, held_out_split, load_digits
from keras_resnext.export import export_tflite
from keras_resnext.export.flatbuffer import count_operations
from keras_resnext.export.report import expected_outputs
from keras_resnext.runtimes.litert import load
from tests.export.tflite_material import CLASSES, SIZE, make_images, small
from tests.support import normalised_by_imagenet, randomise, relative_error

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "se": {"se_ratio": 16},
    "deep stem, avg_down": {"deep_stem": True, "avg_down": True},
    "cifar": {"stem": "cifar", "blocks": (1, 1, 1), "input_shape": (32, 32, 3)},
    "pooled features": {"include_top": False, "pooling": "avg"},
    "map": {"include_top": False},
    "dilated": {"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4)},
    "caffe": {"style": "caffe"},
    "logits": {"classifier_activation": None},
}


CONVOLUTIONS = {"se": 17 + 8, "deep stem, avg_down": 17 + 2, "cifar": 1 + 3 * 4}  # the others: 1 + 4 blocks of 4


QUANTIZATIONS = [None, "float16", "dynamic", "int8", "int16x8"]


BY_CALIBRATION = ("int8", "int16x8")


# Relative to the largest output: what these networks show, twice over.
CLOSE = {None: 1e-5, "float16": 2e-3, "dynamic": 5e-2, "int8": 0.15, "int16x8": 2e-2}


def foreign() -> keras.Model:
    """A RegNet of plain Keras layers: grouped convolutions, squeeze and excitation, swish."""

    def convolve(x: Any, filters: int, size: int = 1, stride: int = 1, groups: int = 1) -> Any:
        x = layers.Conv2D(filters, size, stride, "same", groups=groups, use_bias=False)(x)
        return layers.BatchNormalization()(x)

    def block(x: Any, filters: int, groups: int) -> Any:
        y = layers.Activation("swish")(convolve(x, filters))
        y = layers.Activation("swish")(convolve(y, filters, 3, 2, groups))
        weights = layers.Reshape((1, 1, filters))(layers.GlobalAveragePooling2D()(y))
        weights = layers.Conv2D(filters // 4, 1, activation="swish")(weights)
        weights = layers.Conv2D(filters, 1, activation="sigmoid")(weights)
        y = convolve(layers.Multiply()([y, weights]), filters)
        return layers.Activation("swish")(layers.Add()([y, convolve(x, filters, stride=2)]))

    image = keras.Input((SIZE, SIZE, 3))
    x = layers.Activation("swish")(convolve(image, 16, 3, 2))
    x = layers.GlobalAveragePooling2D()(block(block(x, 32, 4), 64, 8))
    return normalised_by_imagenet(
        randomise(keras.Model(image, layers.Dense(CLASSES, activation="softmax")(x), name="regnet"))
    )


def sequential() -> keras.Model:
    model = randomise(
        keras.Sequential(
            [
                keras.Input((32, 32, 3)),
                layers.Conv2D(16, 3, activation="relu"),
                layers.Conv2D(16, 3, groups=4),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.GlobalAveragePooling2D(),
                layers.Dense(CLASSES),
            ],
            name="sequence",
        )
    )
    return normalised_by_imagenet(model)


def calibration(quantization: str | None, size: int = SIZE) -> np.ndarray | None:
    return make_images(16, size, seed=2) if quantization in BY_CALIBRATION else None


def operations(path: Path) -> Counter[str]:
    return count_operations(path.read_bytes())


def run(path: Path, images: np.ndarray, output: str = "probabilities", delegated: bool = True) -> np.ndarray:
    """Resizes the input itself, so that nothing rests on the package's own reader."""
    kind = litert.OpResolverType
    interpreter = litert.Interpreter(
        str(path), experimental_op_resolver_type=kind.AUTO if delegated else kind.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    taken = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(taken, images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(taken, images)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_agree_in_float32(variant: str, tmp_path: Path) -> None:
    network = small(**VARIANTS[variant])
    size = network.input_shape[1]
    report = export_tflite(network, tmp_path / "model.tflite", tolerance=1e-5)
    images = make_images(7, size)
    output = "features" if variant in ("pooled features", "map") else "probabilities"
    expected = expected_outputs(network, images)
    for delegated in (True, False):
        actual = run(report.path, images, delegated=delegated)
        assert relative_error(actual, expected) <= 1e-5
    (signature,) = litert.Interpreter(str(report.path)).get_signature_list().items()
    assert signature == ("serving_default", {"inputs": ["images"], "outputs": [output]})
    counts = operations(report.path)
    assert counts["CONV_2D"] == CONVOLUTIONS.get(variant, 17)
    assert not [kind for kind in counts if kind.startswith("custom")]
    assert "SPLIT" not in counts
    assert "CONCATENATION" not in counts


@pytest.mark.parametrize("make", [small, foreign], ids=["resnext", "foreign"])
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_every_quantization(make: Any, quantization: str | None, tmp_path: Path) -> None:
    network = make()
    path = tmp_path / "model.tflite"
    report = export_tflite(network, path, quantization=quantization, calibration=calibration(quantization))
    assert report.path == path
    assert report.size == path.stat().st_size
    assert report.runtime.startswith("LiteRT ")
    assert report.latency > 0
    counts = operations(path)
    assert counts["CONV_2D"] == (17 if make is small else 13)
    assert not [kind for kind in counts if kind.startswith("custom")]
    images = make_images(7)
    expected = expected_outputs(network, images)
    for delegated in (True, False):
        for batch in (1, 7):
            actual = run(path, images[:batch], delegated=delegated)
            assert relative_error(actual, expected[:batch]) < CLOSE[quantization], (delegated, batch)
    interpreter = litert.Interpreter(str(path))
    details = (interpreter.get_input_details()[0], interpreter.get_output_details()[0])
    assert [(d["name"], d["dtype"], d["shape_signature"].tolist()) for d in details] == [
        ("images", np.float32, [-1, SIZE, SIZE, 3]),
        ("probabilities", np.float32, [-1, CLASSES]),
    ]


def test_quantization_makes_files_smaller(tflite_model: keras.Model, tmp_path: Path) -> None:
    sizes = {
        q: export_tflite(tflite_model, tmp_path / "model.tflite", quantization=q, calibration=calibration(q)).size
        for q in QUANTIZATIONS
    }
    assert sizes["float16"] < 0.52 * sizes[None]
    assert max(sizes["dynamic"], sizes["int8"], sizes["int16x8"]) < 0.32 * sizes[None]


def test_weights_are_quantised_per_channel(tflite_model: keras.Model, tmp_path: Path) -> None:
    report = export_tflite(tflite_model, tmp_path / "m.tflite", quantization="int8", calibration=calibration("int8"))
    interpreter = litert.Interpreter(str(report.path))
    details = [d for d in interpreter.get_tensor_details() if d["dtype"] == np.int8 and len(d["shape"]) == 4]
    scales = [(d["quantization_parameters"]["scales"], d["shape"][0]) for d in details]
    kernels = [(given, filters) for given, filters in scales if len(given) > 1]
    assert len(kernels) == 17
    assert all(len(given) == filters for given, filters in kernels)


def test_sequential_with_logits(tmp_path: Path) -> None:
    network = sequential()
    report = export_tflite(network, tmp_path / "model.tflite")
    images = make_images(3, 32)
    assert relative_error(run(report.path, images), expected_outputs(network, images)) < 1e-5
    assert operations(report.path)["CONV_2D"] == 2


@pytest.mark.parametrize("io_type", ["uint8", "int8"])
def test_integer_input_is_the_image_itself(tflite_model: keras.Model, io_type: str, tmp_path: Path) -> None:
    narrow = calibration("int8") * 0.5 + 60  # type: ignore[operator]  # the input's range is 0..255 nevertheless
    path = tmp_path / "model.tflite"
    export_tflite(tflite_model, path, quantization="int8", calibration=narrow, io_type=io_type, tolerance=0.5)
    interpreter = litert.Interpreter(str(path))
    taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    zero = {"uint8": 0, "int8": -128}[io_type]
    assert (taken["dtype"], given["dtype"]) == (np.dtype(io_type).type, np.dtype(io_type).type)
    assert taken["quantization"] == (1.0, zero)
    assert given["quantization"] == (1 / 256, zero)
    images = (make_images(3) * 0.5 + 60).astype("uint8")
    outputs = run(path, (images.astype("int16") + zero).astype(io_type))
    actual = (outputs.astype("float32") - zero) / 256
    assert relative_error(actual, expected_outputs(tflite_model, images.astype("float32"))) < CLOSE["int8"]


def test_int16_input(tiny: keras.Model, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    export_tflite(tiny, path, quantization="int16x8", calibration=make_images(8, 16), io_type="int16")
    assert litert.Interpreter(str(path)).get_input_details()[0]["dtype"] == np.int16


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_fixed_batch_size(tiny: keras.Model, quantization: str | None, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    export_tflite(tiny, path, quantization=quantization, calibration=calibration(quantization, 16), batch_size=3)
    assert litert.Interpreter(str(path)).get_input_details()[0]["shape_signature"].tolist() == [3, 16, 16, 3]


def test_free_height_and_width_are_fixed(tmp_path: Path) -> None:
    network = small(stem="cifar", blocks=(1, 1, 1), input_shape=(None, None, 3))
    path = tmp_path / "model.tflite"
    export_tflite(network, path, image_size=(24, 32))
    assert litert.Interpreter(str(path)).get_input_details()[0]["shape_signature"].tolist() == [-1, 24, 32, 3]


def test_preprocessing_gives_the_size_where_nothing_else_does(tmp_path: Path) -> None:
    network = small(input_shape=(None, None, 3))
    path = tmp_path / "model.tflite"
    export_tflite(network, path)
    assert litert.Interpreter(str(path)).get_input_details()[0]["shape_signature"].tolist() == [-1, 224, 224, 3]


def test_without_litert_tensorflow_verifies(
    tiny: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    report = export_tflite(tiny, tmp_path / "m.tflite", quantization="int8", calibration=make_images(8, 16))
    assert report.runtime == f"TensorFlow Lite {tf.__version__} with XNNPACK"
    assert [str(warning.message) for warning in recwarn if "deprecated" in str(warning.message)] == []


def save_images(folder: Path, count: int, size: int = 24) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i}.png" for i in range(count)]
    for path, image in zip(paths, make_images(count, size), strict=True):
        Image.fromarray(image.astype("uint8")).save(path)
    return paths


def scales_of(path: Path) -> list[tuple[float, int]]:
    return sorted(detail["quantization"] for detail in litert.Interpreter(str(path)).get_tensor_details())


def test_calibration_by_folder_paths_and_array_is_the_same(tiny: keras.Model, tmp_path: Path) -> None:
    paths = save_images(tmp_path / "images" / "cats", 5) + save_images(tmp_path / "images" / "dogs", 4, 16)
    (tmp_path / "images" / ".DS_Store").write_text("hidden files are none of our business")
    array = np.stack([np.asarray(Image.open(p).resize((16, 16), Image.Resampling.BILINEAR)) for p in paths])
    files = []
    for i, given in enumerate((tmp_path / "images", str(tmp_path / "images"), paths, [str(p) for p in paths], array)):
        files.append(tmp_path / f"{i}.tflite")
        export_tflite(tiny, files[-1], quantization="int8", calibration=given)
    scales = [scales_of(file) for file in files]
    assert len(scales[0]) > 10
    assert all(others == scales[0] for others in scales[1:])
    export_tflite(tiny, files[0], quantization="int8", calibration=array[:5])
    assert scales_of(files[0]) != scales[0]


def test_broken_files_in_a_folder_are_counted(tiny: keras.Model, tmp_path: Path) -> None:
    paths = save_images(tmp_path / "images", 4)
    paths[1].write_bytes(paths[1].read_bytes()[:100])
    (tmp_path / "images" / "notes.txt").write_text("no image")
    with pytest.warns(UserWarning, match=r"2 of 5 files are not readable images and are skipped: .*1\.png") as caught:
        export_tflite(tiny, tmp_path / "m.tflite", quantization="int8", calibration=tmp_path / "images")
    assert [w.filename for w in caught if "not readable images" in str(w.message)] == [__file__]
    with pytest.raises(ValueError, match=r"image='.*1\.png' is broken"):
        export_tflite(tiny, tmp_path / "m.tflite", quantization="int8", calibration=paths)


def test_at_most_300_images_calibrate(tiny: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from keras_resnext.export import tflite

    taken = []
    real = tflite._representative

    def count(images: np.ndarray, batch_size: int) -> Any:
        taken.append(len(images))
        return real(images[:2], batch_size)

    monkeypatch.setattr(tflite, "_representative", count)
    for given in (301, 300, 950):
        export_tflite(tiny, tmp_path / "m.tflite", quantization="int8", calibration=make_images(given, 16), tolerance=1)
    assert [t for i, t in enumerate(taken) if i == 0 or t != taken[i - 1]] == [151, 300, 238]


def test_the_model_stays_as_it_is(tiny: keras.Model, tmp_path: Path) -> None:
    images = preprocess_input(make_images(2, 16))
    before = tiny.predict_on_batch(images)
    export_tflite(tiny, tmp_path / "model.tflite", quantization="int8", calibration=make_images(8, 16))
    np.testing.assert_array_equal(tiny.predict_on_batch(images), before)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_int8_agrees_on_digits_that_a_trained_model_never_saw(seed: int, tmp_path: Path) -> None:
    from rich.console import Console

    from keras_resnext import quickstart

    digits, labels = load_digits()
    held_out = held_out_split(labels)
    images = quickstart._decode([encode_png(digit) for digit in digits])
    seen = preprocess_input(images[~held_out])
    network = quickstart.train(seen, labels[~held_out], epochs=6, seed=seed, console=Console(quiet=True))
    expected = expected_outputs(network, images[held_out])
    assert (expected.argmax(1) == labels[held_out]).mean() > 0.93
    for quantization, io_type in (("int8", "float32"), ("int8", "uint8"), ("int16x8", "float32")):
        path = tmp_path / "digits.tflite"
        report = export_tflite(network, path, quantization=quantization, calibration=images[~held_out], io_type=io_type)
        assert report.top1_agreement == 1
        for delegated in (True, False):
            _, classify = load(path.read_bytes(), "probabilities", delegated)
            actual = classify(images[held_out])
            assert (actual.argmax(1) == expected.argmax(1)).mean() >= 0.98
            assert np.abs(actual - expected).max() < 0.2
