"""ONNX files in int8 compute in both runtimes what the model computes, and say where they lose most."""

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest

from keras_resnext import ResNeXt
from keras_resnext.export import export_onnx, export_tflite
from tests.export.onnx_material import SIZE, make_images, small
from tests.export.test_onnx import from_keras, in_onnxruntime, in_openvino
from tests.support import relative_error

CALIBRATION = make_images(16, SIZE, SIZE)


@pytest.mark.parametrize("options", [{}, {"se_ratio": 4, "deep_stem": True, "avg_down": True}])
def test_agrees_in_both_runtimes(options: dict[str, Any], tmp_path: Path) -> None:
    model = small(**options)
    report = export_onnx(model, tmp_path / "a.onnx", quantization="int8", calibration=CALIBRATION)
    images = CALIBRATION[:7]
    expected = from_keras(model, images)
    for start in (in_onnxruntime, in_openvino):
        actual = start(tmp_path / "a.onnx")(images)
        assert {name: relative_error(actual[name], expected[name]) < 0.1 for name in expected} == dict.fromkeys(
            expected, True
        ), start.__name__
    layers = {layer.name for layer in model._flatten_layers()}
    assert {name for name, _ in report.noisiest} <= layers
    assert [ratio for _, ratio in report.noisiest] == sorted(ratio for _, ratio in report.noisiest)


def test_every_convolution_is_in_integers(onnx_model: keras.Model, tmp_path: Path) -> None:
    export_onnx(onnx_model, tmp_path / "a.onnx", quantization="int8", calibration=CALIBRATION)
    graph = onnx.load(tmp_path / "a.onnx").graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    kinds = [{makers.get(name) for name in node.input[:2]} for node in graph.node if node.op_type == "Conv"]
    assert kinds == [{"DequantizeLinear"}] * 17
    (last,) = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    assert "DequantizeLinear" not in {makers.get(name) for name in last.input[1:]}, "the last layer stays in floats"
    weights = [onnx.numpy_helper.to_array(t) for t in graph.initializer if t.data_type == onnx.TensorProto.INT8]
    kernels = [weight for weight in weights if weight.ndim == 4]
    assert len(kernels) == 17
    assert max(abs(int(kernel.min())) for kernel in kernels) <= 64, "7 bits, so that no processor overflows"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_measured_for_this_machine(onnx_model: keras.Model, tmp_path: Path, runtime: str) -> None:
    report = export_onnx(
        onnx_model, tmp_path / "a.onnx", quantization="int8", calibration=CALIBRATION, target="cpu", runtime=runtime
    )
    assert report.runtime == {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}[runtime]
    assert report.top1_agreement > 0.7


def test_floats_measured_in_openvino(onnx_model: keras.Model, tmp_path: Path) -> None:
    report = export_onnx(onnx_model, tmp_path / "a.onnx", target="cpu", runtime="openvino")
    assert (report.runtime, report.noisiest) == ("OpenVINO", ())
    assert report.largest_difference < 1e-5


def test_random_weights_are_warned_about(tmp_path: Path) -> None:
    """TFLite's integers have steps of 1/256 for probabilities: which of a hundred alike comes first is an accident."""
    model = ResNeXt(blocks=(1, 1, 1, 1), base_channels=8, groups=4, classes=100, input_shape=(SIZE, SIZE, 3))
    with pytest.warns(UserWarning, match="as with random weights: how often both agree says nothing"):
        report = export_tflite(model, tmp_path / "a.tflite", quantization="int8", calibration=CALIBRATION)
    assert not report.agreement_tells
    assert len(report.noisiest) == 5
    assert {name for name, _ in report.noisiest} <= {layer.name for layer in model._flatten_layers()} | {"features"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization": "int4"}, "quantization='int4' must be one of None, 'int8'"),
        ({"quantization": "int8"}, "quantization='int8' needs calibration: a folder of images, paths or an array"),
        ({"calibration": CALIBRATION}, "calibration is for int8, not for quantization=None"),
        ({"runtime": "tensorrt", "target": "cpu"}, "runtime='tensorrt' must be one of onnxruntime, openvino"),
        ({"runtime": "openvino"}, "runtime='openvino' is measured for target='cpu', not for target='portable'"),
        (
            {"quantization": "int8", "calibration": CALIBRATION, "tolerance": 1e-9},
            "ONNX Runtime does not compute what the model does",
        ),
    ],
)
def test_refusals(onnx_model: keras.Model, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export_onnx(onnx_model, tmp_path / "a.onnx", **options)
    assert list(tmp_path.iterdir()) == []


def test_openvino_is_missing(onnx_model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_resnext\[openvino\]'"):
        export_onnx(onnx_model, tmp_path / "a.onnx", target="cpu", runtime="openvino")
    assert list(tmp_path.iterdir()) == []


def test_a_calibration_of_a_folder(onnx_model: keras.Model, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "images").mkdir()
    for i, image in enumerate(CALIBRATION[:4]):
        Image.fromarray(np.uint8(image)).save(tmp_path / "images" / f"{i}.png")
    report = export_onnx(onnx_model, tmp_path / "a.onnx", quantization="int8", calibration=tmp_path / "images")
    assert report.size < sum(4 * np.prod(weight.shape) for weight in onnx_model.weights) / 2
