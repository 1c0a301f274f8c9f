"""Looking into a model while it runs: what a layer gives or takes, and how the class scores depend on it.

Any functional or Sequential model, with models inside it or without, on TensorFlow and JAX. Nothing of the model is
changed and no layer is called on symbolic tensors, so that users' models stay as they are.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from ..runtimes.keras_model import last_activation

Tensor = Any
Operation = Any  # a layer, or an operation such as `x * 2`
Substitutes = Mapping[Operation, Callable[..., Tensor]]

SHOWN_CHOICES = 8
SQUASHING = ("Softmax", "LogSoftmax", "Sigmoid")  # layers, and the operations of the same names in keras.ops


def find_layer(model: keras.Model, name: str | None) -> Operation:
    """The operation called `name`, whose output is a map; for None the last whose map is larger than 1x1.

    Raises:
        ValueError: there is none, or there are several of that name.
    """
    found = {op: _shape(op) for op in _operations(model)}
    maps = [op for op, shape in found.items() if len(shape) == 4]
    if name is None:
        large = [op for op in maps if found[op][1:3] != (1, 1)]
        if not large:
            raise ValueError(f"model={model.name!r} has no layer whose output is a map (None, height, width, channels)")
        return large[-1]
    named = [op for op in found if op.name == name]
    if len(named) == 1 and len(found[named[0]]) == 4:
        return named[0]
    if len(named) > 1:
        raise ValueError(f"layer={name!r} is the name of {len(named)} layers of model={model.name!r}")
    why = f"gives {found[named[0]]}, no map" if named else f"is no layer of model={model.name!r}"
    names = [op.name for op in reversed(maps)]
    # A stage or a block stands for its end; another word for what is spelled like it.
    near = [n for n in names if n.startswith(str(name))] or difflib.get_close_matches(str(name), names, SHOWN_CHOICES)
    choices = ", ".join((near or names)[:SHOWN_CHOICES])
    raise ValueError(f"layer={name!r} {why}; choose among its {len(names)} maps, such as {choices}")


def list_maps(model: keras.Model) -> list[str]:
    """Names for `find_layer`, in the order in which the layers run: those whose output is a map larger than 1x1."""
    shapes = {op.name: _shape(op) for op in _operations(model)}
    return [name for name, shape in shapes.items() if len(shape) == 4 and shape[1:3] != (1, 1)]


def find_head(model: keras.Model) -> Operation | None:
    """The last dense layer, whose input are the features; None where the model itself gives features.

    Raises:
        ValueError: neither.
    """
    if len(model.outputs) == 1 and (len(model.outputs[0].shape) == 4 or last_activation(model) == "pooling"):
        return None
    dense = [op for op in _operations(model) if isinstance(op, keras.layers.Dense)]
    if len(model.outputs) != 1 or not dense or len(_shape(dense[-1])) != 2:
        raise ValueError(f"model={model.name!r} has no dense layer that takes pooled features; name a layer")
    return dense[-1]


def run(model: keras.Model, x: Tensor, instead: Substitutes) -> Tensor:
    """The model's output at inference, with other functions called in place of some operations."""
    outputs = _functional(model)._run_through_graph(x, operation_fn=lambda op: _callable(op, instead))
    return outputs[0] if isinstance(outputs, list | tuple) and len(outputs) == 1 else outputs


def _callable(operation: Operation, instead: Substitutes) -> Callable[..., Tensor]:
    if _is_open(operation):
        return lambda x, **_: run(operation, x, instead)
    return instead.get(operation, operation)


class Recorder:
    """Stands for an operation in `run` and keeps what it gives, or what it takes."""

    def __init__(self, operation: Operation, of_input: bool = False) -> None:
        self.operation, self.of_input = operation, of_input
        self.found: list[Tensor] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        output = self.operation(*args, **kwargs)
        self.found.append(args[0] if self.of_input else output)
        return output

    @property
    def tensor(self) -> Tensor:
        """What was found.

        Raises:
            ValueError: the operation ran not once.
        """
        if len(self.found) != 1:
            raise ValueError(
                f"layer={self.operation.name!r} is used {len(self.found)} times in the model; it must be used once"
            )
        return self.found[0]


def without_activation(operation: Operation) -> Callable[..., Tensor]:
    """The last operation without its activation.

    Not the logarithm of its output: the softmax subtracts log(sum(exp(logits))), which depends on the map too, so that
    its gradient would mix in what speaks against the other classes, and vanish where the model is sure.
    """
    if isinstance(operation, keras.layers.Activation) or type(operation).__name__ in SQUASHING:
        return lambda x, **_: x
    if isinstance(operation, keras.layers.Dense):

        def dense(x: Tensor, **_: Any) -> Tensor:
            y = ops.matmul(ops.cast(x, "float32"), ops.cast(operation.kernel, "float32"))
            return y if operation.bias is None else y + ops.cast(operation.bias, "float32")

        return dense
    if getattr(operation, "activation", None) not in (None, keras.activations.linear):
        raise ValueError(
            f"the model ends in {operation.name}, a {type(operation).__name__} with an activation; its class scores "
            "before it are known for Dense, Activation and Softmax"
        )
    return operation


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The gradient of a number with respect to the tensor that it is computed from."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            value = function(x)
        return tape.gradient(value, x, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    if backend == "jax":
        import jax

        return jax.grad(function)(x)
    raise RuntimeError(f"Grad-CAM needs Keras on TensorFlow or JAX, not {backend!r}")


def _operations(model: keras.Model) -> Iterator[Operation]:
    """All of a model's operations in the order in which they run, those of models inside it in their place."""
    for operation in _functional(model).operations:
        if _is_open(operation):
            yield from _operations(operation)
        elif not isinstance(operation, keras.layers.InputLayer):
            yield operation


def _shape(operation: Operation) -> tuple[int | None, ...]:
    return tuple(operation._inbound_nodes[0].output_tensors[0].shape)


def _is_open(op: Operation) -> bool:
    """Whether an operation is a model that consists of layers, and no layer of its own kind."""
    return isinstance(op, keras.Model) and bool(getattr(op, "inputs", None)) and bool(getattr(op, "outputs", None))


def _functional(model: keras.Model) -> keras.Model:
    return keras.Model(model.inputs, model.outputs) if isinstance(model, keras.Sequential) else model


def check_batch(model: keras.Model, images: Any) -> np.ndarray:
    """Images as float32; raises ValueError unless they have the shape that the model takes."""
    array = np.asarray(images, "float32")
    wanted = tuple(model.inputs[0].shape)
    if array.ndim != 4 or not len(array) or any(w not in (None, s) for w, s in zip(wanted, array.shape, strict=True)):
        raise ValueError(f"images must have shape {wanted}, with at least one image; got {array.shape}")
    return array


def as_float64(tensor: Tensor) -> np.ndarray:
    """A backend tensor in NumPy."""
    return np.asarray(ops.convert_to_numpy(ops.cast(tensor, "float32")), "float64")
