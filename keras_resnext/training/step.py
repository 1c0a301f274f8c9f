"""What a step of training computes: loss, metrics, optimizer."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import keras

from ..runtimes.keras_model import check_classifier, last_activation, last_operation
from . import distribution
from .label_metrics import MeanAveragePrecision, MicroF1, label_accuracy
from .losses import GAMMA, BinaryCrossEntropy, CrossEntropy
from .optimizers import make_optimizer
from .recipe import Recipe
from .tasks import TASKS

PLAIN = "plain_loss"  # the loss without smoothing and weights, by which epochs are compared


def gives_logits(model: keras.Model, kind: str = "single") -> bool:
    """Whether a classifier gives logits, not probabilities.

    Args:
        model: the classifier.
        kind: "single" or "multi", what it is to learn.

    Raises:
        ValueError: it is no classifier of images, or ends in another activation than that of its kind or none.
    """
    check_classifier(model, rgb=False)
    activation, wanted = last_activation(model), TASKS[kind].activation
    # Where no layer tells, such as behind an operation, probabilities are what everything here takes it to give.
    if activation not in (None, keras.activations.get(wanted), keras.activations.linear):
        name = getattr(activation, "__name__", activation)
        of = f" for {TASKS[kind].says}" if name in ("softmax", "sigmoid") else ""
        raise ValueError(
            f"model={model.name!r} ends in {name!r}; it must end in {wanted}, or in none and give logits{of}"
        )
    return activation is keras.activations.linear


def check_head(model: keras.Model, recipe: Recipe, kind: str) -> None:
    """Checks that a model can learn labels of a kind by the recipe's loss, and that its file will say what it gives.

    Raises:
        ValueError: as `gives_logits`; several labels without a sigmoid; a binary loss behind an unknown operation.
    """
    logits = gives_logits(model, kind)
    activation = last_activation(model)
    if kind == "multi" and (logits or activation is None):
        raise ValueError(
            f"model={model.name!r} must end in a layer with sigmoid to learn {TASKS[kind].says}, such as "
            "ResNeXt50(classifier_activation='sigmoid'): by it everything that reads the model knows what it gives"
        )
    if is_binary(recipe, kind) and activation is None:
        raise ValueError(f"model={model.name!r} must end in a layer with an activation for loss={recipe.loss!r}")


def kind_of(model: keras.Model) -> str:
    """What a model learns, as its last activation says."""
    return "multi" if last_activation(model) is keras.activations.sigmoid else "single"


def is_binary(recipe: Recipe, kind: str) -> bool:
    """Whether the loss asks for a yes or no for each class, of logits."""
    return kind == "multi" or recipe.loss == "bce"


@contextmanager
def activated(layer: Any, activation: Any) -> Iterator[None]:
    """Another activation in a layer: a binary loss needs the logits that a sigmoid or softmax would round away."""
    before, layer.activation = layer.activation, activation
    try:
        yield
    finally:
        layer.activation = before


def on_logits(model: keras.Model, recipe: Recipe) -> Any:
    """A context in which a model that a binary loss trains gives logits; asked for its kind, it has none inside."""
    wanted = is_binary(recipe, kind_of(model))
    return activated(ending(model), keras.activations.linear) if wanted else nullcontext()


def ending(model: keras.Model) -> Any:
    """The layer whose activation `activated` changes."""
    return last_operation(model)


def make_loss(recipe: Recipe, kind: str, logits: bool) -> CrossEntropy | BinaryCrossEntropy:
    """The recipe's loss for labels of a kind."""
    name = TASKS[kind].choose_loss(recipe.loss)
    weights = recipe.class_weights
    if isinstance(weights, str):
        raise ValueError(f"class_weights={weights!r} must be numbers here; `weights_of` makes them of the data")
    gamma = GAMMA if name == "focal" else 0.0
    if not is_binary(recipe, kind):
        return CrossEntropy(recipe.label_smoothing, logits, weights, gamma)
    return BinaryCrossEntropy(
        recipe.label_smoothing, logits, weights, gamma,
        one_of=kind == "single", threshold=recipe.target_threshold, summed=recipe.sum_labels,
    )  # fmt: skip


def make_metrics(recipe: Recipe, kind: str, logits: bool, classes: int) -> list[keras.metrics.Metric]:
    """What is measured in training and validation: the task's measures, and the loss as such."""
    plain = replace(recipe, label_smoothing=0.0, class_weights=None, target_threshold=None, sum_labels=False)
    loss = keras.metrics.MeanMetricWrapper(make_loss(plain, kind, logits).call, PLAIN)
    if kind == "multi":
        accuracy = keras.metrics.MeanMetricWrapper(label_accuracy, "accuracy", from_logits=logits)
        return [MeanAveragePrecision(classes, logits), accuracy, MicroF1(logits), loss]
    found = [keras.metrics.CategoricalAccuracy("top1")]
    if classes > 5:
        found.append(keras.metrics.TopKCategoricalAccuracy(5, "top5"))
    return [*found, loss]


def compile_model(
    model: keras.Model, recipe: Recipe, steps_per_epoch: int, *, head: bool = False, kind: str | None = None
) -> None:
    """Compiles for a recipe: optimizer, schedule, loss and metrics; by XLA as `compiles_by_xla` says.

    Args:
        model: the classifier.
        recipe: how it is trained.
        steps_per_epoch: of the schedule.
        head: for the epochs in which only the head learns.
        kind: "single" or "multi"; default as the model's last activation says.
    """
    kind = kind or kind_of(model)
    logits = last_activation(model) is keras.activations.linear
    model.compile(
        make_optimizer(model, recipe, steps_per_epoch, head=head),
        make_loss(recipe, kind, logits),
        weighted_metrics=make_metrics(recipe, kind, logits, int(model.outputs[0].shape[-1])),
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
