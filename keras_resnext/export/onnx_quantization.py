"""An ONNX graph in int8: pairs of QuantizeLinear and DequantizeLinear (QDQ), which runtimes compute in integers.

All by ONNX Runtime's own tools. Weights have a scale for each filter, activations one for each tensor.
"""

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..runtimes.onnx_run import open_run
from .report import noisiest

# What is computed in integers. Not the normalisation of images, and neither softmax nor sigmoid: a step of 1/256 is
# more than most probabilities differ by.
OPERATIONS = ("Conv", "MatMul", "Gemm", "Add", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat")


def quantize(model: Any, images: np.ndarray) -> Any:
    """The same network in int8, but for its last layer, which decides and takes no time.

    Weights have 7 bits: processors without VNNI (AVX2, older AVX512) add two products in 16 bits, and those of 8-bit
    weights overflow, in ONNX Runtime and in OpenVINO.

    Args:
        model: ModelProto in float32 with one input, and BatchNorm folded.
        images: float32 (n, ...), batches of one of which it is fed with; they give activations their ranges.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    name = model.graph.input[0].name

    class Images(CalibrationDataReader):
        """What `quantize_static` asks for: a range of images at a time, since it keeps all activations of a range."""

        def __len__(self) -> int:
            return len(images)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.rest = iter(images[start_index:end_index])

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.rest, None)
            return None if image is None else {name: image[None]}

    products = [node.name for node in model.graph.node if node.op_type in ("Gemm", "MatMul")]
    own = onnx.ModelProto()
    own.CopyFrom(model)  # quantize_static moves the weights of what it is given into a file
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_static(
            own,
            path,
            Images(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(OPERATIONS),
            nodes_to_exclude=products[-1:],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"CalibStridedMinMax": 1},
        )
        return onnx.load(path)


def noisiest_layers(exact: Any, rounded: Any, images: np.ndarray) -> tuple[tuple[str, float], ...]:
    """The layers that integers disturb most, by `report.noisiest`, of two ModelProtos of the same network."""
    made = [{name for node in model.graph.node for name in node.output} for model in (exact, rounded)]
    layers = {
        node.output[0]: node.name.split("/")[-2].removesuffix("_1") if "/" in node.name else node.name
        for node in exact.graph.node
        if node.op_type in ("Conv", "Add", "MatMul", "Gemm") and node.output[0] in made[1]
    }
    before, after = (_run_with(model, list(layers), images) for model in (exact, rounded))
    return noisiest({layer: (before[name], after[name]) for name, layer in layers.items()})


def _run_with(model: Any, outputs: list[str], images: np.ndarray) -> dict[str, np.ndarray]:
    """Those tensors inside the network."""
    import onnx

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return open_run(shown.SerializeToString())({model.graph.input[0].name: images})


@contextmanager
def _quiet() -> Iterator[None]:
    """Without its advice to merge and to infer shapes first, which has been done."""
    logger = logging.getLogger()
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
