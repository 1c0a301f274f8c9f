"""What a contender is asked to do, and who the contenders are. Imports nothing heavy: children start from here."""

from dataclasses import dataclass, field
from pathlib import Path

PRECISIONS = ("float32", "tf32", "bfloat16")
LOWERINGS = ("auto", "grouped", "merged")


class Seconds(float):
    """What a contender returns that measures itself. A type of its own: a loss is a float too."""


@dataclass(frozen=True)
class Work:
    """One task, the same for all that are compared.

    Attributes:
        architecture: a name of `list_architectures()`, which torchvision must know for its contenders.
        batch: images at once.
        size: their height and width in pixels.
        precision: "float32", "tf32" (products of tensor cores rounded to 10 bits) or "bfloat16"; on GPUs alone others
            than the first.
        lowering, width: of the grouped convolutions of training, and the channels that merged ones get; "auto" and 0
            for what the package chooses.
        threads: of each contender on a CPU.
        folder: where prepared files lie.
    """

    architecture: str = field(
        default="resnext50_32x4d", metadata={"help": "Such as resnext101_64x4d; the peers know only torchvision's."}
    )
    batch: int = field(default=8, metadata={"name": "--batch-size", "min": 1, "help": "Images at once."})
    size: int = field(
        default=224, metadata={"name": "--image-size", "min": 32, "help": "Side of the images in pixels."}
    )
    precision: str = field(
        default="float32",
        metadata={"choices": PRECISIONS, "help": f"{', '.join(PRECISIONS)}, of rows that are compiled as a whole."},
    )
    lowering: str = field(
        default="auto", metadata={"choices": LOWERINGS, "help": "Lowering in training: auto, grouped or merged."}
    )
    width: int = field(default=0, metadata={"min": 1, "help": "Channels of merged convolutions in training."})
    threads: int = field(default=2, metadata={"min": 1, "help": "Threads of each contender; default all processors."})
    folder: Path = Path()


@dataclass(frozen=True)
class Contender:
    """Something that can be timed.

    Attributes:
        label: what tables call it.
        run: "module:function" in this package: a `Work` to a function that does it once; if that gives `Seconds`, they
            count, else they are measured around it.
        needs: packages; without them, or those of its file, a row says what is missing.
        file: of `FILES`, that it reads.
        backend: what Keras must run on, None where it does not matter.
        one_core: whether it is bound to one core.
        loads: libraries that are imported before anything else; memory counts from there.
    """

    label: str
    run: str
    needs: tuple[str, ...] = ()
    file: str = ""
    backend: str | None = None
    one_core: bool = False
    loads: tuple[str, ...] = ()


_TENSORFLOW, _TORCH = ("tensorflow",), ("torch", "torchvision")

# File or folder -> what writes it before any timing, in a process of its own, and the packages that takes.
FILES: dict[str, tuple[str, tuple[str, ...]]] = {
    "base": ("inference_runs:export_base", _TENSORFLOW),
    "float.tflite": ("inference_runs:export_tflite_float", _TENSORFLOW),
    "int8.tflite": ("inference_runs:export_tflite_int8", _TENSORFLOW),
    "int8.onnx": ("inference_runs:export_our_int8", (*_TENSORFLOW, "tf2onnx", "onnx", "onnxruntime")),
    "openvino_int8.onnx": (
        "inference_runs:export_our_openvino_int8",
        (*_TENSORFLOW, "tf2onnx", "onnx", "onnxruntime", "openvino"),
    ),
    "openvino.onnx": (
        "inference_runs:export_our_openvino",
        (*_TENSORFLOW, "tf2onnx", "onnx", "onnxruntime", "openvino"),
    ),
    "ours.onnx": ("inference_runs:export_our_onnx", (*_TENSORFLOW, "tf2onnx", "onnx", "onnxruntime")),
    "torchvision.onnx": ("inference_runs:export_torchvision_onnx", (*_TORCH, "onnx")),
    "timm.onnx": ("inference_runs:export_timm_onnx", (*_TORCH, "timm", "onnx")),
    "torchvision_int8.onnx": ("inference_runs:export_onnx_int8", (*_TORCH, "onnx", "onnxruntime")),
    "torchvision_int8.xml": ("inference_runs:export_openvino_int8", (*_TORCH, "onnx", "openvino", "nncf")),
    "weights.pth": ("starting:write_checkpoint", _TORCH),
    "jpeg": ("image_pipelines:write", ()),
    "photos": ("image_pipelines:write_photos", ()),
}

CONTENDERS: dict[str, Contender] = {
    "train": Contender(
        "keras_resnext on TensorFlow", "training_steps:ours", _TENSORFLOW, backend="tensorflow", loads=("keras",)
    ),
    "train_stock": Contender("Keras's own Conv2D", "training_steps:stock_keras", _TENSORFLOW, backend="tensorflow"),
    "train_torch": Contender("PyTorch eager", "training_steps:pytorch", _TORCH, loads=("torch",)),
    "train_torch_channels_last": Contender(
        "PyTorch eager, channels last", "training_steps:channels_last", _TORCH, loads=("torch",)
    ),
    "train_jax": Contender("keras_resnext on JAX", "accelerated:train_jax", ("jax",), backend="jax"),
    "train_torch_compiled": Contender(
        "torch.compile, channels last", "accelerated:train_torch", _TORCH, loads=("torch",)
    ),
    "infer_jax": Contender("keras_resnext on JAX", "accelerated:infer_jax", ("jax",), backend="jax"),
    "infer_torch_compiled": Contender("torch.compile, channels last", "accelerated:infer_torch", _TORCH),
    "saved_model": Contender("SavedModel, C API", "inference_runs:saved_model", _TENSORFLOW, "base"),
    "tflite_beside": Contender("its model.tflite", "inference_runs:tflite_beside", ("ai_edge_litert",), "base"),
    "tflite": Contender("TFLite", "inference_runs:tflite_float", ("ai_edge_litert",), "float.tflite"),
    "tflite_int8": Contender("TFLite int8", "inference_runs:tflite_int8", ("ai_edge_litert",), "int8.tflite"),
    "onnx": Contender("our ONNX, ONNX Runtime", "inference_runs:our_onnx", ("onnxruntime",), "ours.onnx"),
    "onnx_torch": Contender(
        "torchvision's ONNX, ONNX Runtime", "inference_runs:torchvision_onnx", ("onnxruntime",), "torchvision.onnx"
    ),
    "onnx_timm": Contender("timm's ONNX, ONNX Runtime", "inference_runs:timm_onnx", ("onnxruntime",), "timm.onnx"),
    "openvino": Contender("our ONNX, OpenVINO", "inference_runs:our_openvino", ("openvino",), "openvino.onnx"),
    "our_onnx_int8": Contender(
        "our ONNX, QDQ int8, ONNX Runtime", "inference_runs:our_onnx_int8", ("onnxruntime",), "int8.onnx"
    ),
    "our_openvino_int8": Contender(
        "our ONNX, QDQ int8, OpenVINO", "inference_runs:our_openvino_int8", ("openvino",), "openvino_int8.onnx"
    ),
    "openvino_qdq": Contender(
        "torchvision's ONNX, QDQ int8, OpenVINO", "inference_runs:openvino_qdq", ("openvino",), "torchvision_int8.onnx"
    ),
    "serve": Contender(
        "keras-resnext serve", "serving_load:serve", (*_TENSORFLOW, "starlette", "uvicorn", "orjson"), "base"
    ),
    "openvino_torch": Contender(
        "torchvision's ONNX, OpenVINO", "inference_runs:torchvision_openvino", ("openvino",), "torchvision.onnx"
    ),
    "onnx_int8": Contender(
        "torchvision's ONNX, QDQ int8, ONNX Runtime",
        "inference_runs:onnx_int8",
        ("onnxruntime",),
        "torchvision_int8.onnx",
    ),
    "openvino_int8": Contender(
        "torchvision's, NNCF int8, OpenVINO", "inference_runs:openvino_int8", ("openvino",), "torchvision_int8.xml"
    ),
    "images": Contender("tf.data", "image_pipelines:antialiased", _TENSORFLOW, "jpeg", one_core=True),
    "images_plain": Contender("tf.data", "image_pipelines:plain", _TENSORFLOW, "jpeg", one_core=True),
    "waiting": Contender("fit on tf.data", "image_pipelines:waiting", _TENSORFLOW, "jpeg", "tensorflow"),
    "images_torch": Contender("torchvision, Pillow", "image_pipelines:torchvisions", _TORCH, "jpeg", one_core=True),
    "images_simplejpeg": Contender(
        "simplejpeg, torchvision v2", "image_pipelines:simplejpegs", (*_TORCH, "simplejpeg"), "jpeg", one_core=True
    ),
    "images_photos": Contender("tf.data", "image_pipelines:photos", _TENSORFLOW, "photos", one_core=True),
    "images_photos_simplejpeg": Contender(
        "simplejpeg, torchvision v2",
        "image_pipelines:simplejpeg_photos",
        (*_TORCH, "simplejpeg"),
        "photos",
        one_core=True,
    ),
    "load": Contender("keras_resnext.from_pytorch", "starting:load", (), "weights.pth"),
    "load_torch": Contender("torchvision", "starting:load_torchvision_model", _TORCH, "weights.pth"),
    "build": Contender("keras_resnext", "starting:build"),
    "build_keras": Contender("keras.applications", "starting:build_keras"),
    "build_torch": Contender("torchvision", "starting:build_torchvision", _TORCH),
    "import": Contender("import keras_resnext", "starting:import_package"),
    "help": Contender("keras-resnext --help", "starting:command_line"),
    "matmul": Contender("matrix product 2048x2048x2048", "hardware_limits:matmul"),
    "copy": Contender("copy of 256 MB", "hardware_limits:copy"),
}


def needs(name: str) -> tuple[str, ...]:
    """The packages that a contender takes, those of its file included."""
    contender = CONTENDERS[name]
    return tuple(dict.fromkeys((*contender.needs, *(FILES[contender.file][1] if contender.file else ()))))
