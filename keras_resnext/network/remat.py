"""Activation checkpointing (`with_cp`): the activations inside a block are recomputed in the backward pass.

Keras's `RematScope` does not survive functional models. Here a layer at the end of each branch does the work, so that
it goes wherever the layers go: into models built on top, clones and saved files. Other layers and weights are the same
without it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

Tensor = Any


@keras.saving.register_keras_serializable(package="keras_resnext")
class Recompute(keras.layers.Layer):
    """Passes on what was computed from a tensor and, in training, computes it again for the gradient.

    Called on `[start, end]`, where layers of the functional model lead from one to the other; gives `end`. In compiled
    training no activation between them is kept (arXiv 1604.06174). The layers between may update statistics, which
    happens once, but must draw no random numbers. On Keras's PyTorch backend nothing is recomputed: the results are the
    same, and the activations are kept.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)

    def call(self, tensors: Sequence[Tensor], training: bool | None = None) -> Tensor:
        start, end = tensors
        checkpoint = _CHECKPOINTS.get(keras.backend.backend())
        if not training or checkpoint is None:
            return end
        function, variables = self._between()
        # As arguments: JAX lets a gradient see nothing else of the computation around it. And as copies: a variable
        # among the arguments would get its gradient twice.
        values = [ops.copy(v.value) if v.trainable else ops.stop_gradient(ops.copy(v.value)) for v in variables]

        def compute(start: Tensor, *values: Tensor) -> Tensor:
            with keras.StatelessScope(state_mapping=zip(variables, values, strict=True)):
                return _Training(function)(start, training=True)

        return checkpoint(compute, ops.stop_gradient(end), [start, *values])

    def compute_output_shape(self, input_shape: Sequence[tuple[int | None, ...]]) -> tuple[int | None, ...]:
        return input_shape[1]

    def _between(self) -> tuple[keras.Function, list[keras.Variable]]:
        """The layers from start to end as a function, and their variables but for seeds; found once."""
        if "_found" not in self.__dict__:
            function = keras.Function(*self._inbound_nodes[0].input_tensors)
            layers = [operation for operation in function.operations if isinstance(operation, keras.Layer)]
            variables = {id(v): v for layer in layers for v in layer.variables if "float" in v.dtype}
            # Past Keras's attribute tracking: the layers belong to the model.
            object.__setattr__(self, "_found", (function, list(variables.values())))
        found: tuple[keras.Function, list[keras.Variable]] = self.__dict__["_found"]
        return found


class _Training(keras.layers.Layer):
    """Runs layers where they know that this is training: a gradient is computed outside the model's call."""

    def __init__(self, function: keras.Function) -> None:
        super().__init__(autocast=False, name="recomputed")
        self.function = function

    def call(self, start: Tensor, training: bool | None = None) -> Tensor:
        return self.function(start)


def _checkpoint_tensorflow(compute: Callable[..., Tensor], end: Tensor, inputs: list[Tensor]) -> Tensor:
    """`end`, with the gradient of `compute(*inputs)`."""
    import tensorflow as tf

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def run(end: Tensor, *inputs: Tensor) -> tuple[Tensor, Callable[[Tensor], list[Tensor]]]:
        def backward(upstream: Tensor) -> list[Tensor]:
            with tf.control_dependencies([upstream]):  # else the graph optimiser joins this with the first computation
                again = [tf.identity(tensor) for tensor in inputs]
            with tf.GradientTape() as tape:
                tape.watch(again)
                output = compute(*again)
            return [tf.zeros_like(end), *tape.gradient(output, again, upstream, unconnected_gradients="zero")]

        return tf.identity(end), backward

    return run(end, *inputs)


def _checkpoint_jax(compute: Callable[..., Tensor], end: Tensor, inputs: list[Tensor]) -> Tensor:
    """`end`, with the gradient of `compute(*inputs)`."""
    import jax
    from jax import numpy as jnp

    @jax.custom_vjp  # type: ignore[untyped-decorator]
    def run(end: Tensor, inputs: list[Tensor]) -> Tensor:
        return end

    def forward(end: Tensor, inputs: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        return end, inputs

    def backward(inputs: list[Tensor], upstream: Tensor) -> tuple[Tensor, list[Tensor]]:
        # XLA's CPU scheduler runs what is recomputed as soon as its inputs are there, long before the gradient needs
        # it, and keeps everything alive after all. Here the input depends on the gradient, and nothing folds that away.
        first = jnp.ravel(upstream)[0]
        zero = jnp.where(first == first, 0, jnp.nan)
        start, *values = inputs
        _, pullback = jax.vjp(compute, start + zero.astype(start.dtype), *values)
        return jnp.zeros_like(upstream), list(pullback(upstream))

    run.defvjp(forward, backward)
    return run(end, inputs)


_CHECKPOINTS = {"tensorflow": _checkpoint_tensorflow, "jax": _checkpoint_jax}
