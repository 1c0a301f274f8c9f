"""Convolutions as exported graphs hold them: grouped or over joined groups, with bias and activation beside each."""

import time
from functools import cache
from typing import Any

import keras
import numpy as np

from ..network.lowerings import merge_kernel, merged_groups

Tensor = Any

ELEMENTWISE = [
    getattr(keras.activations, name)
    for name in (
        *("linear", "relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "sigmoid", "hard_sigmoid"),
        *("tanh", "softplus", "softsign", "hard_silu", "mish", "exponential"),
    )
]


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
            split_kernel(kernel, 32, lowering),
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


def split_kernel(kernel: np.ndarray, groups: int, lowering: str) -> list[np.ndarray]:
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
