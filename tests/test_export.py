"""What is exported runs without Keras, gives Keras's numbers, and appears whole or not at all."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resnext import ResNeXt, preprocess_input
from keras_resnext.export import export_saved_model
from keras_resnext.preprocessing import load_image

from .serving_session import SessionError, run_session

tf = pytest.importorskip("tensorflow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("export needs the TensorFlow backend", allow_module_level=True)

SIZE, CLASSES = 16, 7
LABELS = ["zero", "one", "zwei", "trois", "quattro", "cinco", "sześć"]
OPTIONS: dict[str, Any] = {
    "blocks": (1, 1, 1), "groups": 8, "base_channels": 8, "stem": "cifar", "stem_channels": 8,
    "input_shape": (SIZE, SIZE, 3), "classes": CLASSES,
}  # fmt: skip

WITHOUT_KERAS = """
import sys
sys.modules["keras"] = None  # TensorFlow imports Keras where it finds it; here it finds none
import json, numpy as np, tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
images = np.load(sys.argv[2])
outputs = loaded.signatures["serving_default"](images=tf.constant(images))
assert sys.modules["keras"] is None and not any(name.startswith("keras.") for name in sys.modules)
print(json.dumps(outputs["probabilities"].numpy().tolist()))
"""


def small(**options: Any) -> keras.Model:
    """A small network whose every weight and statistic is random."""
    model = ResNeXt(**{**OPTIONS, **options})
    rng = np.random.default_rng(0)
    for variable in model.weights:
        noise = rng.normal(0, 0.3, variable.shape)
        variable.assign(np.abs(noise) + 0.5 if variable.path.endswith(("gamma", "variance")) else noise)
    fc = model.get_layer("fc")
    features = np.asarray(keras.Function(model.input, fc.input)(preprocess_input(pictures(4).astype("float32"))))
    fc.kernel.assign(fc.kernel / features.std())  # no class near certainty, so that every score counts
    return model


def pictures(count: int, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def encoded(picture: Image.Image | np.ndarray, form: str, **options: Any) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def keras_probabilities(model: keras.Model, images: np.ndarray) -> np.ndarray:
    return np.asarray(model(preprocess_input(images.astype("float32")), training=False))


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return small()


@pytest.fixture(scope="module")
def exported(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_saved_model(model, tmp_path_factory.mktemp("base") / "new" / "digits", labels=LABELS)


@pytest.fixture(scope="module")
def signatures(exported: Path) -> Any:
    return tf.saved_model.load(str(exported)).signatures


def classify(signatures: Any, *pictures: bytes) -> dict[str, np.ndarray]:
    outputs = signatures["serving_bytes"](image_bytes=tf.constant(list(pictures), tf.string))
    return {name: value.numpy() for name, value in outputs.items()}


def test_loads_where_keras_is_not_there(model: keras.Model, exported: Path, tmp_path: Path) -> None:
    images = pictures(3).astype("float32")
    np.save(tmp_path / "images.npy", images)
    reply = subprocess.run(
        [sys.executable, "-c", WITHOUT_KERAS, str(exported), str(tmp_path / "images.npy")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert reply.returncode == 0, reply.stderr
    np.testing.assert_allclose(json.loads(reply.stdout), keras_probabilities(model, images), atol=1e-5)


def test_runs_as_tf_serving_runs_it(model: keras.Model, exported: Path) -> None:
    images = pictures(7)
    pngs = np.array([encoded(image, "PNG") for image in images], object)
    broken = np.array([b"no picture"], object)
    floats = images.astype("float32")
    answers = run_session(
        exported,
        [
            ("serving_default", {"images": floats}),
            ("serving_default", {"images": floats[:1]}),
            ("serving_bytes", {"image_bytes": broken}),
            ("serving_bytes", {"image_bytes": pngs}),
        ],
    )
    expected = keras_probabilities(model, images)
    many, one, failed, by_bytes = answers
    assert not isinstance(many, SessionError), many
    assert not isinstance(one, SessionError), one
    assert not isinstance(by_bytes, SessionError), by_bytes
    np.testing.assert_allclose(many["probabilities"], expected, atol=1e-5)
    np.testing.assert_allclose(one["probabilities"], expected[:1], atol=1e-5)
    assert isinstance(failed, SessionError)  # and the session lives on
    np.testing.assert_allclose(by_bytes["probabilities"], expected, atol=1e-5)
    order = np.argsort(-expected)[:, :5]
    assert by_bytes["top_classes"].tolist() == order.tolist()
    assert by_bytes["top_labels"].tolist() == [[LABELS[i].encode() for i in row] for row in order]


def test_the_session_does_refuse_what_tf_serving_refuses(tmp_path: Path) -> None:
    """The helper itself: with plain Keras's grouped convolution the server fails, and so must it."""
    plain_grouped().export(tmp_path / "plain", verbose=False)
    images = pictures(1).astype("float32")
    with_name = next(iter(tf.saved_model.load(str(tmp_path / "plain")).signatures["serving_default"]
                          .structured_input_signature[1]))  # fmt: skip
    (answer,) = run_session(tmp_path / "plain", [("serving_default", {with_name: images})])
    assert isinstance(answer, SessionError)
    assert "XLA" in str(answer)


def test_signatures_are_exactly_these(exported: Path) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((exported / "saved_model.pb").read_bytes())

    def described(side: Any) -> dict[str, tuple[str, list[int]]]:
        return {
            name: (tf.dtypes.as_dtype(info.dtype).name, [d.size for d in info.tensor_shape.dim])
            for name, info in side.items()
        }

    found = {
        name: (described(signature.inputs), described(signature.outputs))
        for name, signature in saved.meta_graphs[0].signature_def.items()
        if not name.startswith("__")  # the initialisation that TensorFlow adds
    }
    assert found == {
        "serving_default": (
            {"images": ("float32", [-1, SIZE, SIZE, 3])},
            {"probabilities": ("float32", [-1, CLASSES])},
        ),
        "serving_bytes": (
            {"image_bytes": ("string", [-1])},
            {
                "probabilities": ("float32", [-1, CLASSES]),
                "top_scores": ("float32", [-1, 5]),
                "top_classes": ("int32", [-1, 5]),
                "top_labels": ("string", [-1, 5]),
            },
        ),
    }
    assert not any(f.attr["_XlaMustCompile"].b for f in saved.meta_graphs[0].graph_def.library.function)


def test_labels_are_an_asset(exported: Path) -> None:
    assert (exported / "assets" / "labels.txt").read_text(encoding="utf-8").splitlines() == LABELS


def test_version_folder_is_readable_by_others(exported: Path) -> None:
    assert exported.name == "1"
    assert exported.stat().st_mode & 0o055 == 0o055 & ~current_umask()
    assert [f.name for f in exported.parent.iterdir()] == ["1"]


def current_umask() -> int:
    import os

    mask = os.umask(0o022)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("count", [1, 7])
def test_batch_size_is_free(model: keras.Model, signatures: Any, count: int) -> None:
    images = pictures(count)
    expected = keras_probabilities(model, images)
    outputs = signatures["serving_default"](images=tf.constant(images, tf.float32))
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-5)
    by_bytes = classify(signatures, *[encoded(image, "PNG") for image in images])
    np.testing.assert_allclose(by_bytes["probabilities"], expected, atol=1e-5)
    order = np.argsort(-expected, kind="stable")[:, :5]
    np.testing.assert_array_equal(by_bytes["top_classes"], order)
    np.testing.assert_allclose(by_bytes["top_scores"], np.take_along_axis(expected, order, 1), atol=1e-5)
    assert [[name.decode() for name in row] for row in by_bytes["top_labels"]] == [
        [LABELS[i] for i in row] for row in order
    ]


def frames(first: np.ndarray) -> bytes:
    return encoded(first, "GIF", save_all=True, append_images=[Image.fromarray(255 - first)])


SAMPLE = pictures(1)[0]
GREY = np.asarray(Image.fromarray(SAMPLE).convert("L"))
SMOOTH = np.asarray(Image.fromarray(pictures(1, 4, 4)[0]).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
DEEP = (np.random.default_rng(2).integers(0, 65536, (SIZE, SIZE))).astype(np.uint16)
PALETTE = Image.fromarray(SAMPLE).quantize(200)


@pytest.mark.parametrize(
    ("data", "expected", "tolerance"),
    [
        pytest.param(encoded(SAMPLE, "PNG"), SAMPLE, 1e-5, id="png"),
        pytest.param(encoded(GREY, "PNG"), GREY, 1e-5, id="grey png"),
        pytest.param(encoded(np.dstack([SAMPLE, GREY]), "PNG"), SAMPLE, 1e-5, id="png with alpha"),
        pytest.param(encoded(Image.fromarray(DEEP), "PNG"), (DEEP >> 8).astype(np.uint8), 1e-5, id="16-bit png"),
        pytest.param(encoded(PALETTE, "PNG"), PALETTE.convert("RGB"), 1e-5, id="palette png"),
        pytest.param(encoded(SAMPLE, "BMP"), SAMPLE, 1e-5, id="bmp"),
        pytest.param(encoded(GREY, "BMP"), GREY, 1e-5, id="grey bmp"),
        pytest.param(encoded(PALETTE, "BMP"), PALETTE.convert("RGB"), 1e-5, id="palette bmp"),
        pytest.param(encoded(np.dstack([SAMPLE, GREY]), "BMP"), SAMPLE, 1e-5, id="bmp with alpha"),
        pytest.param(encoded(PALETTE, "GIF"), PALETTE.convert("RGB"), 1e-5, id="gif"),
        pytest.param(frames(GREY), GREY, 1e-5, id="moving gif"),
        pytest.param(encoded(SMOOTH, "JPEG", quality=95), None, 1e-5, id="jpeg"),
        pytest.param(encoded(SMOOTH, "JPEG", progressive=True), None, 1e-5, id="progressive jpeg"),
        pytest.param(encoded(Image.fromarray(SMOOTH).convert("L"), "JPEG"), None, 1e-5, id="grey jpeg"),
    ],
)
def test_formats(model: keras.Model, signatures: Any, data: bytes, expected: Any, tolerance: float) -> None:
    picture = Image.open(io.BytesIO(data)) if expected is None else expected
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    wanted = keras_probabilities(model, np.asarray(picture.convert("RGB"))[None])
    np.testing.assert_allclose(classify(signatures, data)["probabilities"], wanted, atol=tolerance)


@pytest.mark.parametrize("size", [(SIZE, SIZE), (3, 5), (40, 31), (31, 40), (1, 1), (200, 16)])
def test_resizes_as_load_image_does(size: tuple[int, int]) -> None:
    from keras_resnext.export.pictures import decode_picture

    data = encoded(pictures(1, *size)[0], "PNG")
    ours = decode_picture(tf.constant(data), (SIZE, SIZE), SIZE).numpy()
    assert np.abs(ours - load_image(data, SIZE)).max() <= 1
    assert np.abs(ours - load_image(data, SIZE)).mean() < 0.4


def test_crops_large_pictures_as_load_image_does() -> None:
    from keras_resnext.export.pictures import decode_picture

    data = encoded(pictures(1, 301, 403)[0], "PNG")
    ours = decode_picture(tf.constant(data), (224, 224), 256).numpy()
    assert np.abs(ours - load_image(data, 224)).max() <= 1
    assert decode_picture(tf.constant(data), (64, 200), 73).shape == (64, 200, 3)
    assert decode_picture(tf.constant(data), (200, 64), 73).shape == (200, 64, 3)


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"BM", encoded(SAMPLE, "PNG")[:60], b"\xff\xd8\xff", encoded(SMOOTH, "GIF")[:30], b"<svg/>",
     encoded(GREY, "BMP")[:1000], encoded(PALETTE, "BMP")[:60]],
)  # fmt: skip
def test_broken_pictures_are_errors(signatures: Any, data: bytes) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError):
        classify(signatures, data)
    classify(signatures, encoded(SAMPLE, "PNG"))


def plain_grouped() -> keras.Model:
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(8, 3, name="plain")(image)
    x = keras.layers.Conv2D(8, 3, groups=4, name="grouped_conv")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(3, activation="softmax")(x))


def test_xla_functions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"grouped_conv \(Conv2D, groups=4\)") as error:
        export_saved_model(plain_grouped(), tmp_path / "a" / "b")
    assert "GroupedConv2D" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_versions(model: keras.Model, tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "notes").write_text("not a version")
    assert export_saved_model(model, tmp_path) == tmp_path / "8"
    with pytest.raises(FileExistsError, match="version=8 exists already"):
        export_saved_model(model, tmp_path, version=8)
    for version in (0, -1, True, 1.5, "2"):
        with pytest.raises(ValueError, match=r"version=.* must be a positive integer"):
            export_saved_model(model, tmp_path, version=version)  # type: ignore[arg-type]
    assert sorted(f.name for f in tmp_path.iterdir()) == ["7", "8", "notes"]


def test_a_failure_leaves_nothing(model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        (next((tmp_path / "new" / "base").iterdir()) / "half").write_text("a file")
        raise OSError("No space left on device")

    real = tf.saved_model.save
    monkeypatch.setattr(tf.saved_model, "save", lambda *a, **k: (real(*a, **k), fail()))
    with pytest.raises(OSError, match="No space left"):
        export_saved_model(model, tmp_path / "new" / "base")
    assert list(tmp_path.iterdir()) == []


def test_the_version_appears_whole(model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    seen = []
    real = os.rename
    monkeypatch.setattr(os, "rename", lambda a, b: (seen.append((Path(a), Path(b), Path(b).exists())), real(a, b)))
    export_saved_model(model, tmp_path, version=3)
    ((source, target, existed),) = [move for move in seen if move[1] == tmp_path / "3"]
    assert source.parent == tmp_path
    assert not source.name.isdecimal()
    assert (target, existed) == (tmp_path / "3", False)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:-1], "labels has 6 names; it must have 7"),
        ("abcdefg", "must be a list of names"),
        ([*LABELS[:-1], 6], "must be a list of names"),
        ([*LABELS[:-1], "two\nlines"], "each one line"),
        ([*LABELS[:-1], ""], "each one line"),
    ],
)
def test_wrong_labels(model: keras.Model, tmp_path: Path, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export_saved_model(model, tmp_path / "base", labels=labels)
    assert list(tmp_path.iterdir()) == []


def two_inputs() -> keras.Model:
    a, b = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    return keras.Model([a, b], keras.layers.Dense(2)(keras.layers.Flatten()(a + b)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: "resnext50", "must be a keras.Model; got str"),
        (lambda: ResNeXt(**{**OPTIONS, "include_top": False, "out_indices": (0, 2)}), "must give one output"),
        (lambda: ResNeXt(**{**OPTIONS, "include_top": False}), "must give one output"),
        (lambda: ResNeXt(**{**OPTIONS, "include_top": False, "pooling": "avg"}), "it gives features"),
        (lambda: ResNeXt(**{**OPTIONS, "input_shape": (16, 16, 1)}), r"must take one input \(None, height, width, 3\)"),
        (two_inputs, "must take one input"),
        (lambda: keras.Sequential([keras.layers.Dense(3)]), "has no known inputs"),
    ],
)
def test_what_is_no_classifier_is_refused(tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export_saved_model(make(), tmp_path / "base")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 32}, r"image_size=32 must be \(16, 16\)"),
        ({"image_size": 0}, "image_size=0 must be a positive integer"),
        ({"image_size": (16, 16, 3)}, "image_size=.* must be"),
        ({"resize_size": 8}, "resize_size=8 must be an integer of at least 16"),
    ],
)
def test_wrong_sizes(model: keras.Model, tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export_saved_model(model, tmp_path / "base", **options)
    assert list(tmp_path.iterdir()) == []


def test_another_backend_is_refused(model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match="KERAS_BACKEND=tensorflow"):
        export_saved_model(model, tmp_path)


def test_logits_become_probabilities_and_free_sizes_are_fixed(tmp_path: Path) -> None:
    logits = small(classifier_activation=None, input_shape=(None, None, 3), classes=3)
    path = export_saved_model(logits, tmp_path, image_size=(12, 20))
    signatures = tf.saved_model.load(str(path)).signatures
    images = pictures(2, 12, 20).astype("float32")
    outputs = signatures["serving_default"](images=tf.constant(images))["probabilities"].numpy()
    np.testing.assert_allclose(outputs.sum(axis=1), 1, atol=1e-6)
    expected = np.exp(np.asarray(logits(preprocess_input(images), training=False), "float64"))
    np.testing.assert_allclose(outputs, expected / expected.sum(axis=1, keepdims=True), atol=1e-5)
    top = classify(signatures, encoded(pictures(1)[0], "PNG"))
    assert {name: value.shape for name, value in top.items()} == {
        "probabilities": (1, 3), "top_scores": (1, 3), "top_classes": (1, 3), "top_labels": (1, 3)
    }  # fmt: skip
    assert sorted(top["top_labels"][0].tolist()) == [b"0", b"1", b"2"]


def test_mixed_precision_answers_in_float32(tmp_path: Path) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = small(with_cp=True, drop_path_rate=0.2, se_ratio=4)
    finally:
        keras.config.set_dtype_policy("float32")
    path = export_saved_model(mixed, tmp_path)
    images = pictures(2).astype("float32")
    outputs = tf.saved_model.load(str(path)).signatures["serving_default"](images=tf.constant(images))
    assert outputs["probabilities"].dtype == tf.float32
    np.testing.assert_allclose(outputs["probabilities"], keras_probabilities(mixed, images), atol=1e-2)
