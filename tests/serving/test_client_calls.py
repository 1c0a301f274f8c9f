"""Both clients get from `keras-resnext serve` what the Keras model computes, and say what they cannot ask."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from keras_resnext import preprocess_input
from keras_resnext.serving import (
    Client,
    Metadata,
    ServingError,
    Signature,
    TensorInfo,
    VersionStatus,
)
from tests.serving.material import CLASSES, IMAGES, LABELS, PNGS, SIZE, TOP, encode, noise
from tests.serving.server_process import ROOT, Server

CLASSIFY = "tensorflow/serving/classify"
WITHOUT_FRAMEWORKS = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("keras", "tensorflow", "tensorflow_serving", "grpc", "jax", "torch", "h5py", "PIL"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import numpy as np
from keras_resnext.serving import Client, GrpcClient
import keras_resnext
client = Client(sys.argv[1], "net")
client.wait_until_ready(5)
images = np.load(sys.argv[2])
image = open(sys.argv[3], "rb").read()
found = client.predict_images([sys.argv[3], image])
assert found["top_labels"][0].tolist() == [label for label, _ in client.classify([image])[0]]
print(client.predict(images)["probabilities"].shape, client.features(images).shape, client.metadata().version)
for problem in (lambda: GrpcClient("localhost:8500", "net"), lambda: keras_resnext.ResNeXt50):
    try:
        problem()
    except ImportError as error:
        print(error)
assert not {"keras", "tensorflow", "grpc"} & set(sys.modules)
"""


@pytest.fixture
def make(plain: Server, kind: Any) -> Iterator[Callable[..., Any]]:
    """Makes clients of one kind."""
    address = plain.address if kind is Client else plain.grpc_address
    with ExitStack() as stack:
        yield lambda model="net", **options: stack.enter_context(kind(address, model, **options))


@pytest.fixture(scope="module")
def expected(model: keras.Model) -> Callable[[Any], tuple[np.ndarray, np.ndarray]]:
    """Features and probabilities of images, by Keras."""
    both = keras.Model(model.input, [model.get_layer("fc").input, model.output])
    return lambda images: both.predict(preprocess_input(np.asarray(images, "float32")), verbose=0)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "float32", "float64"])
def test_predict(make: Any, expected: Any, dtype: str) -> None:
    found = make().predict(IMAGES.astype(dtype))
    assert list(found) == ["probabilities"]
    assert found["probabilities"].dtype == np.float32
    np.testing.assert_allclose(found["probabilities"], expected(IMAGES)[1], atol=1e-6)


def test_predict_takes_fractions_lists_and_one_image(make: Any, expected: Any) -> None:
    image = IMAGES[:1] / 3
    found = make().predict(image.tolist())["probabilities"]
    assert found.shape == (1, CLASSES)
    np.testing.assert_allclose(found, expected(image)[1], atol=1e-6)


def test_features(make: Any, expected: Any) -> None:
    features = expected(IMAGES)[0]
    np.testing.assert_allclose(make().features(IMAGES), features, atol=1e-5 * abs(features).max())


def test_predict_images(make: Any, expected: Any, tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    path.write_bytes(PNGS[0])
    found = make().predict_images([path, str(path), *PNGS])
    wanted = expected(IMAGES[[0, 0, 0, 1, 2]])[1]
    order = np.argsort(-wanted)[:, :TOP]
    assert {name: (value.dtype.kind, value.shape) for name, value in found.items()} == {
        "probabilities": ("f", (5, CLASSES)),
        "top_scores": ("f", (5, TOP)),
        "top_classes": ("i", (5, TOP)),
        "top_labels": ("U", (5, TOP)),
    }
    assert found["top_classes"].dtype == np.int32
    np.testing.assert_allclose(found["probabilities"], wanted, atol=1e-5)
    np.testing.assert_allclose(found["top_scores"], np.take_along_axis(wanted, order, 1), atol=1e-5)
    assert found["top_classes"].tolist() == order.tolist()
    assert found["top_labels"].tolist() == [[LABELS[i] for i in row] for row in order]


def test_images_that_exports_do_not_decode_are_sent_as_png(make: Any) -> None:
    """With their EXIF, by which the model turns them."""
    image, exif = noise(50, 40), Image.Exif()
    exif[0x0112] = 6
    sent = [encode(image, "PNG", exif=exif), encode(image, "WEBP", exif=exif, lossless=True), encode(image)]
    scores = make().predict_images(sent)["probabilities"]
    assert np.array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])


def test_classify(make: Any, expected: Any) -> None:
    found = make().classify(PNGS)
    wanted = expected(IMAGES)[1]
    order = np.argsort(-wanted)[:, :TOP]
    assert [[label for label, _ in row] for row in found] == [[LABELS[i] for i in row] for row in order]
    np.testing.assert_allclose(
        [[score for _, score in row] for row in found], np.take_along_axis(wanted, order, 1), atol=1e-5
    )


def test_outputs_named_bytes_are_bytes(make: Any) -> None:
    found = make("slow").predict_images(PNGS, "heads")
    assert found["head_bytes"].tolist() == [b"\x89PNG"] * 3
    assert found["length"].tolist() == [len(data) for data in PNGS]


def test_metadata_and_status(make: Any) -> None:
    found = make().metadata()
    assert (type(found), found.model, found.version) == (Metadata, "net", 1)
    assert set(found.signatures) == {"serving_default", "serving_bytes", "features", "classify"}
    assert found.signatures["serving_default"].inputs["images"] == TensorInfo("float32", (None, SIZE, SIZE, 3))
    assert found.signatures["serving_bytes"] == Signature(
        {"image_bytes": TensorInfo("string", (None,))},
        {
            "probabilities": TensorInfo("float32", (None, CLASSES)),
            "top_scores": TensorInfo("float32", (None, TOP)),
            "top_classes": TensorInfo("int32", (None, TOP)),
            "top_labels": TensorInfo("string", (None, TOP)),
        },
        "tensorflow/serving/predict",
    )
    assert found.signatures["classify"].method_name == CLASSIFY
    assert make("slow").metadata().signatures["two"].inputs["a"] == TensorInfo("int32", (None, 2))
    assert make().status() == make(version=1).status() == [VersionStatus(1, "AVAILABLE")]
    with pytest.raises(ServingError, match="Could not find any versions of model nothing") as error:
        make("nothing").status()
    assert error.value.code == "NOT_FOUND"


def test_versions_and_labels_that_are_not_there(make: Any) -> None:
    assert make(version=1).classify(PNGS[:1])[0][0][0] in LABELS
    with pytest.raises(ServingError, match="Unrecognized servable version label: canary") as error:
        make(label="canary").predict(IMAGES)
    assert error.value.code == "INVALID_ARGUMENT"
    with pytest.raises(ServingError, match=r"Specific\(net, 9\)") as error:
        make(version=9).predict(IMAGES)
    assert error.value.code == "NOT_FOUND"


def test_unknown_model(make: Any) -> None:
    with pytest.raises(ServingError, match=r"Servable not found for request: Latest\(nothing\)") as error:
        make("nothing").predict(IMAGES)
    assert error.value.code == "NOT_FOUND"
    with pytest.raises(ServingError) as error:
        make("ä b%").classify(PNGS)
    assert error.value.message.startswith("Servable not found for request: Latest(ä b%)")


def test_the_signatures_are_asked_for_once(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client, asked = make(), []
    fetch = client._fetch_metadata
    monkeypatch.setattr(client, "_fetch_metadata", lambda timeout: asked.append(1) or fetch(timeout))
    for _ in range(3):
        client.predict(IMAGES)
    client.features(IMAGES)
    assert len(asked) == 1
    with pytest.raises(ServingError):
        client.predict(np.full((1, SIZE, SIZE, 3), np.nan))
    client.predict(IMAGES)  # and again after an error: another version may have come
    assert len(asked) == 2


def test_another_version_may_take_another_size(make: Any, expected: Any) -> None:
    client = make()
    old = Signature({"images": TensorInfo("float32", (None, 9, 9, 3))}, {"old": TensorInfo("float32", None)}, "")
    client._signatures = {"serving_default": old}
    np.testing.assert_allclose(client.predict(IMAGES)["probabilities"], expected(IMAGES)[1], atol=1e-6)


def test_bad_input_is_told(make: Any, kind: type) -> None:
    client = make()
    for call in (
        lambda: client.predict_images([PNGS[0], b"no image"]),
        lambda: client.classify([b"no image"]),
        lambda: client.classify(PNGS, "serving_bytes"),
    ):
        with pytest.raises(ServingError) as error:
            call()
        assert error.value.code == "INVALID_ARGUMENT"
        assert error.value.http_status == (400 if kind is Client else None)
        assert error.value.address == client.address
        assert error.value.message
        assert str(error.value).startswith(f"{client.address}: ")
    assert "method_name to be tensorflow/serving/classify" in error.value.message
    client.predict(IMAGES)


def test_wrong_signatures(make: Any) -> None:
    for call, message in (
        (lambda: make().predict(IMAGES, "none"), "'none' must be one of classify, features, serving_bytes, ser"),
        (lambda: make().predict(IMAGES, "serving_bytes"), "takes string: call predict_images or classify"),
        (lambda: make().predict_images(PNGS, "features"), "takes float32: call predict"),
        (
            lambda: make().predict(IMAGES[:, :5]),
            r"\(3, 5, 32, 3\) must be \(N, 32, 32, 3\), which signature_name='serving_d",
        ),
        (lambda: make("slow").predict(IMAGES, "two"), "'two' takes a, b; it must take one input"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_threads_share_a_client(make: Any, expected: Any) -> None:
    client, found = make(), [None] * 3

    def ask(i: int) -> None:
        for _ in range(5):
            found[i] = client.predict(IMAGES[i : i + 1])["probabilities"]

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(np.concatenate(found), expected(IMAGES)[1], atol=1e-6)


def test_the_grpc_port_is_told(plain: Server) -> None:
    with pytest.raises(ServingError, match=r"is it TF Serving's REST port, 8501 by custom\?"):
        Client(f"http://{plain.grpc_address}", "net", retries=0).status()


def test_rest_without_keras_and_tensorflow(plain: Server, model: keras.Model, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", IMAGES)
    (tmp_path / "one.png").write_bytes(PNGS[0])
    arguments = [plain.address, str(tmp_path / "images.npy"), str(tmp_path / "one.png")]
    reply = subprocess.run(
        [sys.executable, "-c", WITHOUT_FRAMEWORKS, *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert reply.returncode == 0, reply.stderr
    assert reply.stdout.splitlines() == [
        f"(3, {CLASSES}) (3, {model.get_layer('fc').input.shape[-1]}) 1",
        "GrpcClient needs tensorflow-serving-api (No module named 'grpc'): pip install 'keras_resnext[grpc]'",
        "No module named 'keras'",
    ]
