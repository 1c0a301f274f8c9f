"""ONNX files compute in every runtime what the model computes."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from keras import layers

from keras_resnext import get_preprocessing, preprocess_input
from keras_resnext.export import ExportReport, export_onnx, onnx_lowering
from keras_resnext.export.export_options import OPSETS
from tests.export.onnx_material import CLASSES, FEATURES, GROUPS, SIZE, make_images, small, spread
from tests.support import normalised_by_imagenet, randomise, relative_error

# options of the network and of the export, and how many Conv there are
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "plain": ({}, {"opset": 13}, 17),
    "se": ({"se_ratio": 4}, {"opset": 14}, 25),
    "d": ({"deep_stem": True, "avg_down": True}, {"opset": 15}, 19),
    "cifar": ({"stem": "cifar", "blocks": (1, 1, 1), "input_shape": (32, 32, 3)}, {}, 13),
    "map": ({"include_top": False}, {}, 17),
    "features": ({"include_top": False, "pooling": "avg"}, {}, 17),
    "dilated": ({"strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4)}, {"opset": 16}, 17),
    "caffe": ({"style": "caffe"}, {}, 17),
    "groupnorm": ({"norm_cfg": {"type": "GN", "num_groups": 4}}, {}, 17),
    "groupnorm and se": ({"norm_cfg": {"type": "GN", "num_groups": 4}, "se_ratio": 4}, {"opset": 18}, 25),
    "layernorm and se": ({"norm_cfg": {"type": "LN"}, "se_ratio": 4}, {"opset": 18}, 25),
    "weight standardisation": ({"conv_cfg": {"type": "ConvWS"}}, {}, 17),
    "logits of one size": ({"classifier_activation": None, "input_shape": (None, None, 3)}, {"image_size": 96}, 17),
    "another height": ({"input_shape": (None, None, 3)}, {"image_size": (64, 96), "opset": 18}, 17),
}


def from_keras(model: keras.Model, images: np.ndarray) -> dict[str, np.ndarray]:
    """What the file must give, computed layer by layer as the model stands."""
    inputs = preprocess_input(images, get_preprocessing(model))
    outputs = np.asarray(model(inputs, training=False), "float64")
    if outputs.ndim == 4 or not isinstance(model.layers[-1], layers.Dense):
        return {"features": outputs.mean((1, 2)) if outputs.ndim == 4 else outputs}
    if model.layers[-1].activation is keras.activations.linear:
        outputs = np.exp(outputs - outputs.max(1, keepdims=True))
        outputs /= outputs.sum(1, keepdims=True)
    features = keras.Function(model.inputs[0], model.layers[-1].input)(inputs)
    return {"features": np.asarray(features), "probabilities": outputs}


Run = Callable[[np.ndarray], dict[str, np.ndarray]]


def in_onnxruntime(path: Path) -> Run:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {"images": images}), strict=True))


def in_openvino(path: Path) -> Run:
    openvino = pytest.importorskip("openvino")
    # Some processors would be used in bfloat16 otherwise.
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: {output.any_name: values for output, values in compiled({"images": images}).items()}


def check_runtimes(path: Path, model: keras.Model, size: tuple[int, int]) -> None:
    runs = {start.__name__: start(path) for start in (in_onnxruntime, in_openvino)}
    for count in (1, 7):
        images = make_images(count, *size)
        expected = from_keras(model, images)
        for runtime, run in runs.items():
            actual = run(images)
            assert set(actual) == set(expected), runtime
            errors = {name: relative_error(actual[name], expected[name]) for name in expected}
            assert max(errors.values()) < 1e-5, (runtime, count, errors)


def kinds(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def attribute(node: Any, name: str) -> Any:
    return next(onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name)


@pytest.fixture(scope="module")
def onnx_report(onnx_model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    return export_onnx(onnx_model, tmp_path_factory.mktemp("onnx") / "plain.onnx")


@pytest.fixture(scope="module")
def onnx_file(onnx_report: ExportReport) -> Path:
    return onnx_report.path


@pytest.mark.parametrize("name", VARIANTS)
def test_variants(name: str, tmp_path: Path) -> None:
    """Each network, every opset, sizes that are free in the model; and the model stays as it was."""
    options, exporting, convolutions = VARIANTS[name]
    model = small(**options)
    before, weights = model.get_config(), model.get_weights()
    path = export_onnx(model, tmp_path / "a.onnx", **exporting).path
    assert model.get_config() == before
    for now, then in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(now, then)

    proto = onnx.load(path)
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", exporting.get("opset", 17))]
    size = exporting.get("image_size", model.inputs[0].shape[1:3])
    size = (size, size) if isinstance(size, int) else tuple(size)
    assert [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim] == [0, *size, 3]
    check_runtimes(path, model, size)
    found = kinds(path)
    assert found["Conv"] == convolutions
    assert found["Transpose"] == 1, found
    for left_over in ("Pad", "BatchNormalization", "Shape"):
        assert found[left_over] == 0, found
    assert found["Reshape"] == (2 * 17 if name.startswith("groupnorm") else 0), found
    assert [f.name for f in tmp_path.iterdir()] == ["a.onnx"]


def test_every_opset_is_tried() -> None:
    assert {exporting.get("opset", 17) for _, exporting, _ in VARIANTS.values()} == set(OPSETS)


def test_what_goes_in_and_out(onnx_file: Path) -> None:
    proto = onnx.load(onnx_file)

    def described(values: Any) -> dict[str, tuple[int, list[Any]]]:
        kinds = {value.name: value.type.tensor_type for value in values}
        return {
            name: (kind.elem_type, [d.dim_param or d.dim_value for d in kind.shape.dim]) for name, kind in kinds.items()
        }

    float32 = onnx.TensorProto.FLOAT
    assert described(proto.graph.input) == {"images": (float32, ["batch", SIZE, SIZE, 3])}
    assert described(proto.graph.output) == {
        "features": (float32, ["batch", FEATURES]),
        "probabilities": (float32, ["batch", CLASSES]),
    }
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 17)]


def test_the_scores_are_the_first_output(onnx_model: keras.Model, onnx_file: Path) -> None:
    images = make_images(2)
    session = ort.InferenceSession(str(onnx_file), providers=["CPUExecutionProvider"])
    first = session.run(None, {"images": images})[0]
    np.testing.assert_allclose(first, from_keras(onnx_model, images)["probabilities"], rtol=1e-4, atol=1e-6)


def test_convolutions_are_as_in_the_network(onnx_model: keras.Model, onnx_file: Path) -> None:
    proto = onnx.load(onnx_file)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    found = Counter(
        (attribute(node, "group"), shapes[node.input[1]]) for node in proto.graph.node if node.op_type == "Conv"
    )
    wanted = Counter(
        (layer.groups, tuple(layer.kernel.shape[axis] for axis in (3, 2, 0, 1)))
        for layer in onnx_model.layers
        if isinstance(layer, layers.Conv2D)
    )
    assert found == wanted
    assert sum(count for (group, _), count in found.items() if group == GROUPS) == 4


def test_the_transpose_comes_first(onnx_file: Path) -> None:
    assert [node.op_type for node in onnx.load(onnx_file).graph.node][:5] == ["Transpose", "Sub", "Mul", "Conv", "Relu"]


def test_the_report(onnx_report: ExportReport) -> None:
    assert onnx_report.path.name == "plain.onnx"
    assert onnx_report.size == onnx_report.path.stat().st_size
    assert onnx_report.runtime == "ONNX Runtime"
    assert 0 < onnx_report.largest_difference < 1e-5
    assert onnx_report.top1_agreement == 1
    assert 0 < onnx_report.latency < 10


def regnet_like() -> keras.Model:
    """Plain Keras: grouped convolutions, squeeze-and-excitation, swish, its own rescaling."""
    image = keras.Input((SIZE, SIZE, 3))

    def conv(x: Any, filters: int, size: int, strides: int = 1, groups: int = 1, activation: str = "swish") -> Any:
        x = layers.Conv2D(filters, size, strides, padding="same", groups=groups, use_bias=False)(x)
        return layers.Activation(activation)(layers.BatchNormalization()(x))

    x = conv(layers.Rescaling(0.5, offset=0.1)(image), 16, 3, 2)
    for filters in (32, 48):
        y = conv(conv(x, filters, 1), filters, 3, 2, groups=4)
        gate = layers.Reshape((1, 1, filters))(layers.GlobalAveragePooling2D()(y))
        gate = layers.Conv2D(filters, 1, activation="sigmoid")(layers.Conv2D(8, 1, activation="relu")(gate))
        y = conv(layers.Multiply()([y, gate]), filters, 1, activation="linear")
        x = layers.Activation("swish")(layers.Add()([y, conv(x, filters, 1, 2, activation="linear")]))
    x = layers.GlobalAveragePooling2D()(x)
    return spread(randomise(keras.Model(image, layers.Dense(CLASSES)(x))))


def sequential() -> keras.Model:
    stack = [
        keras.Input((SIZE, SIZE, 3)),
        layers.ZeroPadding2D(((1, 2), (3, 0))),
        layers.Conv2D(16, 3, use_bias=False),
        layers.BatchNormalization(),
        layers.ZeroPadding2D(1),  # in front of a max-pool, and not behind a ReLU: zeros count
        layers.MaxPooling2D(3, 2),
        layers.Conv2D(16, 3, 2, padding="same", groups=4, activation="relu"),
        layers.Dropout(0.5),
        layers.GlobalAveragePooling2D(),
        layers.Dense(CLASSES, activation="softmax"),
    ]
    return normalised_by_imagenet(spread(randomise(keras.Sequential(stack))))


def plain_grouped() -> keras.Model:
    image = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(8, 3, groups=4)(layers.Conv2D(8, 3)(image))
    return normalised_by_imagenet(
        spread(randomise(keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))))
    )


@pytest.mark.parametrize(
    ("make", "convolutions", "grouped", "pads"),
    [(regnet_like, 13, 2, 0), (sequential, 2, 1, 1), (plain_grouped, 2, 1, 0)],
)
def test_foreign_models(
    make: Callable[[], keras.Model], convolutions: int, grouped: int, pads: int, tmp_path: Path
) -> None:
    model = make()
    path = export_onnx(model, tmp_path / "a.onnx").path
    check_runtimes(path, model, (SIZE, SIZE))
    nodes = onnx.load(path).graph.node
    assert sum(node.op_type == "Conv" for node in nodes) == convolutions
    assert sum(node.op_type == "Conv" and attribute(node, "group") == 4 for node in nodes) == grouped
    found = kinds(path)
    assert (found["Transpose"], found["Pad"], found["BatchNormalization"], found["Reshape"]) == (1, pads, 0, 0)


def test_plain_keras_writes_a_file_that_no_runtime_takes(tmp_path: Path) -> None:
    """That these tests can fail, and why this module is here."""
    model = plain_grouped()
    model(make_images(1))  # Keras exports no model that was never called
    model.export(tmp_path / "plain.onnx", format="onnx", verbose=False)
    with pytest.raises(onnx.checker.ValidationError, match="StatefulPartitionedCall"):
        onnx.checker.check_model(str(tmp_path / "plain.onnx"), full_check=True)
    with pytest.raises(Exception, match="StatefulPartitionedCall"):
        ort.InferenceSession(str(tmp_path / "plain.onnx"), providers=["CPUExecutionProvider"])


def grouped(path: Path) -> list[tuple[int, int]]:
    """Groups, and channels of each, of the grouped convolutions."""
    graph = onnx.load(path).graph
    depth = {tensor.name: tensor.dims[1] for tensor in graph.initializer if len(tensor.dims) == 4}
    groups = [(a.i, depth[n.input[1]]) for n in graph.node for a in n.attribute if a.name == "group" and a.i > 1]
    return sorted(groups)


@pytest.mark.parametrize("width", [8, 16])
def test_joined_groups_compute_the_same(width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def fastest(kind: onnx_lowering.GroupedConv, *_: Any) -> int:
        measured.append(max(width, kind.channels // kind.groups))
        return measured[-1]

    monkeypatch.setattr(onnx_lowering, "fastest_width", fastest)
    model = small(blocks=(2, 1, 1, 1))
    export_onnx(model, tmp_path / "a.onnx", target="cpu")  # compares with the model
    depths = [channels // GROUPS for channels in (32, 32, 64, 128, 256)]
    assert grouped(tmp_path / "a.onnx") == sorted(
        (GROUPS * depth // max(width, depth), max(width, depth)) for depth in depths
    )
    assert len(measured) == 4  # two blocks are alike
    export_onnx(model, tmp_path / "b.onnx")
    assert grouped(tmp_path / "b.onnx") == [(GROUPS, depth) for depth in depths]


def test_the_width_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_lowering, "SECONDS", 0.02)
    kind = onnx_lowering.GroupedConv(64, 16, 64, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1), (8, 8))
    assert onnx_lowering.fastest_width(kind) in (4, 16, 32)
    assert onnx_lowering.fastest_width(kind._replace(groups=3, channels=48)) == 16  # 32 does not divide 48
