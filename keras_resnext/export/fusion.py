"""An inference copy of a Keras model: BatchNorm folded into convolutions, grouped ones in the form a target wants.

Works on any functional or Sequential model. TensorFlow only: what leaves here is a graph for TensorFlow's runtimes.
"""

from collections import Counter, defaultdict
from typing import Any, NamedTuple

import keras
import numpy as np

from ..network.input_preprocessing import InputPreprocessing
from ..network.layers import GroupedConv2D, StochasticDepth, WSConv2D
from ..network.normalization import BatchNorm
from .float32_copy import copy_weights, in_float32
from .inference_convolution import InferenceConv2D, fastest_lowering, split_kernel

Tensor = Any

# A grouped convolution as one operation, or as dense ones over joined groups; on CPUs, what this machine measures.
LOWERINGS = {"cpu": "measured", "gpu": "grouped", "portable": "grouped"}
INERT = (InputPreprocessing, StochasticDepth, keras.layers.Dropout, keras.layers.SpatialDropout2D)
NORMS = (keras.layers.BatchNormalization, BatchNorm)  # a subclass may compute anything
# In place of a bias of zeros, which TensorFlow drops, and then joins no activation with the convolution either: less
# than a rounding error of any value that matters, and so large that its products with weights are not denormal.
NO_BIAS = {"cpu": 1e-20, "gpu": 0.0, "portable": 0.0}
CONVOLUTIONS = (keras.layers.Conv2D, GroupedConv2D, WSConv2D)


class _Fusion(NamedTuple):
    """A convolution and what directly follows it."""

    norm: keras.layers.BatchNormalization | None
    activation: keras.layers.Layer | None


def fuse(model: keras.Model, target: str = "portable") -> keras.Model:
    """Copies `model` for inference; the copy computes the same to 1e-5 relative, in float32.

    BatchNorm and activations are joined with the convolutions that they follow, standardised kernels become plain
    ones, and what does nothing at inference is left out. The model and its layers stay as they are.

    Args:
        model: functional or Sequential, with models inside it or without.
        target: "gpu" and "portable": every grouped convolution is one operation, as GPUs, TFLite and ONNX want it.
            "cpu", for TensorFlow and TF Serving: that, or dense convolutions over joined groups, whichever
            `fastest_lowering` finds to be faster on this machine; both run everywhere.

    Raises:
        ValueError: an unknown target, a model that is not functional, or one that Keras has quantized.
        RuntimeError: Keras runs on another backend than TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"exporting needs Keras on TensorFlow, not {keras.backend.backend()!r}: set KERAS_BACKEND=tensorflow"
        )
    if target not in LOWERINGS:
        raise ValueError(f"target={target!r} must be one of {', '.join(LOWERINGS)}")
    if not isinstance(model, keras.Model):
        raise ValueError(f"model must be a keras.Model; got {type(model).__name__}")
    if not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        raise ValueError(f"model={model.name!r} has no known inputs: it must be functional, or a built Sequential")
    if quantized := [layer.name for layer in model._flatten_layers() if getattr(layer, "quantization_mode", None)]:
        raise ValueError(
            f"model={model.name!r} was quantized by Keras ({', '.join(quantized[:3])}); export the model as it was "
            "before quantize(), to TFLite with quantization='int8' for integers"
        )
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    lowering = fastest_lowering() if target == "cpu" else LOWERINGS[target]
    fusions = _find_fusions(model)
    absorbed = {id(layer) for fusion in fusions.values() for layer in fusion if layer is not None}
    originals: dict[int, keras.layers.Layer] = {}  # id of the copy -> the layer
    names: Counter[str] = Counter()
    read: set[int] = set()  # ids of what convolutions took so far
    latest: Tensor = None  # what the last of them gave

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.Model):
            return fuse(layer, target)
        if id(layer) in absorbed or type(layer) in INERT or _is_convolution(layer):
            twin = keras.layers.Identity(name=layer.name)  # stands for the layer until it is called
        else:
            twin = in_float32(layer)
        originals[id(twin)] = layer
        return twin

    def call(twin: keras.layers.Layer, *args: Any, **kwargs: Any) -> Tensor:
        nonlocal latest
        layer = originals.get(id(twin))
        if layer is None:
            return twin(*args)
        if id(layer) in absorbed or type(layer) in INERT:
            return args[0]
        if _is_convolution(layer):
            names[layer.name] += 1
            name = layer.name if names[layer.name] == 1 else f"{layer.name}_{names[layer.name]}"
            fusion = fusions.get(id(layer), _Fusion(None, None))
            convolution = _convolution(layer, fusion, lowering, NO_BIAS[target], name)
            beside = target == "cpu" and id(args[0]) in read
            latest = convolution(args[0], latest if beside else None)
            read.add(id(args[0]))
            return latest
        if not isinstance(layer, keras.layers.Layer):  # an operation, such as `x * 2`
            return twin(*args, **kwargs)
        kwargs.pop("training", None)
        built = twin.built
        outputs = twin(*args, **kwargs)
        if not built:
            copy_weights(layer, twin)
        return outputs

    return keras.models.clone_model(model, clone_function=copy, call_function=call)


def _is_convolution(layer: keras.layers.Layer) -> bool:
    return type(layer) in CONVOLUTIONS and layer.data_format == "channels_last"


def _convolution(
    layer: keras.layers.Conv2D, fusion: _Fusion, lowering: str, no_bias: float, name: str
) -> InferenceConv2D:
    kernel = layer.standardise(layer.kernel) if isinstance(layer, WSConv2D) else layer.kernel
    kernel = np.asarray(keras.ops.convert_to_numpy(kernel), "float64")
    bias = np.asarray(keras.ops.convert_to_numpy(layer.bias), "float64") if layer.use_bias else np.zeros(layer.filters)
    if fusion.norm is not None:
        norm = fusion.norm
        mean, variance = (keras.ops.convert_to_numpy(v) for v in (norm.moving_mean, norm.moving_variance))
        scale = 1 / np.sqrt(variance.astype("float64") + norm.epsilon)
        scale = scale * keras.ops.convert_to_numpy(norm.gamma) if norm.scale else scale
        bias = (bias - mean) * scale + (keras.ops.convert_to_numpy(norm.beta) if norm.center else 0)
        kernel = kernel * scale
    kernel, bias = kernel.astype("float32"), bias.astype("float32")
    bias = bias if bias.any() else np.full_like(bias, no_bias)
    kernels = split_kernel(kernel, layer.groups, lowering)
    activation = (
        fusion.activation.activation if isinstance(fusion.activation, keras.layers.Activation) else layer.activation
    )
    activation = keras.activations.relu if isinstance(fusion.activation, keras.layers.ReLU) else activation
    return InferenceConv2D(kernels, bias, layer.strides, layer.dilation_rate, layer.padding, activation, name)


def _find_fusions(model: keras.Model) -> dict[int, _Fusion]:
    """id of each convolution to what can be joined with it: used once, by one layer that itself is used once."""
    users: dict[int, list[Any]] = defaultdict(list)  # id of a tensor -> the layers that take it
    calls: Counter[int] = Counter()  # id of a layer -> how often it is called in this model
    seen: set[int] = set()
    waiting = list(model.outputs)
    for tensor in model.outputs:
        users[id(tensor)].append(None)
    while waiting:
        operation, index, _ = waiting.pop()._keras_history
        node = operation._inbound_nodes[index]
        if id(node) in seen:
            continue
        seen.add(id(node))
        calls[id(operation)] += 1
        for tensor in node.input_tensors:
            users[id(tensor)].append(operation)
            waiting.append(tensor)

    def follower(layer: Any) -> Any:
        """The one layer that takes the output of `layer`, if both are used once."""
        nodes = [node for node in layer._inbound_nodes if id(node) in seen]
        taking = users[id(nodes[0].output_tensors[0])] if len(nodes) == 1 else []
        return taking[0] if len(taking) == 1 and taking[0] is not None and calls[id(taking[0])] == 1 else None

    fusions = {}
    for layer in model.layers:
        if not _is_convolution(layer):
            continue
        linear, norm, last = layer.activation is keras.activations.linear, None, layer
        found = follower(last) if linear else None
        if found is not None and type(found) in NORMS and found.axis in (3, -1):
            norm = last = found
            found = follower(last)
        activates = linear and (_plain_relu(found) or type(found) is keras.layers.Activation)
        fusions[id(layer)] = _Fusion(norm, found if activates else None)
    return fusions


def _plain_relu(layer: Any) -> bool:
    if type(layer) is not keras.layers.ReLU:
        return False
    return layer.max_value is None and not layer.negative_slope and not layer.threshold
