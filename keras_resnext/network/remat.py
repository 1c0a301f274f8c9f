"""Activation checkpointing (`with_cp`): the activations inside a block are recomputed in the backward pass.

Keras's `RematScope` does not survive functional models, so the model itself runs each block through `keras.remat`. The
layers, their names and the saved files are the same as without it.
"""

import re
from collections.abc import Callable
from typing import Any

import keras

Tensor = Any


@keras.saving.register_keras_serializable(package="keras_resnext")
class RematResNeXt(keras.Model):
    """A functional ResNeXt that keeps only each block's input and sum while training (arXiv 1604.06174).

    A block reaches from the output of the block before to its `layer{stage}_{block}_add`; the ReLU behind the sum stays
    outside, as in mmcls. Outside training it runs as any functional model.
    """

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        if not training:
            return super().call(inputs, training=training, mask=mask)
        stem, blocks, head = self._segments()
        x = _train(stem, keras.tree.flatten(inputs))
        kept = [x]
        for body, relu in blocks:
            x = relu(_rematerialise(body, x))
            kept.append(x)
        return _train(head, kept)

    def _segments(self) -> tuple[keras.Function, list[tuple[keras.Function, keras.Function]], keras.Function]:
        """(stem, [(block up to its sum, ReLU)], head) over the model's own layers, made once."""
        if "_remat_segments" not in self.__dict__:
            names = [layer.name for layer in self.layers if re.fullmatch(r"layer\d+_\d+_add", layer.name)]
            names.sort(key=lambda name: tuple(int(part) for part in name.removeprefix("layer").split("_")[:2]))
            stem_output = self.get_layer(names[0].removesuffix("add") + "conv1").input
            boundaries, blocks = [stem_output], []
            for name in names:
                total, output = self.get_layer(name).output, self.get_layer(name.removesuffix("add") + "relu").output
                blocks.append((keras.Function(boundaries[-1], total), keras.Function(total, output)))
                boundaries.append(output)
            segments = keras.Function(self.inputs, stem_output), blocks, keras.Function(boundaries, self.output)
            # Past Keras's attribute tracking: these are views of layers that the model owns already.
            object.__setattr__(self, "_remat_segments", segments)
        return self.__dict__["_remat_segments"]


def _recomputed(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`keras.remat`, with an order on JAX that its CPU compiler respects.

    XLA's CPU scheduler runs what `jax.checkpoint` recomputes as soon as its inputs are there, long before the gradient
    needs it, and so keeps everything alive after all. Here the recomputation's input depends on the gradient, as in
    TensorFlow's `recompute_grad`.
    """
    if keras.backend.backend() != "jax":
        return keras.remat(function)
    import jax
    from jax import numpy as jnp

    @jax.custom_vjp  # type: ignore[untyped-decorator]
    def run(x: Tensor, *weights: Tensor) -> Tensor:
        return function(x, *weights)

    def forward(*arguments: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return function(*arguments), arguments

    def backward(arguments: tuple[Tensor, ...], upstream: Tensor) -> tuple[Tensor, ...]:
        first = jnp.ravel(upstream[0])[0]
        zero = jnp.where(first == first, 0, jnp.nan)  # nothing that a compiler can fold away
        x, *weights = arguments
        _, pullback = jax.vjp(function, x + zero.astype(x.dtype), *weights)
        return pullback(upstream)

    run.defvjp(forward, backward)
    return run


class _Run(keras.layers.Layer):
    """Runs a function of layers as one layer; it has no variables and casts nothing."""

    def __init__(self, function: keras.Function) -> None:
        super().__init__(autocast=False, name="segment")
        self.function = function

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        return self.function(x)


def _train(function: keras.Function, x: Tensor) -> Tensor:
    """`function(x)` where its layers know that this is training.

    They learn it from the layer around them. There may be none: TensorFlow recomputes outside the model's call, and
    `stateless_call`, which JAX trains by, enters no call at all.
    """
    return _Run(function)(x, training=True)


def _rematerialise(body: keras.Function, x: Tensor) -> Tensor:
    """`body(x)`, recomputed in the backward pass; its layers' state is updated once."""
    variables = {id(v): v for op in body.operations if isinstance(op, keras.Layer) for v in op.variables}.values()
    weights = [v for v in variables if v.trainable]
    state = [v for v in variables if not v.trainable]
    # Values, not TensorFlow's variables: the recomputation must not see updated statistics or seeds, and a variable
    # among the arguments would get its gradient twice.
    weight_values, state_values = ([keras.ops.copy(v.value) for v in group] for group in (weights, state))

    def run(x: Tensor, *weight_values: Tensor) -> tuple[Tensor, list[Tensor]]:
        mapping = [*zip(weights, weight_values, strict=True), *zip(state, state_values, strict=True)]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            outputs = _train(body, x)
        return outputs, [scope.get_current_value(v) for v in state]

    outputs, new_values = _recomputed(run)(x, *weight_values)
    for variable, value in zip(state, new_values, strict=True):
        variable.assign(value)
    return outputs
