"""Grouped convolution that is fast and portable on every backend, and the small layers around it.

Keras's TensorFlow backend wraps every grouped convolution in an XLA-compiled function, because TensorFlow's CPU kernel
has no gradient for it. That makes a training step tens of times slower on CPU and leaves SavedModels and ONNX files
that stock runtimes refuse. `GroupedConv2D` computes the same sum another way; see `lowerings`.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from . import lowerings  # as a module: it may be the one that is importing Keras, and so these layers

Tensor = Any
Pair = tuple[int, int]


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
        if lowering not in lowerings.LOWERINGS:
            raise ValueError(f"lowering={lowering!r} is unknown; choose one of {', '.join(lowerings.LOWERINGS)}")
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
        self.supports_jit = not lowerings.tensorflow_on_cpu()

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        kernel = ops.convert_to_tensor(kernel)
        if self.data_format == "channels_first" and keras.backend.backend() == "tensorflow":
            # TensorFlow's CPU kernels know channels_last alone.
            outputs = self._convolve(ops.transpose(inputs, (0, 2, 3, 1)), kernel, "channels_last")
            return ops.transpose(outputs, (0, 3, 1, 2))
        return self._convolve(inputs, kernel, self.data_format)

    def _convolve(self, inputs: Tensor, kernel: Tensor, data_format: str) -> Tensor:
        def convolve(x: Tensor, k: Tensor) -> Tensor:
            return lowerings.dense_convolution(x, k, self.strides, self.padding, self.dilation_rate, data_format)

        def merge(x: Tensor, k: Tensor) -> Tensor:
            return lowerings.merged(x, k, self.groups, -1 if data_format == "channels_last" else 1, convolve)

        if self.groups == 1:
            return convolve(inputs, kernel)
        if lowerings.resolve_lowering(self.lowering, self.groups) == "merged":
            return merge(inputs, kernel)
        if keras.backend.backend() == "tensorflow":
            return lowerings.grouped_tensorflow(inputs, kernel, self.strides, self.padding, self.dilation_rate, merge)
        return convolve(inputs, kernel)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "lowering": self.lowering}


def _pair(value: int | Pair, name: str) -> Pair:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or any(not isinstance(number, int) or number < 1 for number in pair):
        raise ValueError(f"{name}={value!r} must be a positive integer or two of them")
    return pair[0], pair[1]


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
        weights = ops.cast(kernel, keras.backend.result_type(kernel.dtype, "float32"))
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


@keras.saving.register_keras_serializable(package="keras_resnext")
class ConstantPadding2D(keras.layers.ZeroPadding2D):
    """Pads height and width with `value`: (batch, height, width, channels), channels last whatever Keras's default.

    Before a max-pool, a value that no other is below gives the same as PyTorch's padding with minus infinity, which
    would spoil the ranges of quantised files.
    """

    def __init__(self, padding: int | tuple[Pair, Pair], value: float, **kwargs: Any) -> None:
        super().__init__(padding, **{**kwargs, "data_format": "channels_last"})
        self.value = value

    def call(self, inputs: Tensor) -> Tensor:
        return ops.pad(inputs, ((0, 0), *self.padding, (0, 0)), constant_values=self.value)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "value": self.value}


@keras.saving.register_keras_serializable(package="keras_resnext")
class MeanOverMap(keras.layers.Layer):
    """The weighted mean of a map over all places: (batch, height, width, channels) to (batch, 1, 1, channels).

    The weights are the softmax of the second input, (batch, height, width, 1), over all places
    (GCNet, arXiv 1904.11492, figure 4d).
    """

    def call(self, tensors: tuple[Tensor, Tensor]) -> Tensor:
        inputs, scores = tensors
        shape = ops.shape(inputs)
        places, channels = shape[1] * shape[2], inputs.shape[3]
        weights = ops.softmax(ops.reshape(scores, (-1, 1, places)), axis=-1)
        context = ops.matmul(weights, ops.reshape(inputs, (-1, places, channels)))
        return ops.reshape(context, (-1, 1, 1, channels))

    def compute_output_shape(self, input_shape: tuple[tuple[int | None, ...], ...]) -> tuple[int | None, ...]:
        return input_shape[0][0], 1, 1, input_shape[0][3]


@keras.saving.register_keras_serializable(package="keras_resnext")
class MixedPaths(keras.layers.Layer):
    """The sum of maps, each weighed channel by channel with the softmax of scores over the maps (arXiv 1903.06586).

    Called on `[scores, *maps]`: (batch, 1, 1, maps * channels), one map's channels behind another's, and maps of
    (batch, height, width, channels), as the sum is.
    """

    def call(self, tensors: Sequence[Tensor]) -> Tensor:
        scores, *maps = tensors
        shares = ops.softmax(ops.reshape(scores, (-1, 1, len(maps), maps[0].shape[3])), axis=2)
        weighed = [x * shares[:, :, i : i + 1] for i, x in enumerate(maps)]
        return sum(weighed[1:], weighed[0])

    def compute_output_shape(self, input_shape: Sequence[tuple[int | None, ...]]) -> tuple[int | None, ...]:
        return input_shape[1]
