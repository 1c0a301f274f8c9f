"""An inference copy of a Keras model: BatchNorm folded into convolutions, grouped ones in the form a target wants.

Works on any functional or Sequential model. TensorFlow only: what leaves here is a graph for TensorFlow's runtimes.
"""

import time
from collections import Counter, defaultdict
from functools import cache
from typing import Any, NamedTuple

import keras
import numpy as np

from ..network.input_preprocessing import InputPreprocessing
from ..network.layers import GroupedConv2D, StochasticDepth, WSConv2D
from ..network.lowerings import merge_kernel, merged_groups
from ..network.normalization import BatchNorm

Tensor = Any

# A grouped convolution as one operation, or as dense ones over joined groups; on CPUs, what this machine measures.
TARGETS = {"cpu": "measured", "gpu": "grouped", "portable": "grouped"}
INERT = (InputPreprocessing, StochasticDepth, keras.layers.Dropout, keras.layers.SpatialDropout2D)
NORMS = (keras.layers.BatchNormalization, BatchNorm)  # a subclass may compute anything
ELEMENTWISE = [
    getattr(keras.activations, name)
    for name in (
        *("linear", "relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "sigmoid", "hard_sigmoid"),
        *("tanh", "softplus", "softsign", "hard_silu", "mish", "exponential"),
    )
]
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
        ValueError: an unknown target, or a model that is not functional.
        RuntimeError: Keras runs on another backend than TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"exporting needs Keras on TensorFlow, not {keras.backend.backend()!r}: set KERAS_BACKEND=tensorflow"
        )
    if target not in TARGETS:
        raise ValueError(f"target={target!r} must be one of {', '.join(TARGETS)}")
    if not isinstance(model, keras.Model):
        raise ValueError(f"model must be a keras.Model; got {type(model).__name__}")
    if not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
        raise ValueError(f"model={model.name!r} has no known inputs: it must be functional, or a built Sequential")
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    lowering = fastest_lowering() if target == "cpu" else TARGETS[target]
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


def in_float32(layer: Any) -> Any:
    """A copy of a layer, a model or an operation, without its weights, that computes in float32."""
    if isinstance(layer, keras.Model):
        return keras.models.clone_model(layer, clone_function=in_float32)
    config = layer.get_config()
    return type(layer).from_config({**config, "dtype": "float32"} if "dtype" in config else config)


def copy_weights(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    target.set_weights(source.get_weights())
    for layer in target._flatten_layers():
        if hasattr(layer, "finalize_state"):  # preprocessing layers keep what follows from their weights beside them
            layer.finalize_state()


@cache
def fastest_lowering() -> str:
    """ "grouped" or "merged": what TensorFlow on this CPU runs the 14x14x512 stage of a ResNeXt 32x4d faster with.

    ResNeXt-50 32x4d against ONNX Runtime, minima of interleaved runs on 2 cores, TensorFlow 2.21, batch 1 and 8: with
    oneDNN (its default where there is AVX512-VNNI) grouped 1.2 and 1.05, merged 1.5 and 1.2 times as long; without
    it grouped 2.5 and 1.95, merged 1.9 and 1.5 times.
    """
    import tensorflow as tf

    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((3, 3, 16, 512), dtype=np.float32)
    images = tf.constant(rng.standard_normal((1, 14, 14, 512), dtype=np.float32))
    runs = {}
    for lowering in ("grouped", "merged"):
        layer = InferenceConv2D(
            _parts(kernel, 32, lowering),
            np.zeros(512, np.float32),
            (1, 1),
            (1, 1),
            "same",
            keras.activations.relu,
            lowering,
        )
        layer.frozen = True
        runs[lowering] = tf.function(layer.call)
        runs[lowering](images)
    times: dict[str, float] = dict.fromkeys(runs, float("inf"))
    for _ in range(10):
        for lowering, run in runs.items():
            start = time.perf_counter()
            run(images)
            times[lowering] = min(times[lowering], time.perf_counter() - start)
    return min(times, key=lambda lowering: times[lowering])


def _parts(kernel: np.ndarray, groups: int, lowering: str) -> list[np.ndarray]:
    """The kernel of a grouped convolution as `InferenceConv2D` takes it."""
    if groups == 1 or lowering == "grouped":
        return [kernel]
    sets = groups // merged_groups(groups, kernel.shape[2] * groups, kernel.shape[3])
    return np.split(keras.ops.convert_to_numpy(merge_kernel(kernel, groups)), sets, axis=-1)


class InferenceConv2D(keras.layers.Layer):
    """Convolutions over neighbouring parts of the channels side by side, each with its bias and activation.

    One kernel whose depth divides the channels is a grouped convolution; several are one over joined groups. Bias and
    activation stand next to each convolution, where TensorFlow runs the three as one.

    Args:
        kernels: (height, width, depth, filters of the part) each.
        bias: (all filters,).
        strides, dilation: of height and width.
        padding: "same" or "valid", as Keras means them.
        activation: a Keras activation.

    Attributes:
        frozen: whether graphs that are traced hold the numbers as constants; then oneDNN need not reorder them at every
            request.
    """

    def __init__(
        self,
        kernels: list[np.ndarray],
        bias: np.ndarray,
        strides: tuple[int, int],
        dilation: tuple[int, int],
        padding: str,
        activation: Any,
        name: str,
    ) -> None:
        super().__init__(dtype="float32", trainable=False, name=name)
        self.strides, self.dilation, self.padding, self.activation = strides, dilation, padding, activation
        biases = np.split(bias, len(kernels))
        self.parts = [
            (self._constant(f"kernel_{i}", kernel), self._constant(f"bias_{i}", part))
            for i, (kernel, part) in enumerate(zip(kernels, biases, strict=True))
        ]
        self.built = True
        self.frozen = False

    def _constant(self, name: str, value: np.ndarray) -> keras.Variable:
        return self.add_weight(value.shape, lambda shape, dtype: value, name=name, trainable=False)

    def call(self, inputs: Tensor, after: Tensor = None) -> Tensor:
        """Waits for `after`: two convolutions that TensorFlow runs at once on a CPU take longer than in turn."""
        import tensorflow as tf

        if after is not None:
            # Of copies, since TensorFlow joins nothing with an operation that others wait for.
            with tf.control_dependencies([tf.identity(after)]):
                inputs = tf.identity(inputs)

        # A softmax, say, looks at all channels.
        each = len(self.parts) == 1 or self.activation in ELEMENTWISE

        def value(variable: keras.Variable) -> Tensor:
            if not self.frozen:
                return variable.value
            with tf.init_scope():
                array = variable.value.numpy()
            return tf.constant(array)

        def convolve(x: Tensor, kernel: keras.Variable, bias: keras.Variable) -> Tensor:
            y = tf.nn.conv2d(x, value(kernel), self.strides, self.padding.upper(), dilations=self.dilation)
            # TensorFlow's graph optimiser joins a BiasAdd into one operation with the convolution, whose kernel on CPUs
            # without oneDNN then refuses groups. It leaves a plain addition alone.
            grouped = x.shape[-1] != kernel.shape[2]
            y = y + value(bias) if grouped else tf.nn.bias_add(y, value(bias))
            return self.activation(y) if each else y

        parts = tf.split(inputs, len(self.parts), axis=-1) if len(self.parts) > 1 else [inputs]
        outputs = [convolve(x, *part) for x, part in zip(parts, self.parts, strict=True)]
        joined = tf.concat(outputs, axis=-1) if len(outputs) > 1 else outputs[0]
        return joined if each else self.activation(joined)


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
    kernels = _parts(kernel, layer.groups, lowering)
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
