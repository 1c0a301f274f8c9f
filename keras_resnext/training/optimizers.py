"""PyTorch's SGD and the learning rates of the recipes, as Keras objects that can be saved."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from .recipes import SCHEDULES, Recipe

Tensor = Any

_NORM_AND_BIAS = ("gamma", "beta", "bias")


@keras.saving.register_keras_serializable(package="keras_resnext")
class SGD(keras.optimizers.SGD):
    """`torch.optim.SGD`: weight decay is an L2 gradient, and the momentum does not hold the learning rate.

    g = gradient + l2 * w;  m = momentum * m + g;  w -= learning_rate * m  (with nesterov: g + momentum * m for m)

    Keras's own keeps `learning_rate * g` in the momentum, so that a step of the schedule takes ten updates to arrive,
    and its `weight_decay` passes by the momentum.

    Args:
        learning_rate: a number or a schedule.
        momentum, nesterov: as in PyTorch.
        l2: weight decay in PyTorch's sense.
        decay_norm_and_bias: whether it also holds for norms' gamma and beta and for biases.
        options: of `keras.optimizers.SGD`, such as global_clipnorm and gradient_accumulation_steps.
    """

    def __init__(
        self,
        learning_rate: Any = 0.1,
        momentum: float = 0.0,
        nesterov: bool = False,
        l2: float = 0.0,
        decay_norm_and_bias: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, momentum=momentum, nesterov=nesterov, **options)
        self.l2, self.decay_norm_and_bias = l2, decay_norm_and_bias

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        learning_rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        # TensorFlow passes its own variable, whose name is another.
        own = self._trainable_variables[self._get_variable_index(variable)]
        if self.l2 and (self.decay_norm_and_bias or own.name not in _NORM_AND_BIAS):
            gradient = gradient + variable * ops.cast(self.l2, variable.dtype)
        if self.momentum:
            momentum = self.momentums[self._get_variable_index(variable)]
            self.assign(momentum, momentum * self.momentum + gradient)
            gradient = gradient + momentum * self.momentum if self.nesterov else ops.convert_to_tensor(momentum)
        self.assign_sub(variable, learning_rate * gradient)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "l2": self.l2, "decay_norm_and_bias": self.decay_norm_and_bias}


@keras.saving.register_keras_serializable(package="keras_resnext")
class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate by step: a linear warm-up, then steps, half a cosine, or none.

    Args:
        peak: the rate after the warm-up.
        steps_per_epoch, epochs: length of the training.
        kind: "step", "cosine" (to 0 at the end) or "constant".
        milestones: epochs after which "step" multiplies the rate by `factor`.
        warmup_epochs: how long the rate rises, from `warmup_start * peak`.
    """

    def __init__(
        self,
        peak: float,
        steps_per_epoch: int,
        epochs: int,
        kind: str = "cosine",
        milestones: Sequence[int] = (),
        factor: float = 0.1,
        warmup_epochs: float = 0,
        warmup_start: float = 0.01,
    ) -> None:
        if kind not in SCHEDULES:
            raise ValueError(f"schedule={kind!r} must be one of {', '.join(SCHEDULES)}")
        if not 0 <= warmup_epochs < max(epochs, 1):
            raise ValueError(f"warmup_epochs={warmup_epochs!r} must be at least 0 and below epochs={epochs}")
        self.peak, self.steps_per_epoch, self.epochs, self.kind = peak, steps_per_epoch, epochs, kind
        self.milestones, self.factor = tuple(milestones), factor
        self.warmup_epochs, self.warmup_start = warmup_epochs, warmup_start

    def __call__(self, step: Any) -> Tensor:
        step = ops.cast(step, "float32")
        warm, total = self.warmup_epochs * self.steps_per_epoch, self.epochs * self.steps_per_epoch
        rate: Tensor = ops.full((), self.peak, "float32")
        if self.kind == "cosine":
            rate = rate * 0.5 * (1 + ops.cos(math.pi * ops.clip((step - warm) / max(total - warm, 1), 0, 1)))
        elif self.kind == "step":
            for milestone in self.milestones:
                rate = ops.where(step >= milestone * self.steps_per_epoch, rate * self.factor, rate)
        if warm:
            rising = self.peak * (self.warmup_start + (1 - self.warmup_start) * step / warm)
            rate = ops.where(step < warm, rising, rate)
        return rate

    def get_config(self) -> dict[str, Any]:
        names = ("peak", "steps_per_epoch", "epochs", "kind", "milestones", "factor", "warmup_epochs", "warmup_start")
        return {name: getattr(self, name) for name in names}


def make_schedule(recipe: Recipe, steps_per_epoch: int) -> Schedule:
    """The learning rate from where the whole network learns, behind the head's epochs."""
    epochs = max(recipe.epochs - recipe.head_epochs, 1)
    milestones = [milestone - recipe.head_epochs for milestone in recipe.milestones]
    warmup = min(recipe.warmup_epochs, epochs / 2)
    return Schedule(recipe.peak_rate, steps_per_epoch, epochs, recipe.schedule, milestones, recipe.factor, warmup)
