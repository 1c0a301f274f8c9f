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
from keras_resnext.export.serving_session import SessionError, run_session
from keras_resnext.preprocessing import load_image

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
    features = np.asarray(keras.Function(model.input, fc.input)(preprocess_input(make_images(4).astype("float32"))))
    fc.kernel.assign(fc.kernel / features.std())  # no class near certainty, so that every score counts
    return model


def make_images(count: int, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def encoded(original: Image.Image | np.ndarray, form: str, **options: Any) -> bytes:
    image = original if isinstance(original, Image.Image) else Image.fromarray(original)
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


def classify(signatures: Any, *make_images: bytes) -> dict[str, np.ndarray]:
    outputs = signatures["serving_bytes"](image_bytes=tf.constant(list(make_images), tf.string))
    return {name: value.numpy() for name, value in outputs.items()}


def test_loads_where_keras_is_not_there(model: keras.Model, exported: Path, tmp_path: Path) -> None:
    images = make_images(3).astype("float32")
    np.save(tmp_path / "images.npy", images)
    reply = subprocess.run(
        [sys.executable, "-c", WITHOUT_KERAS, str(exported), str(tmp_path / "images.npy")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert reply.returncode == 0, reply.stderr
    np.testing.assert_allclose(json.loads(reply.stdout), keras_probabilities(model, images), atol=1e-5)


def test_runs_as_tf_serving_runs_it(model: keras.Model, exported: Path) -> None:
    images = make_images(7)
    pngs = np.array([encoded(image, "PNG") for image in images], object)
    broken = np.array([b"no image"], object)
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
    images = make_images(1).astype("float32")
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
        "features": ({"images": ("float32", [-1, SIZE, SIZE, 3])}, {"features": ("float32", [-1, 128])}),
        "classify": (
            {"inputs": ("string", [-1])},
            {"classes": ("string", [-1, 5]), "scores": ("float32", [-1, 5])},
        ),
    }
    methods = {name: signature.method_name for name, signature in saved.meta_graphs[0].signature_def.items()}
    assert methods.pop("classify") == "tensorflow/serving/classify"
    assert {methods[name] for name in found if name in methods} == {"tensorflow/serving/predict"}
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
    images = make_images(count)
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


SAMPLE = make_images(1)[0]
GREY = np.asarray(Image.fromarray(SAMPLE).convert("L"))
SMOOTH = np.asarray(Image.fromarray(make_images(1, 4, 4)[0]).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
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
    image = Image.open(io.BytesIO(data)) if expected is None else expected
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    wanted = keras_probabilities(model, np.asarray(image.convert("RGB"))[None])
    np.testing.assert_allclose(classify(signatures, data)["probabilities"], wanted, atol=tolerance)


@pytest.mark.parametrize("size", [(SIZE, SIZE), (3, 5), (40, 31), (31, 40), (1, 1), (200, 16)])
def test_resizes_as_load_image_does(size: tuple[int, int]) -> None:
    from keras_resnext.export.image_decoding import decode_image

    data = encoded(make_images(1, *size)[0], "PNG")
    ours = decode_image(tf.constant(data), (SIZE, SIZE), SIZE).numpy()
    assert np.abs(ours - load_image(data, SIZE)).max() <= 1
    assert np.abs(ours - load_image(data, SIZE)).mean() < 0.4


def test_crops_large_images_as_load_image_does() -> None:
    from keras_resnext.export.image_decoding import decode_image

    data = encoded(make_images(1, 301, 403)[0], "PNG")
    ours = decode_image(tf.constant(data), (224, 224), 256).numpy()
    assert np.abs(ours - load_image(data, 224)).max() <= 1
    assert decode_image(tf.constant(data), (64, 200), 73).shape == (64, 200, 3)
    assert decode_image(tf.constant(data), (200, 64), 73).shape == (200, 64, 3)


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"BM", encoded(SAMPLE, "PNG")[:60], b"\xff\xd8\xff", encoded(SMOOTH, "GIF")[:30], b"<svg/>",
     encoded(GREY, "BMP")[:1000], encoded(PALETTE, "BMP")[:60]],
)  # fmt: skip
def test_broken_images_are_errors(signatures: Any, data: bytes) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError):
        classify(signatures, data)
    classify(signatures, encoded(SAMPLE, "PNG"))


def plain_grouped() -> keras.Model:
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(8, 3, name="plain")(image)
    x = keras.layers.Conv2D(8, 3, groups=4, name="grouped_conv")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(3, activation="softmax")(x))


def test_plain_grouped_convolutions_are_exported(tmp_path: Path) -> None:
    """What the server refuses of plain Keras, it runs when exported here."""
    plain = plain_grouped()
    images = make_images(3).astype("float32")
    (answer,) = run_session(export_saved_model(plain, tmp_path), [("serving_default", {"images": images})])
    assert not isinstance(answer, SessionError), answer
    np.testing.assert_allclose(answer["probabilities"], keras_probabilities(plain, images), atol=1e-5)


@keras.saving.register_keras_serializable(package="tests")
class OwnConv2D(keras.layers.Conv2D):
    """A subclass may compute anything, so it is left as it is."""


def test_xla_functions_are_refused(tmp_path: Path) -> None:
    image = keras.Input((SIZE, SIZE, 3))
    x = OwnConv2D(8, 3, groups=4, name="own")(keras.layers.Conv2D(8, 1)(image))
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(3, activation="softmax")(x))
    with pytest.raises(ValueError, match=r"own \(OwnConv2D, groups=4\)") as error:
        export_saved_model(model, tmp_path / "a" / "b")
    assert "GroupedConv2D" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_wrong_shapes_are_errors_and_the_session_lives_on(model: keras.Model, exported: Path) -> None:
    """A session checks no shapes; without a check of its own in the graph, the first of these ends the process."""
    shapes = [(SIZE, SIZE, 3), (2, SIZE, SIZE, 1), (2, 5, SIZE, 3), (0,)]
    requests = [
        (name, {"images": np.zeros(shape, np.float32)}) for shape in shapes for name in ("serving_default", "features")
    ]
    *refused, answer = run_session(exported, [*requests, ("features", {"images": make_images(1).astype("float32")})])
    assert all(isinstance(error, SessionError) for error in refused)
    assert not isinstance(answer, SessionError)


def examples(*images: bytes) -> np.ndarray:
    made = []
    for image in images:
        feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))
        features = tf.train.Features(feature={"image/encoded": feature})
        made.append(tf.train.Example(features=features).SerializeToString())
    return np.array(made, object)


def test_classify_and_features_as_tf_serving_runs_them(model: keras.Model, exported: Path) -> None:
    images = make_images(3)
    pngs = [encoded(image, "PNG") for image in images]
    classified, features, empty, broken = run_session(
        exported,
        [
            ("classify", {"inputs": examples(*pngs)}),
            ("features", {"images": images.astype("float32")}),
            ("serving_default", {"images": np.zeros((0, SIZE, SIZE, 3), np.float32)}),
            ("classify", {"inputs": np.array([b"no example"], object)}),
        ],
    )
    expected = keras_probabilities(model, images)
    order = np.argsort(-expected, kind="stable")[:, :5]
    assert not isinstance(classified, SessionError), classified
    assert [[name.decode() for name in row] for row in classified["classes"]] == [
        [LABELS[i] for i in row] for row in order
    ]
    np.testing.assert_allclose(classified["scores"], np.take_along_axis(expected, order, 1), atol=1e-5)
    pooled = keras.Model(model.input, model.get_layer("fc").input)(preprocess_input(images.astype("float32")))
    np.testing.assert_allclose(features["features"], pooled, rtol=1e-4, atol=1e-5)
    assert isinstance(empty, SessionError), empty
    assert "the batch is empty" in str(empty)
    assert isinstance(broken, SessionError)


def test_warmup_requests_are_the_servers_own_messages_and_run(model: keras.Model, exported: Path) -> None:
    from tensorflow_serving.apis import prediction_log_pb2

    records = tf.data.TFRecordDataset(str(exported / "assets.extra" / "tf_serving_warmup_requests"))
    logs = [prediction_log_pb2.PredictionLog.FromString(record) for record in records.as_numpy_iterator()]
    requests = []
    for log in logs:
        if log.HasField("classify_log"):
            request = log.classify_log.request
            given = [example.SerializeToString() for example in request.input.example_list.examples]
            requests.append((request.model_spec.signature_name, {"inputs": np.array(given, object)}))
        else:
            request = log.predict_log.request
            inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
            requests.append((request.model_spec.signature_name, inputs))
    sizes = [(name, len(next(iter(inputs.values())))) for name, inputs in requests]
    assert sizes == [
        (name, batch) for name in ("classify", "features", "serving_bytes", "serving_default") for batch in (1, 8)
    ]
    assert not [answer for answer in run_session(exported, requests) if isinstance(answer, SessionError)]


def test_manifest(model: keras.Model, exported: Path) -> None:
    import hashlib

    facts = json.loads((exported / "manifest.json").read_text())
    files = {path.relative_to(exported).as_posix(): path for path in exported.rglob("*") if path.is_file()}
    del files["manifest.json"]
    assert facts["sha256"] == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert (facts["classes"], facts["image_size"], facts["target"]) == (CLASSES, [SIZE, SIZE], "cpu")
    assert facts["preprocessing"]["mean"] == [123.675, 116.28, 103.53]
    assert facts["verified"]["top1_agreement"] == 1
    assert facts["verified"]["largest_difference"] < 1e-4


@pytest.mark.parametrize("options", [{}, {"pooling": "avg"}])
def test_networks_without_a_head_give_features(options: dict[str, Any], tmp_path: Path) -> None:
    model = ResNeXt(**{**OPTIONS, "include_top": False, "classes": 1000, **options})
    path = export_saved_model(model, tmp_path)
    images = make_images(2)
    expected = np.asarray(model(preprocess_input(images.astype("float32")), training=False))
    expected = expected.mean((1, 2)) if expected.ndim == 4 else expected
    requests = [(name, {"images": images.astype("float32")}) for name in ("serving_default", "features")]
    pngs = np.array([encoded(image, "PNG") for image in images], object)
    for answer in run_session(path, [*requests, ("serving_bytes", {"image_bytes": pngs})]):
        assert not isinstance(answer, SessionError), answer
        np.testing.assert_allclose(answer["features"], expected, atol=1e-4)
    with pytest.raises(ValueError, match="are for classes, and model="):
        export_saved_model(model, tmp_path, labels=["a"])


def test_images_too_large_to_decode_are_errors(signatures: Any) -> None:
    """Headers that promise 30,000 x 30,000 pixels: nothing is decoded."""
    big = Image.new("L", (30_000, 30_000))
    jpeg = bytearray(encoded(SMOOTH, "JPEG"))
    start = jpeg.index(b"\xff\xc0") + 5
    jpeg[start : start + 4] = (30_000).to_bytes(2, "big") * 2
    bmp = bytearray(encoded(SAMPLE, "BMP"))
    bmp[18:26] = (30_000).to_bytes(4, "little") * 2
    gif = bytearray(encoded(PALETTE, "GIF"))
    gif[6:10] = (30_000).to_bytes(2, "little") * 2
    for data in (encoded(big, "PNG"), bytes(jpeg), bytes(bmp), bytes(gif)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="an image of more than 178956970 pixels"):
            classify(signatures, data)


def test_images_too_narrow_to_resize_are_errors() -> None:
    """One pixel wide and 70,000 high: a small file that would become 256 x 17,920,000."""
    from keras_resnext.export.image_decoding import decode_image

    data = encoded(Image.new("L", (1, 70_000)), "PNG")
    with pytest.raises(tf.errors.InvalidArgumentError, match="so narrow that it has over 16777216 pixels"):
        decode_image(tf.constant(data), (224, 224), 256)
    with pytest.raises(ValueError, match="is too narrow: resized it would have"):
        load_image(data, 224)
    assert decode_image(tf.constant(encoded(Image.new("L", (2, 400)), "PNG")), (224, 224), 256).shape == (224, 224, 3)


def test_an_export_that_computes_something_else_is_not_put_in_place(
    model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keras_resnext.export import prepared_model

    real = prepared_model.expected_outputs
    monkeypatch.setattr(prepared_model, "expected_outputs", lambda *a: real(*a) * 1.01)
    with pytest.raises(ValueError, match="does not compute what the model does"):
        export_saved_model(model, tmp_path / "base")
    assert list(tmp_path.iterdir()) == []


def test_saved_model_cli_shows_runs_and_scans(exported: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli"]
    np.save(tmp_path / "images.npy", make_images(2).astype("float32"))
    folder = ["--dir", str(exported)]
    run = ["run", *folder, "--tag_set", "serve", "--signature_def", "serving_default"]
    for arguments, shown in (
        (["show", *folder, "--all"], "Method name is: tensorflow/serving/classify"),
        ([*run, "--inputs", f"images={tmp_path / 'images.npy'}"], "Result for output key probabilities"),
        (["scan", *folder], "does not contain the default denylisted ops"),
    ):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert shown in done.stdout + done.stderr


@pytest.mark.slow
def test_killed_midway_other_versions_stay_and_none_is_half(model: keras.Model, tmp_path: Path) -> None:
    import signal
    import time

    base = tmp_path / "base"
    first = export_saved_model(model, base)
    before = json.loads((first / "manifest.json").read_text())["sha256"]
    model.save(tmp_path / "m.keras")
    code = f"""
import keras, keras_resnext
model = keras.saving.load_model({str(tmp_path / "m.keras")!r})
print("ready", flush=True)
while True:
    keras_resnext.export.export_saved_model(model, {str(base)!r}, warmup=False)
"""
    rng = np.random.default_rng(0)
    for _ in range(3):
        running = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert running.stdout is not None
        running.stdout.readline()
        time.sleep(rng.uniform(0, 4))
        running.send_signal(signal.SIGKILL)
        running.wait()
    for version in (folder for folder in base.iterdir() if folder.name.isdecimal()):
        facts = json.loads((version / "manifest.json").read_text())
        assert all((version / name).is_file() for name in facts["sha256"])
        tf.saved_model.load(str(version))
    assert json.loads((first / "manifest.json").read_text())["sha256"] == before


def test_versions(model: keras.Model, tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "notes").write_text("not a version")
    assert export_saved_model(model, tmp_path) == tmp_path / "8"
    with pytest.raises(FileExistsError, match="version=8 exists already"):
        export_saved_model(model, tmp_path, version=8)
    for version in (0, -1, True, 1.5, "2", 2**63):
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
    images = make_images(2, 12, 20).astype("float32")
    outputs = signatures["serving_default"](images=tf.constant(images))["probabilities"].numpy()
    np.testing.assert_allclose(outputs.sum(axis=1), 1, atol=1e-6)
    expected = np.exp(np.asarray(logits(preprocess_input(images), training=False), "float64"))
    np.testing.assert_allclose(outputs, expected / expected.sum(axis=1, keepdims=True), atol=1e-5)
    top = classify(signatures, encoded(make_images(1)[0], "PNG"))
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
    images = make_images(2).astype("float32")
    outputs = tf.saved_model.load(str(path)).signatures["serving_default"](images=tf.constant(images))
    assert outputs["probabilities"].dtype == tf.float32
    np.testing.assert_allclose(outputs["probabilities"], keras_probabilities(mixed, images), atol=1e-2)
