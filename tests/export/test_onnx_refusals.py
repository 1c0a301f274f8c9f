"""What ONNX cannot hold is refused, and a failure leaves the old file."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from keras import layers

from keras_resnext.export import export_onnx
from keras_resnext.export import onnx as module
from tests.export.onnx_material import CLASSES, SIZE
from tests.support import normalised_by_imagenet


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opset": 12}, "opset=12 must be one of 13 to 18"),
        ({"opset": 19}, "opset=19 must be one of 13 to 18"),
        ({"opset": 17.0}, r"opset=17\.0 must be one of 13 to 18"),
        ({"opset": "17"}, "opset='17' must be one of 13 to 18"),
        ({"tolerance": 0}, "tolerance=0 must be a number above 0"),
        ({"tolerance": float("nan")}, "tolerance=nan must be a number above 0"),
        ({"path": "model.pb"}, r"path='model.pb' must end in \.onnx"),
        ({"image_size": 32}, r"image_size=32 must be \(64, 64\)"),
        ({"model": "resnext50"}, "must be a keras.Model; got str"),
        ({"model": keras.Sequential([layers.Dense(3)])}, "has no known inputs"),
    ],
)
def test_wrong_arguments(onnx_model: keras.Model, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export_onnx(**{"model": onnx_model, "path": tmp_path / "a.onnx", **options})
    assert list(tmp_path.iterdir()) == []


def test_wrong_places(onnx_model: keras.Model, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        export_onnx(onnx_model, tmp_path / "none" / "a.onnx")
    (tmp_path / "a.onnx").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder"):
        export_onnx(onnx_model, tmp_path / "a.onnx")
    assert [f.name for f in tmp_path.iterdir()] == ["a.onnx"]


@keras.saving.register_keras_serializable("tests")
class Foreign(layers.Layer):
    """Something that ONNX has no operation for."""

    def call(self, inputs: Any) -> Any:
        import tensorflow as tf

        return inputs + tf.raw_ops.Betainc(a=tf.ones_like(inputs), b=tf.ones_like(inputs), x=tf.sigmoid(inputs))


def with_unknown_operation() -> keras.Model:
    image = keras.Input((SIZE, SIZE, 3))
    x = layers.GlobalAveragePooling2D()(Foreign()(layers.Conv2D(4, 3, strides=8)(image)))
    return normalised_by_imagenet(keras.Model(image, layers.Dense(3)(x)))


def broken(change: Callable[[Any], None]) -> Callable[..., Any]:
    real = module.simplify

    def simplify(*args: Any) -> Any:
        proto = real(*args)
        change(proto.graph)
        return proto

    return simplify


def shift(graph: Any) -> None:
    """A bias that is a little off."""
    (bias,) = [t for t in graph.initializer if list(t.dims) == [CLASSES]]
    bias.CopyFrom(
        onnx.numpy_helper.from_array(
            onnx.numpy_helper.to_array(bias) + np.linspace(0, 0.01, CLASSES, dtype="float32"), bias.name
        )
    )


def double_features(graph: Any) -> None:
    """The second output alone is wrong."""
    for node in graph.node:
        for side in (node.input, node.output):
            for i, name in enumerate(side):
                side[i] = "pooled" if name == "features" else name
    graph.node.append(onnx.helper.make_node("Add", ["pooled", "pooled"], ["features"], name="double"))


def unsorted(graph: Any) -> None:
    first = type(graph.node[0])()
    first.CopyFrom(graph.node[0])
    del graph.node[0]
    graph.node.append(first)


FAILURES: list[Any] = [
    pytest.param({"simplify": broken(shift)}, ValueError, "does not compute what the model does", id="bias"),
    pytest.param({"simplify": broken(double_features)}, ValueError, "does not compute what the model", id="features"),
    pytest.param({"simplify": broken(unsorted)}, ValueError, "made an invalid file", id="order"),
    pytest.param({"MAX_BYTES": 1000}, ValueError, "the model's weights take .* GiB; an ONNX file", id="size"),
    pytest.param(
        {"simplify": broken(lambda graph: graph.node[3].input.append("nothing"))},
        ValueError,
        "invalid file",
        id="input",
    ),
]


@pytest.mark.parametrize(("changes", "kind", "message"), FAILURES)
def test_a_failure_leaves_the_old_file(
    onnx_model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: Any, kind: Any, message: str
) -> None:
    (tmp_path / "a.onnx").write_bytes(b"old")
    for name, value in changes.items():
        monkeypatch.setattr(module, name, value)
    with pytest.raises(kind, match=message):
        export_onnx(onnx_model, tmp_path / "a.onnx")
    assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [("a.onnx", b"old")]


def test_a_full_disk_leaves_the_old_file(
    onnx_model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError("No space left on device")

    (tmp_path / "a.onnx").write_bytes(b"old")
    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        export_onnx(onnx_model, tmp_path / "a.onnx")
    assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [("a.onnx", b"old")]


def test_operations_that_onnx_lacks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no operation in ONNX opset 17: Betainc"):
        export_onnx(with_unknown_operation(), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_runtime_that_refuses(onnx_model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise Exception("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED")

    monkeypatch.setattr(ort, "InferenceSession", refuse)
    with pytest.raises(ValueError, match=r"ONNX Runtime does not run the file: .*NOT_IMPLEMENTED"):
        export_onnx(onnx_model, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_size_limit() -> None:
    module.check_size(1_900_000_000)
    with pytest.raises(ValueError, match=r"take 2\.79 GiB; an ONNX file holds at most 1\.98 GiB"):
        module.check_size(3_000_000_000)


@pytest.mark.parametrize("missing", ["tf2onnx", "onnx", "onnxruntime"])
def test_missing_packages(
    onnx_model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"{missing}.*pip install 'keras_resnext\[onnx\]'"):
        export_onnx(onnx_model, tmp_path / "a.onnx")


def test_another_backend_is_refused(onnx_model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match="KERAS_BACKEND=tensorflow"):
        export_onnx(onnx_model, tmp_path / "a.onnx")


def test_says_nothing(onnx_model: keras.Model, tmp_path: Path, capsys: Any, recwarn: Any) -> None:
    loggers = [logging.getLogger(name) for name in (None, "tf2onnx", "tensorflow")]
    levels, records = [logger.level for logger in loggers], []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        export_onnx(onnx_model, tmp_path / "a.onnx")
        assert [logger.level for logger in loggers] == [logging.INFO] * 3
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
    assert [record.getMessage() for record in records] == []
    # The one that the project's pytest settings ignore is Keras's own.
    assert [str(w.message) for w in recwarn if not str(w.message).startswith("__array__ implementation")] == []
    assert capsys.readouterr() == ("", "")
