"""How a grouped convolution is computed: the same sum by other operations, chosen by backend and device."""

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


def tensorflow_on_cpu() -> bool:
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
    return "merged" if groups > 1 and (tensorflow_on_cpu() or _jax_on_cpu()) else "grouped"


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


def merged(
    inputs: Tensor, kernel: Tensor, groups: int, axis: int, convolve: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    kernel = merge_kernel(kernel, groups)
    sets = inputs.shape[axis] // kernel.shape[2]
    if sets == 1:
        return convolve(inputs, kernel)
    pairs = zip(ops.split(inputs, sets, axis=axis), ops.split(kernel, sets, axis=-1), strict=True)
    return ops.concatenate([convolve(x, k) for x, k in pairs], axis=axis)


def dense_convolution(
    inputs: Tensor, kernel: Tensor, strides: Pair, padding: str, dilation: Pair, data_format: str
) -> Tensor:
    if tuple(kernel.shape[:2]) == (1, 1) and tensorflow_on_cpu():
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


def grouped_tensorflow(
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
    return with_merged_gradient(inputs, kernel) if tensorflow_on_cpu() else forward(inputs, kernel)
