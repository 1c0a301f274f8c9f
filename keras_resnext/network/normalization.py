"""The layers that `norm_cfg` names: BatchNorm with PyTorch's statistics, GroupNorm, LayerNorm over channels."""

from typing import Any

import keras
from keras import ops

from .layer_cfg import Norm

Tensor = Any


class _FreezableAffine:
    """Makes gamma and beta non-trainable when `affine_trainable` is False (`requires_grad=False` in `norm_cfg`).

    The layer itself stays trainable, so that BatchNorm goes on normalising with the batch and updating its statistics.
    """

    affine_trainable: bool

    def add_weight(self, *args: Any, **kwargs: Any) -> Any:
        if not self.affine_trainable:
            kwargs["trainable"] = False
        return super().add_weight(*args, **kwargs)  # type: ignore[misc]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "affine_trainable": self.affine_trainable}  # type: ignore[misc]


@keras.saving.register_keras_serializable(package="keras_resnext")
class BatchNorm(_FreezableAffine, keras.layers.BatchNormalization):
    """Batch normalisation with PyTorch's defaults and moving variance.

    PyTorch's `BatchNorm2d` normalises with the biased variance of the batch and averages the unbiased one; Keras
    averages the biased one. Here the moving variance is PyTorch's, on whatever backend.

    Args:
        momentum: of the moving statistics in Keras's sense (PyTorch's 0.1 is 0.9 here).
        epsilon: added to the variance.
        affine_trainable: whether gamma and beta learn.
        use_moving_statistics: normalise with the moving statistics in training too and leave them as they are
            (mmcls's `norm_eval`).
        synchronized: statistics over all replicas. Without effect on JAX, whose sharded arrays are whole already.
    """

    def __init__(
        self,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        affine_trainable: bool = True,
        use_moving_statistics: bool = False,
        synchronized: bool = False,
        **kwargs: Any,
    ) -> None:
        on_tensorflow = keras.backend.backend() == "tensorflow"
        super().__init__(momentum=momentum, epsilon=epsilon, synchronized=synchronized and on_tensorflow, **kwargs)
        self.affine_trainable = affine_trainable
        self.use_moving_statistics = use_moving_statistics
        self._synchronized_if_possible = synchronized

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        training = bool(training) and self.trainable and not self.use_moving_statistics
        if not training or mask is not None or self.renorm:
            return super().call(inputs, training=training, mask=mask)
        if self._is_fusable(inputs):
            return self._call_fused(inputs)
        kept = self.momentum * ops.convert_to_tensor(self.moving_variance)
        outputs = super().call(inputs, training=training)
        biased_share = ops.convert_to_tensor(self.moving_variance) - kept
        count = ops.cast(ops.size(inputs) // inputs.shape[self.axis], self.moving_variance.dtype) * self._replicas()
        self.moving_variance.assign(kept + biased_share * (count / ops.maximum(count - 1.0, 1.0)))
        return outputs

    def _replicas(self) -> int:
        """How many devices the statistics are of."""
        if not self.synchronized:
            return 1
        import tensorflow as tf

        return int(tf.distribute.get_strategy().num_replicas_in_sync)

    def _is_fusable(self, inputs: Tensor) -> bool:
        return (
            keras.backend.backend() == "tensorflow"
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and self.scale
            and self.center
            and not self.synchronized
            and self.variable_dtype == "float32"  # the kernel's statistics are float32 whatever the inputs
            and inputs.dtype.name in ("float32", "float16", "bfloat16")
        )

    def _call_fused(self, inputs: Tensor) -> Tensor:
        """TensorFlow's one-pass kernel: a tenth off the training step on CPU, and its variance is the unbiased one."""
        import tensorflow as tf

        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=ops.convert_to_tensor(self.gamma),
            offset=ops.convert_to_tensor(self.beta),
            mean=tf.constant([], "float32"),
            variance=tf.constant([], "float32"),
            epsilon=self.epsilon,
            is_training=True,
        )
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + batch * (1 - self.momentum))
        return ops.cast(outputs, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "use_moving_statistics": self.use_moving_statistics,
            "synchronized": self._synchronized_if_possible,
        }


@keras.saving.register_keras_serializable(package="keras_resnext")
class GroupNorm(_FreezableAffine, keras.layers.GroupNormalization):
    """`keras.layers.GroupNormalization` with PyTorch's epsilon and `affine_trainable` (see `BatchNorm`)."""

    def __init__(self, groups: int, epsilon: float = 1e-5, affine_trainable: bool = True, **kwargs: Any) -> None:
        super().__init__(groups=groups, epsilon=epsilon, **kwargs)
        self.affine_trainable = affine_trainable


@keras.saving.register_keras_serializable(package="keras_resnext")
class LayerNorm(_FreezableAffine, keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization` over channels with PyTorch's epsilon; mmcls's `LN2d`."""

    def __init__(self, epsilon: float = 1e-5, affine_trainable: bool = True, **kwargs: Any) -> None:
        super().__init__(epsilon=epsilon, **kwargs)
        self.affine_trainable = affine_trainable


def norm_layer(norm: Norm, norm_eval: bool = False, **options: Any) -> keras.layers.Layer:
    """The layer that `norm` stands for.

    Args:
        norm: as `read_norm_cfg` gives it.
        norm_eval: BatchNorm normalises with its moving statistics in training too; of no effect on others.
        options: Keras's own of the layer, such as `name`.
    """
    options |= {"epsilon": norm.eps, "affine_trainable": norm.requires_grad}
    if norm.kind == "GN":
        return GroupNorm(norm.num_groups, **options)
    if norm.kind == "LN":
        return LayerNorm(**options)
    options |= {"synchronized": norm.kind == "SyncBN", "use_moving_statistics": norm_eval}
    return BatchNorm(momentum=1 - norm.momentum, **options)
