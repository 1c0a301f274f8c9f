"""The options of exports, each declared once: functions take these fields, and the command line is made from them.

Importing this costs nothing: no framework, no array library. A field's metadata are its `help`, its `panel` in the
command's help, and where the command line differs from Python, `name`, its name there, and `type`, its type.
"""

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ..runtimes import KINDS, check_kind

Function = TypeVar("Function", bound=Callable[..., Any])

TARGETS = ("cpu", "gpu", "portable")
RUNTIMES = ("onnxruntime", "openvino")
MAX_VERSION = 2**63 - 1  # TF Serving reads versions as 64-bit integers
QUANTIZATIONS = (None, "float16", "dynamic", "int8", "int16x8")
IO_TYPES = {"int8": ("float32", "int8", "uint8"), "int16x8": ("float32", "int16")}
OPSETS = range(13, 19)  # tf2onnx 1.17 writes up to 18; below 13 lie other forms of the same operations

# Other commands have these options too.
PREPROCESSING = {
    "metavar": "imagenet|none|tf|caffe|FILE",
    "help": "How images are prepared, where the model does not say or says it wrong: torchvision's mean and deviation, "
    "0..255 as they are, -1..1, BGR less the mean, or a JSON file.",
}
KIND = {
    "metavar": "|".join(KINDS),
    "choices": KINDS,
    "help": "What the outputs are: probabilities of which one is right, probabilities of labels, or raw numbers; "
    "default as the last layer says.",
}


TARGET: dict[str, Any] = {
    "panel": "SavedModel and ONNX",
    "help": "What it will run on: cpu, gpu or portable; default cpu, of ONNX portable.",
    "name": "--hardware",
}


def _option(default: Any, panel: str, help: str, **command_line: Any) -> Any:
    return field(default=default, metadata={"help": help, "panel": panel, **command_line})


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What every format takes.

    Attributes:
        image_size: height and width, where the model leaves them free; default as its preprocessing has it.
        images: paths of images on which export and model are compared, beside random and handwritten ones.
        preprocessing: how images are prepared, as in `classifier.open_classifier`; needed where the model neither
            records it nor scales its images inside. It becomes part of the export.
        kind: "single": probabilities of classes of which one is right. "multi": each a probability of its own. "raw":
            numbers as they are. Default as the last layer says; linear ones get a softmax, and a single one stays raw.

    Raises:
        ValueError: an unknown kind.
    """

    image_size: int | tuple[int, int] | None = _option(
        None, "Images", "Height and width in pixels, where the model leaves it free.", type=int | None
    )
    images: Sequence[str | os.PathLike[str]] | None = _option(
        None,
        "Images",
        "An image on which model and export are compared; repeat for more.",
        type=list[Path] | None,
        metavar="PATH",
    )
    preprocessing: Any = field(default=None, metadata={**PREPROCESSING, "panel": "Images", "type": str | None})
    kind: str | None = field(default=None, metadata={**KIND, "panel": "Images"})

    def __post_init__(self) -> None:
        check_kind(self.kind)


@dataclass(frozen=True, kw_only=True)
class SavedModelOptions(ExportOptions):
    """A version for TF Serving.

    Attributes:
        version: positive number of a version that does not exist; default the highest plus one.
        labels: one name a class. Default: the ImageNet names for 1000 classes, else "0", "1", ….
        resize_size: shorter side before the centre crop; default as the model's own preprocessing has it.
        target: "cpu" or "gpu", where the export will run; "portable" for both.
        warmup: whether to write requests with which a server warms up.
        tflite: whether to write `model.tflite` beside it, for servers with --prefer_tflite_model.
        keras_file: whether to write `assets.extra/model.keras`, of which `keras-resnext serve` makes Grad-CAM.

    Raises:
        ValueError: a version or target out of range.
    """

    version: int | None = _option(None, "SavedModel", "Version number; default the highest plus one.")
    labels: Sequence[str] | None = _option(
        None, "SavedModel", "Text file with one class name a line.", type=Path | None
    )
    resize_size: int | None = _option(
        None, "SavedModel", "Shorter side in pixels before the centre crop; default as the model has it."
    )
    target: str = _option("cpu", **TARGET)
    warmup: bool = _option(True, "SavedModel", "Write requests that warm a server up.")
    tflite: bool = _option(False, "SavedModel", "Write model.tflite beside it.")
    keras_file: bool = _option(
        False, "SavedModel", "Keep the Keras model beside it, for Grad-CAM in `serve`.", name="--keras"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.version is not None and (not is_positive(self.version) or self.version >= MAX_VERSION):
            raise ValueError(f"version={self.version!r} must be a positive integer below 2**63")
        check_target(self.target)


@dataclass(frozen=True, kw_only=True)
class QuantizedOptions(ExportOptions):
    """What a format takes that can hold other numbers than float32.

    Attributes:
        quantization: None: float32. Else as the format says.
        calibration: for "int8" and "int16x8", images like those to classify: a folder (files that are not readable
            images are skipped with a warning), paths, or an array (n, height, width, 3) on 0..255. At most 300 are
            used, evenly chosen.
        tolerance: of the largest difference relative to the largest expected output; default by `quantization`.

    Raises:
        ValueError: options out of range, or that do not fit together.
    """

    quantizations: ClassVar[tuple[str | None, ...]] = (None,)
    quantization: str | None = _option(
        None, "TFLite and ONNX", "TFLite: float16, dynamic, int8 or int16x8; ONNX: int8; default float32."
    )
    calibration: Any = _option(None, "TFLite and ONNX", "Folder of images, for int8 and int16x8.", type=Path | None)  # noqa: RUF009
    tolerance: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quantization not in self.quantizations:
            choices = ", ".join(repr(choice) for choice in self.quantizations)
            raise ValueError(f"quantization={self.quantization!r} must be one of {choices}")
        if self.quantization in IO_TYPES and self.calibration is None:
            raise ValueError(
                f"quantization={self.quantization!r} needs calibration: a folder of images, paths or an array"
            )
        if self.quantization not in IO_TYPES and self.calibration is not None:
            able = " and ".join(str(choice) for choice in self.quantizations if choice in IO_TYPES)
            raise ValueError(f"calibration is for {able}, not for quantization={self.quantization!r}")
        tolerance = self.tolerance
        if tolerance is not None and (
            isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not tolerance > 0
        ):
            raise ValueError(f"tolerance={tolerance!r} must be a number above 0")


@dataclass(frozen=True, kw_only=True)
class LiteRTOptions(QuantizedOptions):
    """A .tflite file.

    Attributes:
        quantization: None: float32. "float16": weights in half the size. "dynamic": weights in int8, computed in
            integers where the runtime can. "int8": weights, per channel, and activations in int8. "int16x8": weights
            in int8 and activations in int16, slower, more exact.
        io_type: of input and output: "float32"; for "int8" also "int8" or "uint8", with uint8 the bytes of an image
            as they are; for "int16x8" also "int16".
        batch_size: fixed number of images; default free: 1 unless the input is resized.

    Raises:
        ValueError: options out of range, or that do not fit together.
    """

    quantizations: ClassVar[tuple[str | None, ...]] = QUANTIZATIONS
    io_type: str = _option("float32", "TFLite", "float32, or for int8 also int8 or uint8, for int16x8 int16.")
    batch_size: int | None = _option(None, "TFLite", "Fixed number of images in a batch; default free.")

    def __post_init__(self) -> None:
        types = IO_TYPES.get(self.quantization or "", ("float32",))
        if self.io_type not in types:
            raise ValueError(
                f"io_type={self.io_type!r} must be one of {', '.join(types)} for quantization={self.quantization!r}"
            )
        super().__post_init__()
        if self.batch_size is not None and not is_positive(self.batch_size):
            raise ValueError(f"batch_size={self.batch_size!r} must be a positive integer, or None for a free one")


@dataclass(frozen=True, kw_only=True)
class ONNXOptions(QuantizedOptions):
    """An .onnx file.

    Attributes:
        opset: version of ONNX's operations, 13 to 18.
        target: "portable": a grouped convolution has the groups that the model has, as other tools expect. "cpu": each
            kind of them is measured on this machine, also with groups joined to 16 and 32 channels, and the fastest
            form is written; the file grows by the zeros. "gpu": as portable.
        runtime: what target="cpu" measures in, "onnxruntime" or "openvino"; the file runs in both.
        quantization: None: float32. "int8": weights, per filter, and activations in int8, but for the last layer, as
            pairs of QuantizeLinear and DequantizeLinear.

    Raises:
        ValueError: options out of range, or that do not fit together.
    """

    quantizations: ClassVar[tuple[str | None, ...]] = (None, "int8")
    opset: int = _option(17, "ONNX", f"Version of the operator set, {OPSETS[0]} to {OPSETS[-1]}.")
    target: str = _option("portable", **TARGET)
    runtime: str = _option(
        "onnxruntime", "ONNX", "What --hardware cpu measures in, onnxruntime or openvino.", choices=RUNTIMES
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_target(self.target)
        if self.runtime not in RUNTIMES:
            raise ValueError(f"runtime={self.runtime!r} must be one of {', '.join(RUNTIMES)}")
        if self.runtime != RUNTIMES[0] and self.target != "cpu":
            raise ValueError(f"runtime={self.runtime!r} is measured for target='cpu', not for target={self.target!r}")
        if not isinstance(self.opset, int) or self.opset not in OPSETS:
            raise ValueError(f"opset={self.opset!r} must be one of {OPSETS[0]} to {OPSETS[-1]}")


def check_target(target: str) -> None:
    if target not in TARGETS:
        raise ValueError(f"target={target!r} must be one of {', '.join(TARGETS)}")


def is_positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def takes(options: type[ExportOptions]) -> Callable[[Function], Function]:
    """Shows the fields of `options` as the keyword arguments of a function that takes them as `**options`."""

    def show(function: Function) -> Function:
        signature = inspect.signature(function)
        given = [row for row in signature.parameters.values() if row.kind is not row.VAR_KEYWORD]
        shown = [
            inspect.Parameter(row.name, inspect.Parameter.KEYWORD_ONLY, default=row.default, annotation=row.type)
            for row in fields(options)
        ]
        function.__signature__ = signature.replace(parameters=[*given, *shown])  # type: ignore[attr-defined]
        return function

    return show
