"""Grouped convolution that is fast and portable on every backend, and the small layers around it.

Keras's TensorFlow backend wraps every grouped convolution in an XLA-compiled function, because TensorFlow's CPU kernel
has no gradient for it. That makes a training step tens of times slower on CPU and leaves SavedModels and ONNX files
that stock runtimes refuse. `GroupedConv2D` computes the same sum another way; see `LOWERINGS`.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

Tensor = Any
Pair = tuple[int, int]

LOWERINGS = ("auto", "grouped", "merged")

# Channels that a merged convolution should have on its narrower side, where a group has up to NARROW and where more.
# ResNeXt-50's 3x3 forward and both gradients, milliseconds by merged width, float32, batch 8, TensorFlow 2.21, 2 cores:
#            56x56x128   28x28x256   14x14x512   7x7x1024
#   AVX2
#   16           74          33          20          -
#   32           78          42          20          20
#   64           87          55          36          22
#   128         145         100          53          39
#   AVX512, oneDNN
#   16           23          15          13          12
#   32           36          19          13          12
#   64           58          30          17          12
#   128         105          56          28          18
# A whole step with 16 for the narrow ones in place of 32: 0.95 to 0.98 of the time, with oneDNN and without.
NARROW, NARROW_MERGED_WIDTH = 8, 16
MERGED_WIDTH = 32


def _tensorflow_on_cpu() -> bool:
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.config.get_visible_devices("GPU")


def _jax_on_cpu() -> bool:
    if keras.backend.backend() != "jax":
        return False
    import jax

    return jax.default_backend() == "cpu"


def resolve_lowering(lowering: str, groups: int) -> str:
    """The lowering that `"auto"` stands for on the current backend and device; any other is returned as it is.

    CPUs have no fast grouped kernel in TensorFlow or XLA. Training steps of ResNeXt-50 32x4d on 2 AVX2 cores: through
    Keras's XLA wrapper on TensorFlow 85 s, merged about 3 s (batch 8, 224x224); on JAX 8.0 s grouped, 0.64 s merged
    (batch 2, 96x96). GPU libraries and PyTorch have grouped kernels; not measured here.
    """
    if lowering != "auto":
        return lowering
    return "merged" if groups > 1 and (_tensorflow_on_cpu() or _jax_on_cpu()) else "grouped"


@keras.saving.register_keras_serializable(package="keras_resnext")
class GroupedConv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` with the same weights and configuration, computed without an XLA wrapper.

    The kernel has shape (height, width, input channels / groups, filters). Unlike its parent, it takes strides and
    dilation together, as PyTorch does.

    Args:
        filters, kernel_size, groups and further options: as in `keras.layers.Conv2D`.
        lowering: how the sum is computed; the numbers are the same. `"grouped"`: the backend's own grouped convolution.
            `"merged"`: neighbouring groups joined into dense convolutions with block-diagonal kernels, wide enough for
            the hardware. `"auto"`: the faster one on the current backend and device.

    Raises:
        ValueError: an unknown lowering, or channels that `groups` does not divide.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Pair,
        strides: int | Pair = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | Pair = 1,
        groups: int = 1,
        *,
        lowering: str = "auto",
        **kwargs: Any,
    ) -> None:
        if lowering not in LOWERINGS:
            raise ValueError(f"lowering={lowering!r} is unknown; choose one of {', '.join(LOWERINGS)}")
        # Conv2D refuses strides together with dilation, though every backend can do it: the strides are set afterwards.
        super().__init__(
            filters,
            kernel_size,
            padding=padding,
            data_format=data_format,
            dilation_rate=dilation_rate,
            groups=groups,
            **kwargs,
        )
        self.strides = _pair(strides, "strides")
        self.lowering = lowering
        # Keras compiles a model with XLA when every layer says that it gains. On CPU, TensorFlow's XLA loses.
        self.supports_jit = not _tensorflow_on_cpu()

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        kernel = ops.convert_to_tensor(kernel)
        if self.data_format == "channels_first" and keras.backend.backend() == "tensorflow":
            # TensorFlow's CPU kernels know channels_last alone.
            outputs = self._convolve(ops.transpose(inputs, (0, 2, 3, 1)), kernel, "channels_last")
            return ops.transpose(outputs, (0, 3, 1, 2))
        return self._convolve(inputs, kernel, self.data_format)

    def _convolve(self, inputs: Tensor, kernel: Tensor, data_format: str) -> Tensor:
        def convolve(x: Tensor, k: Tensor) -> Tensor:
            return _dense_convolution(x, k, self.strides, self.padding, self.dilation_rate, data_format)

        def merge(x: Tensor, k: Tensor) -> Tensor:
            return _merged(x, k, self.groups, -1 if data_format == "channels_last" else 1, convolve)

        if self.groups == 1:
            return convolve(inputs, kernel)
        if resolve_lowering(self.lowering, self.groups) == "merged":
            return merge(inputs, kernel)
        if keras.backend.backend() == "tensorflow":
            return _grouped_tensorflow(inputs, kernel, self.strides, self.padding, self.dilation_rate, merge)
        return convolve(inputs, kernel)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "lowering": self.lowering}


def _pair(value: int | Pair, name: str) -> Pair:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or any(not isinstance(number, int) or number < 1 for number in pair):
        raise ValueError(f"{name}={value!r} must be a positive integer or two of them")
    return pair[0], pair[1]


def merged_groups(groups: int, channels: int, filters: int) -> int:
    """How many neighbouring groups to join: the most that divide `groups` and stay within the merged width."""
    width = max(channels, filters) // groups
    widest = NARROW_MERGED_WIDTH if width <= NARROW else MERGED_WIDTH
    return max((n for n in range(1, groups + 1) if groups % n == 0 and n * width <= widest), default=1)


def merge_kernel(kernel: Tensor, groups: int) -> Tensor:
    """The block-diagonal kernels of joined groups, (height, width, channels of a set, all filters), set behind set."""
    height, width, depth, filters = kernel.shape
    join = merged_groups(groups, depth * groups, filters)
    if join > 1:
        kernel = ops.reshape(kernel, (height, width, 1, depth, groups // join, join, filters // groups))
        diagonal = ops.reshape(ops.eye(join, dtype="bool"), (1, 1, join, 1, 1, join, 1))
        kernel = ops.where(diagonal, kernel, ops.zeros((), kernel.dtype))
    return ops.reshape(kernel, (height, width, join * depth, filters))


def _merged(
    inputs: Tensor, kernel: Tensor, groups: int, axis: int, convolve: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    kernel = merge_kernel(kernel, groups)
    sets = inputs.shape[axis] // kernel.shape[2]
    if sets == 1:
        return convolve(inputs, kernel)
    pairs = zip(ops.split(inputs, sets, axis=axis), ops.split(kernel, sets, axis=-1), strict=True)
    return ops.concatenate([convolve(x, k) for x, k in pairs], axis=axis)


def _dense_convolution(
    inputs: Tensor, kernel: Tensor, strides: Pair, padding: str, dilation: Pair, data_format: str
) -> Tensor:
    if tuple(kernel.shape[:2]) == (1, 1) and _tensorflow_on_cpu():
        # A convolution of size 1 is a matrix product, and TensorFlow's CPU gradient of the product is the faster one:
        # 7x7x1024 to 2048 at batch 8, 38 against 125 ms; from 56x56 to 14x14 1.0 to 1.7 times.
        kept = inputs[:, :: strides[0], :: strides[1]] if max(strides) > 1 else inputs
        product = ops.matmul(ops.reshape(kept, (-1, kernel.shape[2])), ops.reshape(kernel, kernel.shape[2:]))
        return ops.reshape(product, (*ops.shape(kept)[:3], kernel.shape[3]))
    if keras.backend.backend() == "tensorflow" and max(strides) > 1 and max(dilation) > 1:
        # TensorFlow has no gradient for both at once on CPU: dilate, then keep every stride-th position.
        inputs = _pad(inputs, kernel.shape[:2], strides, padding, dilation)
        outputs = ops.conv(inputs, kernel, 1, "valid", data_format, dilation)
        return outputs[:, :: strides[0], :: strides[1]]
    return ops.conv(inputs, kernel, strides, padding, data_format, dilation)


def _pad(inputs: Tensor, kernel_size: Pair, strides: Pair, padding: str, dilation: Pair) -> Tensor:
    """Pads as `padding` would, so that a "valid" convolution follows. Channels last."""
    if padding == "valid":
        return inputs
    pads = []
    for size, k, s, d in zip(ops.shape(inputs)[1:3], kernel_size, strides, dilation, strict=True):
        total = ops.maximum((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        pads.append([total // 2, total - total // 2])
    import tensorflow as tf

    return tf.pad(inputs, [[0, 0], *pads, [0, 0]])


def _grouped_tensorflow(
    inputs: Tensor,
    kernel: Tensor,
    strides: Pair,
    padding: str,
    dilation: Pair,
    merge: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """TensorFlow's grouped convolution. On CPU it has no gradient, so the gradient there is that of the merged sum."""
    import tensorflow as tf

    def forward(x: Tensor, k: Tensor) -> Tensor:
        return tf.nn.conv2d(x, k, strides, padding.upper(), dilations=dilation)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def with_merged_gradient(x: Tensor, k: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        def gradient(upstream: Tensor) -> Tensor:
            with tf.GradientTape() as tape:
                tape.watch([x, k])
                outputs = merge(x, k)
            return tape.gradient(outputs, [x, k], upstream)

        return forward(x, k), gradient

    kernel = tf.convert_to_tensor(kernel)  # a custom gradient takes no variables
    return with_merged_gradient(inputs, kernel) if _tensorflow_on_cpu() else forward(inputs, kernel)


@keras.saving.register_keras_serializable(package="keras_resnext")
class WSConv2D(GroupedConv2D):
    """`GroupedConv2D` whose kernel is standardised before use: mean 0, standard deviation 1 per filter.

    Weight standardisation (arXiv 1903.10520) as mmcv's `ConvWS2d` computes it: the deviation is the unbiased one and
    `eps` (1e-5) is added to the deviation, not to the variance.
    """

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        return super().convolution_op(inputs, self.standardise(kernel))

    @staticmethod
    def standardise(kernel: Tensor) -> Tensor:
        """The kernel that is used in place of the variable, in the same type."""
        weights = ops.cast(kernel, "float32")
        count = weights.shape[0] * weights.shape[1] * weights.shape[2]
        centred = weights - ops.mean(weights, axis=(0, 1, 2), keepdims=True)
        variance = ops.sum(ops.square(centred), axis=(0, 1, 2), keepdims=True) / max(count - 1, 1)
        return ops.cast(centred / (ops.sqrt(variance) + 1e-5), kernel.dtype)


@keras.saving.register_keras_serializable(package="keras_resnext")
class StochasticDepth(keras.layers.Dropout):
    """Drops the whole residual branch of a sample with probability `rate` in training, else scales it by 1/(1 - rate).

    arXiv 1603.09382; mmcv's `DropPath`. Inputs and outputs (batch, height, width, channels).
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        kwargs.pop("noise_shape", None)
        super().__init__(rate, noise_shape=(None, 1, 1, 1), seed=seed, **kwargs)

    # Dropout's own default, False, would be recorded in functional models as if the user had asked for inference.
    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        return super().call(inputs, training=bool(training) and self.trainable)  # frozen is in evaluation, as in mmcls


@keras.saving.register_keras_serializable(package="keras_resnext")
class CeilAveragePooling2D(keras.layers.Layer):
    """Average pooling with window and stride `pool_size` that keeps the incomplete windows at the far edges.

    PyTorch's `AvgPool2d(n, n, ceil_mode=True, count_include_pad=False)`: such a window is the mean of what it covers.
    (batch, height, width, channels) becomes (batch, ceil(height / n), ceil(width / n), channels).
    """

    def __init__(self, pool_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pool_size = pool_size

    def call(self, inputs: Tensor) -> Tensor:
        n = self.pool_size
        if n <= 2:  # "same" then pads at the far edge alone, and never counts what it pads
            return ops.average_pool(inputs, n, n, "same", "channels_last")
        height, width = ops.shape(inputs)[1:3]
        pads = [[0, 0], [0, -height % n], [0, -width % n], [0, 0]]
        covered = ops.average_pool(ops.pad(ops.ones_like(inputs[:1, :, :, :1]), pads), n, n, "valid", "channels_last")
        return ops.average_pool(ops.pad(inputs, pads), n, n, "valid", "channels_last") / covered

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        batch, height, width, channels = input_shape
        n = self.pool_size
        return batch, height and -(-height // n), width and -(-width // n), channels

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "pool_size": self.pool_size}
