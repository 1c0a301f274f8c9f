"""PyTorch's SGD, timm's LAMB and the learning rates of the recipes, as Keras objects that can be saved."""

import math
import re
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from .recipe import SCHEDULES, Recipe

Tensor = Any

_NORM_AND_BIAS = ("gamma", "beta", "bias")


class Rates:
    """What the optimizers here have in common.

    Attributes:
        decay_norm_and_bias: whether weight decay holds for norms' gamma and beta and for biases too.
        rate_scales: what the learning rate of each trainable variable, in their order, is multiplied by; None for 1.
    """

    decay_norm_and_bias: bool
    rate_scales: Sequence[float] | None
    _trainable_variables: list[Any]
    _get_variable_index: Any

    def scaled(self, learning_rate: Tensor, variable: Any) -> Tensor:
        rate = ops.cast(learning_rate, variable.dtype)
        if self.rate_scales is None:
            return rate
        return rate * ops.cast(self.rate_scales[self._get_variable_index(variable)], variable.dtype)

    def decays(self, variable: Any) -> bool:
        # TensorFlow passes its own variable, whose name is another.
        own = self._trainable_variables[self._get_variable_index(variable)]
        return self.decay_norm_and_bias or own.name not in _NORM_AND_BIAS


@keras.saving.register_keras_serializable(package="keras_resnext")
class SGD(Rates, keras.optimizers.SGD):
    """`torch.optim.SGD`: weight decay is an L2 gradient, and the momentum does not hold the learning rate.

    g = gradient + l2 * w;  m = momentum * m + g;  w -= learning_rate * m  (with nesterov: g + momentum * m for m)

    Keras's own keeps `learning_rate * g` in the momentum, so that a step of the schedule takes ten updates to arrive,
    and its `weight_decay` passes by the momentum.

    Args:
        learning_rate: a number or a schedule.
        momentum, nesterov: as in PyTorch.
        l2: weight decay in PyTorch's sense.
        decay_norm_and_bias: whether it also holds for norms' gamma and beta and for biases.
        rate_scales: see `Rates`.
        options: of `keras.optimizers.SGD`, such as global_clipnorm and gradient_accumulation_steps.
    """

    def __init__(
        self,
        learning_rate: Any = 0.1,
        momentum: float = 0.0,
        nesterov: bool = False,
        l2: float = 0.0,
        decay_norm_and_bias: bool = True,
        rate_scales: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, momentum=momentum, nesterov=nesterov, **options)
        self.l2, self.decay_norm_and_bias, self.rate_scales = l2, decay_norm_and_bias, rate_scales

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        learning_rate = self.scaled(learning_rate, variable)
        gradient = ops.cast(gradient, variable.dtype)
        if self.l2 and self.decays(variable):
            gradient = gradient + variable * ops.cast(self.l2, variable.dtype)
        if self.momentum:
            momentum = self.momentums[self._get_variable_index(variable)]
            self.assign(momentum, momentum * self.momentum + gradient)
            gradient = gradient + momentum * self.momentum if self.nesterov else ops.convert_to_tensor(momentum)
        self.assign_sub(variable, learning_rate * gradient)

    def get_config(self) -> dict[str, Any]:
        names = ("l2", "decay_norm_and_bias", "rate_scales")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="keras_resnext")
class Lamb(Rates, keras.optimizers.Lamb):
    """timm's `Lamb` (optim/lamb.py): LAMB whose weight decay is inside the trust ratio (arXiv 1904.00962).

    ``u = m^ / (sqrt(v^) + epsilon) + decay * w;  w -= learning_rate * norm(w) / norm(u) * u``, with Adam's m and v.

    Keras's own takes the decay off the weights before, outside the ratio, and scales what does not decay by the ratio
    too; timm and NVIDIA's leave the ratio of gamma, beta and biases at 1 then. timm's limit of 1 for the norm of the
    whole gradient is `global_clipnorm=1.0` here.

    Args:
        learning_rate: a number or a schedule.
        beta_1, beta_2, epsilon: of the moving averages.
        decay: weight decay.
        decay_norm_and_bias: whether decay and ratio also hold for norms' gamma and beta and for biases.
        rate_scales: see `Rates`.
        options: of `keras.optimizers.Lamb`, such as global_clipnorm.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        decay: float = 0.01,
        decay_norm_and_bias: bool = False,
        rate_scales: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon, **options)
        self.decay, self.decay_norm_and_bias, self.rate_scales = decay, decay_norm_and_bias, rate_scales

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        rate, gradient = self.scaled(learning_rate, variable), ops.cast(gradient, variable.dtype)
        step, index = ops.cast(self.iterations + 1, variable.dtype), self._get_variable_index(variable)
        m, v = self._momentums[index], self._velocities[index]
        self.assign_add(m, (gradient - m) * (1 - self.beta_1))
        self.assign_add(v, (ops.square(gradient) - v) * (1 - self.beta_2))
        first = 1 - ops.power(ops.cast(self.beta_1, variable.dtype), step)
        second = 1 - ops.power(ops.cast(self.beta_2, variable.dtype), step)
        update = (m / first) / (ops.sqrt(v) / ops.sqrt(second) + self.epsilon)
        if self.decay and self.decays(variable):
            update = update + variable * ops.cast(self.decay, variable.dtype)
            norms = ops.sqrt(ops.sum(ops.square(variable))), ops.sqrt(ops.sum(ops.square(update)))
            known = ops.logical_and(norms[0] > 0, norms[1] > 0)
            update = update * ops.where(known, norms[0] / ops.where(known, norms[1], 1.0), 1.0)
        self.assign_sub(variable, rate * update)

    def get_config(self) -> dict[str, Any]:
        names = ("decay", "decay_norm_and_bias", "rate_scales")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="keras_resnext")
class AdamW(Rates, keras.optimizers.AdamW):
    """Keras's AdamW, with `decay_norm_and_bias` and `rate_scales` as `Rates` has them; the decay takes both too."""

    def __init__(
        self,
        learning_rate: Any = 0.001,
        weight_decay: float = 0.004,
        decay_norm_and_bias: bool = True,
        rate_scales: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, **options)
        self.decay_norm_and_bias, self.rate_scales = decay_norm_and_bias, rate_scales

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        rate = self.scaled(learning_rate, variable)
        if self.weight_decay and self.decays(variable):
            self.assign_sub(variable, variable * ops.cast(self.weight_decay, variable.dtype) * rate)
        super().update_step(gradient, variable, rate)

    def _apply_weight_decay(self, variables: Any) -> None:
        """`update_step` does, at each variable's own rate."""

    def get_config(self) -> dict[str, Any]:
        names = ("decay_norm_and_bias", "rate_scales")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


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


def layer_scales(model: keras.Model, decay: float) -> list[float]:
    """What the learning rate of each trainable variable is multiplied by: decay^(steps from the head).

    The stem is the first step, each block one more, and the head the last (timm's `param_groups_layer_decay` with
    the groups of its ResNet).

    Raises:
        ValueError: the model has no blocks named as this package's.
    """
    blocks = dict.fromkeys(
        found[0] for layer in model._flatten_layers() if (found := re.match(r"layer\d+_\d+", layer.name))
    )
    if not blocks:
        raise ValueError(f"layer_decay={decay!r} is for models of ResNeXt; {model.name!r} has no blocks named layer1_0")
    place = {name: i for i, name in enumerate(blocks, start=1)}
    head = len(place) + 1

    def step(path: str) -> int:
        names = path.split("/")
        block = next((found[0] for name in names if (found := re.match(r"layer\d+_\d+", name))), None)
        if block is not None:
            return place[block]
        return 0 if any(re.match("conv1|bn1|stem", name) for name in names) else head

    return [decay ** (head - step(variable.path)) for variable in model.trainable_variables]


def make_optimizer(model: keras.Model, recipe: Recipe, steps_per_epoch: int, *, head: bool = False) -> Any:
    """The recipe's optimizer with its schedule; `head` for the epochs in which only the head learns."""
    rate: Any = recipe.peak_rate * recipe.head_rate if head else make_schedule(recipe, steps_per_epoch)
    options: dict[str, Any] = {
        "global_clipnorm": recipe.clip_norm,
        "gradient_accumulation_steps": recipe.accumulate if recipe.accumulate > 1 else None,
        "decay_norm_and_bias": recipe.decay_norm_and_bias,
        "rate_scales": None if recipe.layer_decay is None else layer_scales(model, recipe.layer_decay),
    }
    if recipe.optimizer == "adamw":
        return AdamW(rate, recipe.weight_decay, **options)
    if recipe.optimizer == "lamb":
        return Lamb(rate, decay=recipe.weight_decay, **options)
    return SGD(rate, recipe.momentum, recipe.nesterov, l2=recipe.weight_decay, **options)
