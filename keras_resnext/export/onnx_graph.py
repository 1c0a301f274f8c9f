"""What tf2onnx leaves behind in the graph of a convolutional network, removed without changing what it computes.

Each pass removes one thing of one kind in place and says whether there was one; none renames inputs or outputs.
"""

from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np

Node = Any  # onnx.NodeProto

TO_NCHW, TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]
ARITHMETIC = ("Add", "Sub", "Mul", "Div")
NOT_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp")


class _Graph:
    """A GraphProto and who makes and takes each of its tensors; to be made anew after a change."""

    def __init__(self, proto: Any) -> None:
        self.proto = proto
        self.constants = {tensor.name: tensor for tensor in proto.initializer}
        self.makers: dict[str, Node] = {name: node for node in proto.node for name in node.output}
        self.takers: dict[str, list[Node | None]] = defaultdict(list)  # None: whoever runs the network
        for node in proto.node:
            for name in node.input:
                self.takers[name].append(node)
        for output in proto.output:
            self.takers[output.name].append(None)

    def constant(self, name: str) -> np.ndarray | None:
        import onnx

        return onnx.numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def add_constant(self, name: str, value: np.ndarray) -> str:
        import onnx

        self.proto.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name


class _Pooling(NamedTuple):
    source: str
    keepdims: bool


def simplify(model: Any) -> Any:
    """A copy of the ModelProto that computes the same: pads inside convolutions, one transpose, global pooling as such.

    The batch dimension of inputs and outputs is called "batch".
    """
    import onnx

    shapes = find_shapes(model)
    simple = onnx.ModelProto()
    simple.CopyFrom(model)
    graph = simple.graph
    for change in (_pool_globally, _drop_reshapes, _transpose_first, _fold_pads):
        while change(_Graph(graph), shapes):
            pass
    _drop_unused(graph)
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del graph.value_info[:]
    used = {node.domain for node in graph.node} | {""}
    versions = [(o.domain, o.version) for o in simple.opset_import if o.domain in used]
    del simple.opset_import[:]
    simple.opset_import.extend(onnx.helper.make_opsetid(*version) for version in versions)
    return simple


def find_shapes(model: Any) -> dict[str, list[int]]:
    """Dimensions of every tensor of known rank in a ModelProto; 0 for one that is free."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    known = [value for value in values if value.type.tensor_type.HasField("shape")]
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in known}
    return shapes | {tensor.name: list(tensor.dims) for tensor in graph.initializer}


def _attribute(node: Node, name: str, default: Any = None) -> Any:
    import onnx

    found = [onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name]
    return found[0] if found else default


def _set_attribute(node: Node, name: str, value: Any) -> None:
    import onnx

    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])


def _pool_globally(graph: _Graph, shapes: dict[str, list[int]]) -> bool:
    """A mean over height and width, on whichever side of a transpose, is GlobalAveragePool, which runtimes know."""
    import onnx

    for i, node in enumerate(graph.proto.node):
        pooling = _find_pooling(graph, shapes, node)
        if pooling is None:
            continue
        pooled = node.output[0] if pooling.keepdims else f"{node.output[0]}_pooled"
        nodes = [onnx.helper.make_node("GlobalAveragePool", [pooling.source], [pooled], name=f"{node.name}_pool")]
        if not pooling.keepdims:
            nodes.append(onnx.helper.make_node("Flatten", [pooled], list(node.output), name=node.name, axis=1))
            shapes[pooled] = [*shapes[pooling.source][:2], 1, 1]
        del graph.proto.node[i]
        for offset, new in enumerate(nodes):
            graph.proto.node.insert(i + offset, new)
        return True
    return False


def _find_pooling(graph: _Graph, shapes: dict[str, list[int]], node: Node) -> _Pooling | None:
    if node.op_type != "ReduceMean" or len(shapes.get(node.input[0], ())) != 4:
        return None
    axes = graph.constant(node.input[1]) if len(node.input) > 1 else _attribute(node, "axes")
    axes, keepdims = sorted(int(a) % 4 for a in (axes if axes is not None else ())), _attribute(node, "keepdims", 1)
    if axes == [2, 3]:
        return _Pooling(node.input[0], bool(keepdims))
    maker = graph.makers.get(node.input[0])
    if axes == [1, 2] and not keepdims and maker is not None and _transposes(maker, TO_NHWC):
        return _Pooling(maker.input[0], False)
    return None


def _transposes(node: Node, order: list[int]) -> bool:
    return node.op_type == "Transpose" and list(_attribute(node, "perm", ())) == order


def _drop_reshapes(graph: _Graph, shapes: dict[str, list[int]]) -> bool:
    """Reshapes that together give the shape that there was, such as around the gates of squeeze-and-excitation."""
    for node in graph.proto.node:
        if not _only_reshapes(graph, node, shapes) or None in graph.takers[node.output[0]]:
            continue
        shape, source, maker = shapes.get(node.output[0], []), node.input[0], graph.makers.get(node.input[0])
        while shapes.get(source, [])[1:] != shape[1:] and maker is not None and _only_reshapes(graph, maker, shapes):
            source, maker = maker.input[0], graph.makers.get(maker.input[0])
        # As many numbers in all, and all dimensions but one fixed: that one is equal too.
        same = len(shape) > 1 and all(shape[1:]) and shapes.get(source, [])[1:] == shape[1:]
        if same and graph.takers[node.output[0]]:
            for taker in graph.takers[node.output[0]]:
                for k, name in enumerate(taker.input):  # type: ignore[union-attr]
                    if name == node.output[0]:
                        taker.input[k] = source  # type: ignore[union-attr]
            return True
    return False


def _only_reshapes(graph: _Graph, node: Node, shapes: dict[str, list[int]]) -> bool:
    """Whether the node leaves the order of all numbers as it is."""
    if node.op_type == "Transpose":
        shape, order = shapes.get(node.input[0], []), list(_attribute(node, "perm", ()))
        moved = [axis for axis in order if shape and shape[axis] != 1]
        return bool(shape) and moved == sorted(moved)
    return node.op_type in ("Reshape", "Squeeze", "Unsqueeze", "Flatten")


def _transpose_first(graph: _Graph, shapes: dict[str, list[int]]) -> bool:
    """Arithmetic with constants, such as the normalisation of images, is faster on planes than between channels."""
    for node in graph.proto.node:
        maker = graph.makers.get(node.input[0]) if _transposes(node, TO_NCHW) else None
        if maker is None or maker.op_type not in ARITHMETIC or graph.takers[node.input[0]] != [node]:
            continue
        constants = [graph.constant(name) for name in maker.input]
        which = next((k for k, value in enumerate(constants) if value is not None), None)
        if which is None or constants[1 - which] is not None or len(shapes.get(maker.input[1 - which], ())) != 4:
            continue
        value, moved = constants[which], f"{node.output[0]}_moved"
        assert value is not None
        shapes[moved] = [shapes[maker.input[1 - which]][axis] for axis in TO_NCHW]
        planes = value.reshape((1,) * (4 - value.ndim) + value.shape).transpose(TO_NCHW)
        constant = graph.add_constant(f"{node.output[0]}_constant", planes)
        # They change places, so that the nodes stay in the order in which they can run.
        arithmetic = type(node)()
        arithmetic.CopyFrom(maker)
        arithmetic.input[which], arithmetic.input[1 - which] = constant, moved
        arithmetic.output[0] = node.output[0]
        source = maker.input[1 - which]
        maker.CopyFrom(node)
        maker.input[0], maker.output[0] = source, moved
        node.CopyFrom(arithmetic)
        return True
    return False


def _fold_pads(graph: _Graph, shapes: dict[str, list[int]]) -> bool:
    """Zeros around a map become padding of the convolutions, or of the max-pool behind a ReLU, that take it."""
    for node in graph.proto.node:
        pads = _zeros_around(graph, node)
        takers = graph.takers[node.output[0]] if pads else []
        if pads and takers and all(taker is not None and _can_pad(graph, node, taker, pads) for taker in takers):
            for taker in takers:
                own = _attribute(taker, "pads", [0, 0, 0, 0])
                _set_attribute(taker, "pads", [a + b for a, b in zip(own, pads, strict=True)])
                _set_attribute(taker, "auto_pad", "NOTSET")
                taker.input[0] = node.input[0]  # type: ignore[union-attr]
            return True
    return False


def _zeros_around(graph: _Graph, node: Node) -> list[int] | None:
    """Top, left, bottom and right zeros that a Pad node adds to (batch, channels, height, width), and nothing else."""
    if node.op_type != "Pad" or _attribute(node, "mode", b"constant") != b"constant" or "".join(node.input[3:]):
        return None
    value = graph.constant(node.input[2]) if "".join(node.input[2:]) else np.zeros(())
    pads = graph.constant(node.input[1])
    if value is None or value.any() or pads is None or pads.shape != (8,):
        return None
    return pads[[2, 3, 6, 7]].tolist() if not pads[[0, 1, 4, 5]].any() and (pads >= 0).all() else None


def _can_pad(graph: _Graph, pad: Node, taker: Node, pads: list[int]) -> bool:
    if list(taker.input).index(pad.output[0]) != 0 or _attribute(taker, "auto_pad", b"NOTSET") not in (
        b"NOTSET",
        b"VALID",
    ):
        return False
    if taker.op_type == "MaxPool":
        # ONNX pads with the lowest number: equal to 0 where nothing is below 0 and each window holds something.
        kernel = _attribute(taker, "kernel_shape")
        own = _attribute(taker, "pads", [0, 0, 0, 0])
        inside = all(a + b < size for a, b, size in zip(own, pads, [*kernel, *kernel], strict=True))
        plain = set(_attribute(taker, "dilations", [1, 1])) == {1} and not _attribute(taker, "ceil_mode", 0)
        return inside and plain and _not_negative(graph, pad.input[0])
    return taker.op_type == "Conv" and pad.output[0] not in taker.input[1:]


def _not_negative(graph: _Graph, name: str) -> bool:
    maker = graph.makers.get(name)
    if maker is None:
        return False
    if maker.op_type == "Clip":
        low = graph.constant(maker.input[1]) if len(maker.input) > 1 else None
        return low is not None and bool((low >= 0).all())
    passed_on = maker.op_type in ("MaxPool", "AveragePool", "Identity") and _not_negative(graph, maker.input[0])
    return maker.op_type in NOT_NEGATIVE or passed_on


def _drop_unused(graph: Any) -> None:
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    nodes, constants = kept[::-1], [tensor for tensor in graph.initializer if tensor.name in needed]
    for field, values in ((graph.node, nodes), (graph.initializer, constants)):
        copies = [type(value)() for value in values]
        for copy, value in zip(copies, values, strict=True):
            copy.CopyFrom(value)
        del field[:]
        field.extend(copies)
