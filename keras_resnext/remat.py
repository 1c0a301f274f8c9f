"""Activation checkpointing (`with_cp`): the activations inside a block are recomputed in the backward pass.

Keras's `RematScope` does not survive functional models, so the model itself runs each block through `keras.remat`. The
layers, their names and the saved files are the same as without it.
"""

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
        x = stem(inputs)
        kept = [x]
        for body, relu in blocks:
            x = relu(_rematerialise(body, x))
            kept.append(x)
        return head(kept)

    def _segments(self) -> tuple[keras.Function, list[tuple[keras.Function, keras.Function]], keras.Function]:
        """(stem, [(block up to its sum, ReLU)], head) over the model's own layers, made once."""
        if "_remat_segments" not in self.__dict__:
            names = [layer.name for layer in self.layers if layer.name.endswith("_add")]
            names.sort(key=lambda name: tuple(int(part) for part in name.removeprefix("layer").split("_")[:2]))
            stem_output = self.get_layer(names[0].removesuffix("add") + "conv1").input
            boundaries, blocks = [stem_output], []
            for name in names:
                total, output = self.get_layer(name).output, self.get_layer(name.removesuffix("add") + "relu").output
                blocks.append((keras.Function(boundaries[-1], total), keras.Function(total, output)))
                boundaries.append(output)
            segments = keras.Function(self.input, stem_output), blocks, keras.Function(boundaries, self.output)
            # Past Keras's attribute tracking: these are views of layers that the model owns already.
            object.__setattr__(self, "_remat_segments", segments)
        return self.__dict__["_remat_segments"]


class _TrainingCall(keras.layers.Layer):
    """Runs a function of layers under `training=True`; it has no variables and casts nothing."""

    def __init__(self, body: keras.Function) -> None:
        super().__init__(autocast=False, name="recomputed")
        self.body = body

    def call(self, x: Tensor, training: bool | None = None) -> Tensor:
        return self.body(x)


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
            # TensorFlow calls this again outside the model's call, where nothing says that this is training.
            outputs = _TrainingCall(body)(x, training=True)
        return outputs, [scope.get_current_value(v) for v in state]

    outputs, new_values = keras.remat(run)(x, *weight_values)
    for variable, value in zip(state, new_values, strict=True):
        variable.assign(value)
    return outputs
