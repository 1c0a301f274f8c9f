"""Everything that training does with a model and images, as one value."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ..data.augmentation import Augmentation
from .tasks import LOSSES

SCHEDULES = ("step", "cosine", "constant")
OPTIMIZERS = ("sgd", "adamw", "lamb")
DROP_PATH_RULES = ("constant", "linear")
SIZES = 4  # that `progressive_size` goes through

_RECIPE, _OPTIMIZER, _SCHEDULE = "Recipe", "Optimizer", "Schedule"


def _read_epochs(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"milestones={text!r} must be numbers of epochs, such as 30,60,90") from None


def _number_or(word: str, name: str, kind: type) -> Callable[[str], Any]:
    """Reads a number, or the word for one that is found before training (`found.WORDS`)."""

    def read(text: str) -> Any:
        try:
            return word if text == word else kind(text)
        except ValueError:
            whole = "a whole number" if kind is int else "a number"
            raise ValueError(f"{name}={text!r} must be {whole} or {word!r}") from None

    return read


_PATIENCE = 3  # below it is chance that stops a run


def _read_patience(text: str) -> int | None:
    if text in ("none", "0"):
        return None
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"patience={text!r} must be a number of epochs, or none") from None


@dataclass(frozen=True)
class Recipe:
    """Everything that training does with a model and images.

    Attributes:
        epochs: passes over the images, those of the head alone included.
        batch_size: images a step, of all processes together.
        learning_rate: at `base_batch_size` images; it scales with the batch (arXiv 1706.02677).
        base_batch_size: see `learning_rate`.
        optimizer: "sgd" (PyTorch's), "adamw" or "lamb" (timm's).
        momentum, nesterov: of SGD.
        weight_decay: L2 for SGD, decoupled for AdamW, inside the trust ratio for LAMB.
        decay_norm_and_bias: whether it holds for norms and biases too.
        schedule, milestones, factor, warmup_epochs: see `optimizers.Schedule`; milestones count the head's epochs too.
        layer_decay: what the learning rate is multiplied by from each block to the one before it (0.65 to 0.9 for
            fine-tuning, as timm's --layer-decay); None for one rate.
        loss: "cross_entropy", "bce" (a yes or no for each class) or "focal"; None: cross-entropy for one class an
            image, BCE for several labels.
        target_threshold: of BCE: mixed targets above it count as 1, others as 0 (timm's --bce-target-thresh).
        sum_labels: whether BCE adds the labels' losses, so that a rate fits any number of them, or takes their mean.
        class_weights: "balanced", a file of names and weights, or a number a class; see `weights_of`.
        balanced_sampling: whether each epoch draws each class equally often; its length stays.
        label_smoothing: share of the target that is spread over all classes (arXiv 1512.00567).
        clip_norm: largest norm of the whole gradient, None for any.
        accumulate: steps whose gradients are averaged for one update.
        ema: length of the moving average of weights and statistics as a share of the training, 0 for none;
            torchvision's 0.99998 at 600 epochs of ImageNet is 0.04.
        head_epochs: at first only the head learns, so long, at `head_rate` times the rate.
        drop_path_rate, drop_path_rule: of the model; "linear" rises from 0 at the first block, as timm's.
        progressive_size: side of the first images; it grows in four equal parts of the training to that of
            `augmentation`. None for one size.
        test_size: side of the validation images; None for that of the model.
        test_crop: share of the shorter side that validation images keep; None for 0.875.
        augmentation: of the images.
        patience: epochs without a better validation after which training stops, those of the head not counted; None
            for never.
        source: where it comes from.
    """

    epochs: int = field(
        default=100,
        metadata={"panel": _SCHEDULE, "min": 1, "help": "Passes over the images; stretches the schedule."},
    )
    batch_size: int = field(
        default=256,
        metadata={
            "panel": _OPTIMIZER, "type": str, "read": _number_or("auto", "batch_size", int), "metavar": "N|auto",
            "help": "Images per step; scales the learning rate. auto: the largest that fits the memory.",
        },
    )  # fmt: skip
    learning_rate: float = field(
        default=0.1,
        metadata={
            "panel": _OPTIMIZER, "type": str, "read": _number_or("find", "learning_rate", float), "also": ("--lr",),
            "metavar": "RATE|find",
            "help": "Learning rate at the recipe's own batch size. find: tests rising rates first, and draws lr.png.",
        },
    )  # fmt: skip
    base_batch_size: int = 256
    optimizer: str = field(
        default="sgd", metadata={"panel": _OPTIMIZER, "choices": OPTIMIZERS, "help": "sgd (PyTorch's), adamw or lamb."}
    )
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = field(
        default=1e-4, metadata={"panel": _OPTIMIZER, "help": "L2 for sgd, decoupled for adamw."}
    )
    decay_norm_and_bias: bool = field(
        default=True, metadata={"panel": "Norms and biases", "help": "Apply weight decay to norms and biases too."}
    )
    schedule: str = field(
        default="constant", metadata={"panel": _SCHEDULE, "choices": SCHEDULES, "help": "step, cosine or constant."}
    )
    milestones: tuple[int, ...] = field(
        default=(),
        metadata={
            "panel": _SCHEDULE, "type": str, "read": _read_epochs,
            "help": "Epochs after which --schedule step divides the rate by 10, such as 30,60,90.",
        },
    )  # fmt: skip
    factor: float = 0.1
    warmup_epochs: float = field(
        default=0, metadata={"panel": _SCHEDULE, "help": "Epochs during which the learning rate rises."}
    )
    layer_decay: float | None = field(
        default=None,
        metadata={
            "panel": _OPTIMIZER,
            "help": "Learning rate of a block as a share of the next one's, such as 0.8.",
        },
    )
    loss: str | None = field(
        default=None,
        metadata={
            "panel": _RECIPE, "choices": LOSSES,
            "help": "cross_entropy, bce or focal; default cross_entropy, for several labels bce.",
        },
    )  # fmt: skip
    target_threshold: float | None = None
    sum_labels: bool = True
    class_weights: str | tuple[float, ...] | None = field(
        default=None,
        metadata={
            "panel": _RECIPE, "type": str, "read": lambda text: text,
            "help": "balanced, or a CSV or JSON file of class names and weights in the loss.",
        },
    )  # fmt: skip
    balanced_sampling: bool = field(
        default=False, metadata={"panel": _RECIPE, "help": "Draw each class equally often in an epoch."}
    )
    label_smoothing: float = field(
        default=0.0, metadata={"panel": _RECIPE, "help": "Share of the target that is spread over all classes."}
    )
    clip_norm: float | None = field(
        default=None, metadata={"panel": _OPTIMIZER, "help": "Largest norm of the whole gradient."}
    )
    accumulate: int = field(
        default=1, metadata={"panel": _OPTIMIZER, "min": 1, "help": "Average the gradients of N steps for each update."}
    )
    ema: float = field(
        default=0.0,
        metadata={"panel": _RECIPE, "help": "Share of the training that averages the weights; 0 for none."},
    )
    head_epochs: int = field(
        default=0,
        metadata={"panel": _RECIPE, "min": 0, "help": "Epochs that train only the head first."},
    )
    head_rate: float = 10.0
    drop_path_rate: float = field(
        default=0.0, metadata={"panel": _RECIPE, "help": "Probability of dropping a residual branch."}
    )
    drop_path_rule: str = "constant"
    progressive_size: int | None = field(
        default=None,
        metadata={"panel": "Images", "min": 1, "help": "Side of the first images, which grow to --image-size."},
    )
    test_size: int | None = None
    test_crop: float | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    patience: int | None = field(
        default=None,
        metadata={
            "panel": _SCHEDULE, "type": str, "read": _read_patience, "metavar": "N|none",
            "help": "Stop after N epochs without a better one; none for never.",
        },
    )  # fmt: skip
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "base_batch_size", "accumulate", "patience"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}={value!r} must be at least 1")
        for name in ("learning_rate", "factor", "head_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)!r} must be above 0")
        numbers = {name: value for name, value in vars(self).items() if isinstance(value, float)}
        if wrong := [name for name, value in numbers.items() if not math.isfinite(value)]:
            raise ValueError(f"{wrong[0]}={numbers[wrong[0]]!r} must be a finite number")
        choices = {"schedule": SCHEDULES, "optimizer": OPTIMIZERS, "drop_path_rule": DROP_PATH_RULES}
        for name, known in (choices | ({"loss": LOSSES} if self.loss is not None else {})).items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} must be one of {', '.join(known)}")
        if self.schedule == "step" and not self.milestones:
            raise ValueError("schedule='step' needs milestones, epochs after which the rate falls, such as 30,60,90")
        if any(later < earlier for earlier, later in zip((1, *self.milestones), self.milestones, strict=False)):
            raise ValueError(f"milestones={self.milestones!r} must be epochs from 1 on, in ascending order")
        for name in ("momentum", "label_smoothing", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must be at least 0 and below 1")
        for name in ("layer_decay", "target_threshold", "test_crop"):
            if (share := getattr(self, name)) is not None and not 0 < share <= 1:
                raise ValueError(f"{name}={share!r} must be above 0 and at most 1")
        if self.progressive_size is not None and not 1 <= self.progressive_size <= self.augmentation.size:
            raise ValueError(
                f"progressive_size={self.progressive_size!r} must lie in 1..{self.augmentation.size}, the side of the "
                "last images"
            )
        if not 0 <= self.head_epochs <= self.epochs:
            raise ValueError(f"head_epochs={self.head_epochs!r} must lie in 0..epochs={self.epochs}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay={self.weight_decay!r} must not be negative")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"clip_norm={self.clip_norm!r} must be above 0")

    @property
    def peak_rate(self) -> float:
        """The learning rate at this batch size, gradients that are accumulated counted in."""
        return self.learning_rate * self.batch_size * self.accumulate / self.base_batch_size

    def image_size(self, epoch: int) -> int:
        """Side of the training images of an epoch, counted from 0; multiples of 32 where the last side is one."""
        last = self.augmentation.size
        if self.progressive_size is None:
            return last
        part = min(epoch * SIZES // self.epochs, SIZES - 1)
        step = 32 if last % 32 == 0 and self.progressive_size >= 32 else 1
        size = self.progressive_size + (last - self.progressive_size) * part / (SIZES - 1)
        return last if part == SIZES - 1 else max(step, round(size / step) * step)

    def shortened(self, epochs: int) -> "Recipe":
        """The same in another number of epochs: milestones, warm-up, the head's epochs and the patience move along."""
        share = epochs / self.epochs
        return replace(
            self,
            epochs=epochs,
            milestones=tuple(max(1, round(milestone * share)) for milestone in self.milestones),
            warmup_epochs=self.warmup_epochs * min(share, 1),
            patience=self.patience and max(_PATIENCE, round(self.patience * share)),
            head_epochs=min(round(self.head_epochs * min(share, 1)) or min(self.head_epochs, 1), epochs),
        )
