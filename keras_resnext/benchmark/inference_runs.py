"""What exports give on the CPU beside torchvision's own export. Images are float32 on 0..255."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .torch_models import timm_model, torchvision_model
from .work import Work

VERSION = "1"


def images_of(work: Work) -> np.ndarray:
    shape = (work.batch, work.size, work.size, 3)
    return np.random.default_rng(0).uniform(0, 255, shape).astype("float32")


def _model(work: Work) -> Any:
    import keras

    import keras_resnext

    keras.utils.set_random_seed(0)
    return keras_resnext.create(work.architecture, input_shape=(work.size, work.size, 3))


def export_base(work: Work) -> None:
    """A SavedModel with model.tflite beside it."""
    from keras_resnext.export import export_saved_model

    export_saved_model(_model(work), work.folder / "base", version=int(VERSION), warmup=False, tflite=True)


def export_tflite_float(work: Work) -> None:
    from keras_resnext.export import export_tflite

    export_tflite(_model(work), work.folder / "float.tflite")


def export_tflite_int8(work: Work) -> None:
    from keras_resnext.export import export_tflite

    export_tflite(_model(work), work.folder / "int8.tflite", quantization="int8", calibration=_noise(work))


def export_our_onnx(work: Work) -> None:
    _export_onnx(work, "ours.onnx")


def export_our_openvino(work: Work) -> None:
    _export_onnx(work, "openvino.onnx", runtime="openvino")


def export_our_int8(work: Work) -> None:
    _export_onnx(work, "int8.onnx", quantization="int8", calibration=_noise(work))


def export_our_openvino_int8(work: Work) -> None:
    _export_onnx(work, "openvino_int8.onnx", runtime="openvino", quantization="int8", calibration=_noise(work))


def _export_onnx(work: Work, name: str, **options: Any) -> None:
    from keras_resnext.export import export_onnx

    export_onnx(_model(work), work.folder / name, target="cpu", **options)


def export_torchvision_onnx(work: Work) -> None:
    _export_torch(torchvision_model(work.architecture), work, work.folder / "torchvision.onnx")


def export_timm_onnx(work: Work) -> None:
    _export_torch(timm_model(work.architecture), work, work.folder / "timm.onnx")


def export_onnx_int8(work: Work) -> None:
    """Symmetric, with a scale for each channel, by ONNX Runtime's own tools."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    whole = work.folder / "calibrated.onnx"
    _export_torch(torchvision_model(work.architecture), work, whole)
    quant_pre_process(str(whole), str(whole))

    left = [{"x": image[None]} for image in _as_taken(_noise(work), work.size)]

    class Noise(CalibrationDataReader):
        def get_next(self) -> Any:
            return left.pop() if left else None

    quantize_static(
        str(whole), str(work.folder / "torchvision_int8.onnx"), Noise(), quant_format=QuantFormat.QDQ,
        per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip


def export_openvino_int8(work: Work) -> None:
    """By NNCF, as OpenVINO recommends it."""
    import nncf
    import openvino

    whole = work.folder / "floating.onnx"
    _export_torch(torchvision_model(work.architecture), work, whole)
    images = [image[None] for image in _as_taken(_noise(work), work.size)]
    quantized = nncf.quantize(openvino.Core().read_model(str(whole)), nncf.Dataset(images))
    openvino.save_model(quantized, str(work.folder / "torchvision_int8.xml"))


def _noise(work: Work) -> np.ndarray:
    """Eight images to calibrate with."""
    from dataclasses import replace

    return images_of(replace(work, batch=8))


def _export_torch(model: Any, work: Work, path: Path) -> None:
    import torch

    dynamic = {"x": {0: "n"}, "y": {0: "n"}}
    torch.onnx.export(
        model, (torch.zeros(1, 3, work.size, work.size),), str(path), dynamo=False,
        input_names=["x"], output_names=["y"], dynamic_axes=dynamic,
    )  # fmt: skip


def saved_model(work: Work) -> Callable[[], object]:
    """Through TensorFlow's C API with XLA switched off, as TF Serving runs it."""
    from ..export.serving_session import Session

    # First: NumPy imports Python's OpenSSL for it, which crashes once TensorFlow's symbols are there.
    images = images_of(work)
    session = Session(work.folder / "base" / VERSION)
    return lambda: session.run("serving_default", {"images": images})


def _interpreter(path: Path, work: Work) -> Callable[[], object]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter: Any = Interpreter(str(path), num_threads=work.threads)
    images = images_of(work)
    index, output = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    interpreter.resize_tensor_input(index, images.shape)
    interpreter.allocate_tensors()

    def run() -> object:
        interpreter.set_tensor(index, images)
        interpreter.invoke()
        return interpreter.get_tensor(output)

    return run


def tflite_beside(work: Work) -> Callable[[], object]:
    return _interpreter(work.folder / "base" / VERSION / "model.tflite", work)


def tflite_float(work: Work) -> Callable[[], object]:
    return _interpreter(work.folder / "float.tflite", work)


def tflite_int8(work: Work) -> Callable[[], object]:
    return _interpreter(work.folder / "int8.tflite", work)


def _onnx_runtime(path: Path, work: Work) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = work.threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    images = _as_taken(images_of(work), given.shape[-1])
    return lambda: session.run(None, {given.name: images})


def our_onnx(work: Work) -> Callable[[], object]:
    return _onnx_runtime(work.folder / "ours.onnx", work)


def torchvision_onnx(work: Work) -> Callable[[], object]:
    return _onnx_runtime(work.folder / "torchvision.onnx", work)


def timm_onnx(work: Work) -> Callable[[], object]:
    return _onnx_runtime(work.folder / "timm.onnx", work)


def _openvino(path: Path, work: Work) -> Callable[[], object]:
    import openvino

    options = {"INFERENCE_NUM_THREADS": work.threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(path), "CPU", options)
    images = _as_taken(images_of(work), compiled.input(0).partial_shape[3].get_length())
    request = compiled.create_infer_request()
    return lambda: request.infer([images])


def our_openvino(work: Work) -> Callable[[], object]:
    return _openvino(work.folder / "openvino.onnx", work)


def our_onnx_int8(work: Work) -> Callable[[], object]:
    return _onnx_runtime(work.folder / "int8.onnx", work)


def our_openvino_int8(work: Work) -> Callable[[], object]:
    return _openvino(work.folder / "openvino_int8.onnx", work)


def openvino_qdq(work: Work) -> Callable[[], object]:
    return _openvino(work.folder / "torchvision_int8.onnx", work)


def torchvision_openvino(work: Work) -> Callable[[], object]:
    return _openvino(work.folder / "torchvision.onnx", work)


def onnx_int8(work: Work) -> Callable[[], object]:
    return _onnx_runtime(work.folder / "torchvision_int8.onnx", work)


def openvino_int8(work: Work) -> Callable[[], object]:
    return _openvino(work.folder / "torchvision_int8.xml", work)


def _as_taken(images: np.ndarray, last: Any) -> np.ndarray:
    """Channels last where the model's last axis is theirs, else first."""
    return images if last == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
