"""The comparisons, as a table."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        title: what is compared.
        ours, peers: of `work.CONTENDERS`; the fastest of each counts. No peers where the figure stands for itself.
        bar: what the figure should not exceed; None where nothing is promised.
        figure: "ratio" of our time to the fastest peer's, ratio of "memory" that each took beyond its libraries, or our
            own "seconds".
        work: fields of `Work` that this row fixes.
        passes: how often the multiply-accumulates of one inference are done, 3 for a training step; 0 where the share
            of the machine's limit means nothing.
        gpu: whether it is meant for GPUs.
        rounds: at most so many, where one takes long.
    """

    title: str
    ours: tuple[str, ...]
    peers: tuple[str, ...] = ()
    bar: float | None = None
    figure: str = "ratio"
    work: dict[str, Any] = field(default_factory=dict)
    passes: int = 0
    gpu: bool = False
    rounds: int | None = None


ONE, EIGHT = {"batch": 1}, {"batch": 8}
BEST = {"architecture": "seresnextaa101d_32x8d", "size": 288}  # of what is published the most accurate
LARGE = {"architecture": "resnext101_32x8d"}
_TRAINING = ("train_torch_compiled", "train_torch_channels_last", "train_torch")
_TORCHVISION = ("openvino_torch", "onnx_torch", "infer_torch_compiled")
_OURS_INT8 = ("tflite_int8", "our_onnx_int8", "our_openvino_int8")
_INT8 = ("openvino_int8", "onnx_int8", "openvino_qdq")
_IMAGES = ("images_simplejpeg", "images_torch")
ROWS: dict[str, Row] = {
    "training": Row("training step, batch 8", ("train",), _TRAINING, 1.0, work=EIGHT, passes=3),
    "training-memory": Row("memory of a training step, batch 8", ("train",), _TRAINING, 1.0, "memory", work=EIGHT),
    "training-stock": Row(
        "training step, batch 8", ("train",), ("train_stock",), 1 / 30, work=EIGHT, passes=3, rounds=2
    ),
    "saved-model-1": Row("SavedModel, batch 1", ("saved_model",), _TORCHVISION, 1.1, work=ONE, passes=1),
    "saved-model-8": Row("SavedModel, batch 8", ("saved_model",), _TORCHVISION, 1.0, work=EIGHT, passes=1),
    "serve": Row(
        "keras-resnext serve, 8 clients, beside the bare session", ("serve",), ("saved_model",), 1 / 0.95, work=EIGHT
    ),
    "best": Row(
        "seresnextaa101d_32x8d, 288x288, SavedModel, batch 1", ("saved_model",), ("onnx_timm",), 1.25,
        work=ONE | BEST, passes=1,
    ),
    "tflite-beside": Row(
        "model.tflite beside a SavedModel, batch 1", ("tflite_beside",), ("onnx_torch",), 1.0, work=ONE, passes=1
    ),
    "tflite": Row("TFLite, batch 1", ("tflite",), ("onnx_torch",), 1.0, work=ONE, passes=1),
    "tflite-int8": Row("TFLite full int8, batch 1", ("tflite_int8",), ("tflite",), 0.45, work=ONE),
    "int8": Row("int8, batch 1", _OURS_INT8, _INT8, 0.9, work=ONE),
    "int8-8": Row("int8, batch 8", _OURS_INT8, _INT8, 1.0, work=EIGHT),
    "onnx-1": Row("ONNX in ONNX Runtime, batch 1", ("onnx",), ("onnx_torch",), 0.92, work=ONE, passes=1),
    "onnx-8": Row("ONNX in ONNX Runtime, batch 8", ("onnx",), ("onnx_torch",), 0.92, work=EIGHT, passes=1),
    "openvino": Row("ONNX in OpenVINO, batch 1", ("openvino",), ("openvino_torch",), 0.92, work=ONE, passes=1),
    "input": Row("training images, antialiased, one core", ("images",), _IMAGES, 1 / 1.5),
    "input-plain": Row("training images, not antialiased, one core", ("images_plain",), _IMAGES, 1 / 2.2),
    "input-photos": Row(
        "training images of 12 megapixels, antialiased, one core", ("images_photos",), ("images_photos_simplejpeg",),
        1 / 4, rounds=3,
    ),
    "input-wait": Row("a training step's wait for its images, batch 8", ("waiting",), (), 0.01, "seconds", work=EIGHT),
    "build": Row("building resnext101_32x8d", ("build",), ("build_torch",), 1.5, work=LARGE),
    "build-keras": Row("building resnext101_32x8d", ("build",), ("build_keras",), 0.8, work=LARGE),
    "load": Row(
        "a checkpoint of resnext101_32x8d until its first prediction", ("load",), ("load_torch",), 1.3,
        work=LARGE | ONE,
    ),
    "import": Row("import keras_resnext, keras imported", ("import",), (), 0.05, "seconds"),
    "help": Row("keras-resnext --help", ("help",), (), 0.3, "seconds"),
    "gpu-training": Row(
        "training step, bfloat16, batch 256", ("train_jax",), ("train_torch_compiled",), 0.8,
        work={"batch": 256, "precision": "bfloat16"}, passes=3, gpu=True,
    ),
    "gpu-training-tf32": Row(
        "training step, tf32, batch 128", ("train_jax",), ("train_torch_compiled",),
        work={"batch": 128, "precision": "tf32"}, passes=3, gpu=True,
    ),
    "gpu-training-float32": Row(
        "training step, float32, batch 128", ("train_jax",), ("train_torch_compiled",),
        work={"batch": 128}, passes=3, gpu=True,
    ),
    "gpu-inference": Row(
        "inference, bfloat16, batch 256", ("infer_jax",), ("infer_torch_compiled",), 1 / 1.1,
        work={"batch": 256, "precision": "bfloat16"}, passes=1, gpu=True,
    ),
}  # fmt: skip

# Time by area and by batch of what is served; `tables.draw_growth` shows both.
GROWTH_SIZES, GROWTH_BATCHES = (128, 192, 256, 384, 512), (1, 2, 4, 8)
GROWTH: dict[str, Row] = {
    f"growth-{size}-{batch}": Row(
        f"inference, batch {batch}, {size}x{size}", ("saved_model",), work={"batch": batch, "size": size}, passes=1,
        figure="seconds",
    )
    for size, batch in [(size, 8) for size in GROWTH_SIZES] + [(224, batch) for batch in GROWTH_BATCHES]
}  # fmt: skip


def find_rows(names: Sequence[str]) -> dict[str, Row]:
    """The rows of these names; without names all but those of growth, "growth" for these.

    Raises:
        ValueError: an unknown name.
    """
    if not names:
        return dict(ROWS)
    known = ROWS | GROWTH
    wanted = [each for name in names for each in (GROWTH if name == "growth" else (name,))]
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"rows={', '.join(unknown)!r} must be among {', '.join(ROWS)}, growth")
    return {name: known[name] for name in wanted}
