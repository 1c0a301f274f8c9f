"""What is exported runs without Keras and gives Keras's numbers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_resnext import ResNeXt, preprocess_input
from keras_resnext.export import export_saved_model
from keras_resnext.export.serving_session import SessionError, run_session
from tests.export.saved_model_material import (
    CLASSES,
    LABELS,
    OPTIONS,
    SIZE,
    classify,
    encoded,
    keras_probabilities,
    make_images,
    small,
)
from tests.support import normalised_by_imagenet

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


def plain_grouped() -> keras.Model:
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(8, 3, name="plain")(image)
    x = keras.layers.Conv2D(8, 3, groups=4, name="grouped_conv")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return normalised_by_imagenet(keras.Model(image, keras.layers.Dense(3, activation="softmax")(x)))


def test_plain_grouped_convolutions_are_exported(tmp_path: Path) -> None:
    """What the server refuses of plain Keras, it runs when exported here."""
    plain = plain_grouped()
    images = make_images(3).astype("float32")
    (answer,) = run_session(export_saved_model(plain, tmp_path), [("serving_default", {"images": images})])
    assert not isinstance(answer, SessionError), answer
    np.testing.assert_allclose(answer["probabilities"], keras_probabilities(plain, images), atol=1e-5)


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
