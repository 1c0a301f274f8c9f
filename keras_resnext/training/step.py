"""What a step of training computes: loss, metrics, optimizer."""

from typing import Any

import keras
import numpy as np
from keras import ops

from ..runtimes.keras_model import check_classifier, last_activation
from . import distribution
from .optimizers import SGD, make_schedule
from .recipes import Recipe

Tensor = Any


@keras.saving.register_keras_serializable(package="keras_resnext")
class CrossEntropy(keras.losses.Loss):
    """Cross-entropy of probabilities or logits with smoothed labels, in nats.

    Keras's own cuts probabilities off at 1e-7 except in TensorFlow's graphs; an image that is hopelessly wrong would
    teach nothing.

    Args:
        label_smoothing: share of the target that is spread over all classes.
        from_logits: whether the model gives logits.
    """

    def __init__(
        self, label_smoothing: float = 0.0, from_logits: bool = False, name: str = "cross_entropy", **options: Any
    ) -> None:
        super().__init__(name=name, **options)
        self.label_smoothing, self.from_logits = label_smoothing, from_logits

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return cross_entropy(y_true, y_pred, self.label_smoothing, self.from_logits)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "label_smoothing": self.label_smoothing, "from_logits": self.from_logits}


def cross_entropy(targets: Tensor, scores: Tensor, label_smoothing: float = 0.0, from_logits: bool = False) -> Tensor:
    """-sum(target * log(probability)): (n, classes) and (n, classes) to (n,)."""
    scores = ops.cast(scores, "float32")
    targets = ops.cast(targets, "float32") * (1 - label_smoothing) + label_smoothing / scores.shape[-1]
    logarithms = (
        ops.log_softmax(scores, axis=-1) if from_logits else ops.log(ops.maximum(scores, np.finfo("float32").tiny))
    )
    return -ops.sum(targets * logarithms, axis=-1)


def gives_logits(model: keras.Model) -> bool:
    """Whether a classifier gives logits, not probabilities.

    Raises:
        ValueError: it is no classifier of images, or ends in another activation than softmax or none.
    """
    check_classifier(model, rgb=False)
    activation = last_activation(model)
    # Where no layer tells, such as behind an operation, probabilities are what everything here takes it to give.
    if activation not in (None, keras.activations.softmax, keras.activations.linear):
        name = getattr(activation, "__name__", activation)
        raise ValueError(f"model={model.name!r} ends in {name!r}; it must end in softmax, or in none and give logits")
    return activation is keras.activations.linear


def compile_model(model: keras.Model, recipe: Recipe, steps_per_epoch: int, *, head: bool = False) -> None:
    """Compiles for a recipe: optimizer, schedule, loss and metrics; by XLA as `compiles_by_xla` says.

    Args:
        head: for the epochs in which only the head learns.
    """
    rate: Any = recipe.peak_rate * recipe.head_rate if head else make_schedule(recipe, steps_per_epoch)
    options: dict[str, Any] = {"global_clipnorm": recipe.clip_norm}
    options |= {"gradient_accumulation_steps": recipe.accumulate if recipe.accumulate > 1 else None}
    if recipe.optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay, **options)
        if not recipe.decay_norm_and_bias:
            optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    else:
        options |= {"l2": recipe.weight_decay, "decay_norm_and_bias": recipe.decay_norm_and_bias}
        optimizer = SGD(rate, recipe.momentum, recipe.nesterov, **options)
    classes, logits = int(model.outputs[0].shape[-1]), gives_logits(model)

    def metrics() -> list[keras.metrics.Metric]:
        found = [keras.metrics.CategoricalAccuracy("top1")]
        if classes > 5:
            found.append(keras.metrics.TopKCategoricalAccuracy(5, "top5"))
        return [*found, keras.metrics.MeanMetricWrapper(cross_entropy, "cross_entropy", from_logits=logits)]

    model.compile(
        optimizer,
        CrossEntropy(recipe.label_smoothing, logits),
        weighted_metrics=metrics(),
        jit_compile=compiles_by_xla(model),
    )
    model.optimizer.build(model.trainable_variables)


def compiles_by_xla(model: keras.Model) -> bool:
    """Whether a training step of `model` is compiled as a whole: always on JAX, on TensorFlow where one GPU trains.

    On a CPU TensorFlow's own kernels are faster: on 2 AVX2 cores a step of ResNeXt-50 took 1.27 to 1.52 times
    PyTorch's without XLA and 1.6 times with it. Under tf.distribute XLA cannot reach the variables of the other
    devices, and Keras's own "auto" compiles nothing there either.
    """
    one_gpu = distribution.has_gpu() and distribution.devices() == 1
    wanted = one_gpu or keras.backend.backend() == "jax"
    return wanted and all(layer.supports_jit for layer in model._flatten_layers())
