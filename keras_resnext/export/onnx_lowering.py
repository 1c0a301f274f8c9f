"""Grouped convolutions of an ONNX graph for CPUs: single, or over groups joined 16 or 32 channels wide, by measurement.

ONNX Runtime and OpenVINO compute in blocks of channels (8 with AVX2, 16 with AVX512). A group of 4 or 8 channels fills
none, so that whole maps are brought into another order before and after each grouped convolution. Groups joined to the
width of a block multiply zeros, and need no other order.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..runtimes.onnx_run import open_run

WIDTHS = (16, 32)
SECONDS = 0.15  # of measuring each form of each kind of convolution


class GroupedConv(NamedTuple):
    """What two grouped convolutions that take as long have in common."""

    channels: int
    groups: int
    filters: int
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    size: tuple[int, ...]


def join_groups(
    model: Any,
    shapes: dict[str, list[int]],
    runtime: str = "onnxruntime",
    convert: Callable[[Any, np.ndarray], Any] | None = None,
) -> dict[GroupedConv, int]:
    """Rewrites each grouped convolution of a ModelProto in place, to the form that runs the fastest here.

    Args:
        model: with weights as initializers, images in planes.
        shapes: of every tensor, as `onnx_graph.find_shapes` gives them.
        runtime: of `runtimes.onnx_run.RUNTIMES`.
        convert: what will be made of the model afterwards, such as `onnx_quantization.quantize`.

    Returns:
        What was measured: the channels a group has now, of each kind.
    """
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    found: dict[GroupedConv, int] = {}
    joined: set[str] = set()
    for node in model.graph.node:
        kind = _describe(node, weights, shapes)
        if kind is None or node.input[1] in joined:
            continue
        if kind not in found:
            found[kind] = fastest_width(kind, runtime, convert)
        width, depth = found[kind], kind.channels // kind.groups
        if width == depth:
            continue
        name = node.input[1]
        joined.add(name)
        weights[name].CopyFrom(numpy_helper.from_array(_widen(numpy_helper.to_array(weights[name]), kind, width), name))
        _attribute(node, "group").i = kind.channels // width
    return found


def _describe(node: Any, weights: dict[str, Any], shapes: dict[str, list[int]]) -> GroupedConv | None:
    """None for what is no grouped convolution with weights of its own, or for a depthwise one, which runtimes know."""
    group = _attribute(node, "group")
    if node.op_type != "Conv" or group is None or group.i == 1 or node.input[1] not in weights:
        return None
    filters, depth, *kernel = weights[node.input[1]].dims
    size = shapes.get(node.input[0], [])[2:]
    if depth == 1 or len(size) != 2 or not all(size):
        return None
    strides, dilations, pads = (
        tuple(attribute.ints) if (attribute := _attribute(node, name)) else usual
        for name, usual in (("strides", (1, 1)), ("dilations", (1, 1)), ("pads", (0, 0, 0, 0)))
    )
    return GroupedConv(depth * group.i, group.i, filters, tuple(kernel), strides, dilations, pads, tuple(size))


def _attribute(node: Any, name: str) -> Any:
    return next((attribute for attribute in node.attribute if attribute.name == name), None)


def _widen(kernel: np.ndarray, kind: GroupedConv, width: int) -> np.ndarray:
    """The same convolution over groups of `width` channels: zeros where a filter has no input of its own."""
    depth, each = kernel.shape[1], kind.filters // kind.groups
    wide = np.zeros((kind.filters, width, *kind.kernel), kernel.dtype)
    for group in range(kind.groups):
        filters, at = slice(group * each, (group + 1) * each), group * depth % width
        wide[filters, at : at + depth] = kernel[filters]
    return wide


def fastest_width(
    kind: GroupedConv, runtime: str = "onnxruntime", convert: Callable[[Any, np.ndarray], Any] | None = None
) -> int:
    """Of the group's own channels and of `WIDTHS`, what one image takes the least time with."""
    depth = kind.channels // kind.groups
    widths = [depth, *(width for width in WIDTHS if width > depth and not width % depth and not kind.channels % width)]
    if len(widths) == 1:
        return depth
    rng = np.random.default_rng(0)
    images = rng.standard_normal((1, kind.channels, *kind.size), dtype=np.float32)
    runs = {}
    for width in widths:
        model = _between_others(kind, width)
        run = open_run((convert(model, images) if convert else model).SerializeToString(), runtime)
        runs[width] = lambda run=run: run({"images": images})
    times = dict.fromkeys(widths, float("inf"))
    begun = time.perf_counter()
    while time.perf_counter() - begun < SECONDS * len(widths):
        for width, run in runs.items():
            start = time.perf_counter()
            run()
            times[width] = min(times[width], time.perf_counter() - start)
    return min(widths, key=times.__getitem__)


def _between_others(kind: GroupedConv, width: int) -> Any:
    """Such a convolution between two 1x1 ones, whose order of channels it meets in a network, as a ModelProto."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    own = rng.standard_normal((kind.filters, kind.channels // kind.groups, *kind.kernel), dtype=np.float32)
    kernels = {
        "before": rng.standard_normal((kind.channels, kind.channels, 1, 1), dtype=np.float32) / kind.channels,
        "grouped": _widen(own, kind, width) if width > own.shape[1] else own,
        "after": rng.standard_normal((kind.filters, kind.filters, 1, 1), dtype=np.float32) / kind.filters,
    }
    options = {"strides": kind.strides, "dilations": kind.dilations, "pads": kind.pads, "group": kind.channels // width}
    nodes, name = [], "images"
    for step in kernels:
        attributes: dict[str, Any] = options if step == "grouped" else {}
        nodes.append(helper.make_node("Conv", [name, f"{step}_kernel"], [step], **attributes))
        nodes.append(helper.make_node("Relu", [step], [name := f"{step}_relu"]))
    graph = helper.make_graph(
        nodes,
        "grouped",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, (1, kind.channels, *kind.size))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(kernel, f"{step}_kernel") for step, kernel in kernels.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
