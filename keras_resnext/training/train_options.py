"""What a run of training can be told beside its recipe. The command line's options are made from these fields."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")

_NETWORK, _IMAGES, _RUN, _PROCESSES = "Network", "Images", "Run", "Several processes (JAX)"
_TEACHER = "Teacher"

KINDS = ("auto", "single", "multi")
TRACKERS = ("mlflow", "wandb")


@dataclass(frozen=True)
class NetworkOptions:
    """The network to train, and a run is resumed with the same one.

    Attributes:
        model: name of an architecture.
        weights: published weights or a file of them; None for random ones.
        options: of `ResNeXt`.
        channels: of the images: 3 for RGB, 1 for grey, others for TIFF files and .npy arrays.
        precision: policy of the layers; None for mixed_bfloat16 on GPUs and float32 on CPUs.
        sync_bn: whether BatchNorm's statistics are those of all devices.
    """

    model: str = field(
        default="resnext50_32x4d", metadata={"panel": _NETWORK, "help": "Architecture (`keras-resnext list`)."}
    )
    weights: str | None = field(
        default=None,
        metadata={
            "panel": _NETWORK,
            "help": "Start from published weights (imagenet, torchvision, a full name), hf://OWNER/NAME, or a file.",
        },
    )
    options: Mapping[str, Any] = field(
        default_factory=dict,
        metadata={
            "panel": _NETWORK, "name": "--option", "metavar": "NAME=VALUE",
            "help": "Option of ResNeXt, such as frozen_stages=2 or blocks=[1,1,1]; can be repeated.",
        },
    )  # fmt: skip
    channels: int = field(
        default=3,
        metadata={
            "panel": _NETWORK, "min": 1,
            "help": "Channels of the images: 3 for RGB, 1 for grey; others for .npy arrays and TIFF files.",
        },
    )  # fmt: skip
    precision: str | None = field(
        default=None,
        metadata={
            "panel": _NETWORK, "choices": PRECISIONS,
            "help": f"{', '.join(PRECISIONS)}; default mixed_bfloat16 on GPUs and float32 on CPUs.",
        },
    )  # fmt: skip
    sync_bn: bool = field(
        default=False, metadata={"panel": _NETWORK, "help": "Compute BatchNorm's statistics over all devices."}
    )


@dataclass(frozen=True)
class ImageOptions:
    """Which images validate, and what happens to unreadable ones.

    Attributes:
        val: None for DIR/val, else a tenth of the images; a share; "none"; or what `read_listing` takes.
        strict: whether one unreadable image is an error.
        skip_limit: how many may be skipped; None for a hundredth of them, at least one.
        labels: "single" for one class an image, "multi" for any number of labels; "auto" as the data has it.
    """

    val: str | None = field(
        default=None,
        metadata={"panel": _IMAGES, "help": "Validation images (as DIR), a share of DIR such as 0.1, or none."},
    )
    strict: bool = field(default=False, metadata={"panel": _IMAGES, "help": "Stop at the first unreadable image."})
    skip_limit: int | None = field(
        default=None,
        metadata={"panel": _IMAGES, "min": 0, "help": "How many unreadable images may be skipped; default 1 %."},
    )
    labels: str = field(
        default="auto",
        metadata={
            "panel": _IMAGES, "choices": KINDS,
            "help": "single (one class an image) or multi (any number of labels); default as the data has it.",
        },
    )  # fmt: skip


@dataclass(frozen=True)
class RunOptions:
    """How a run goes, whatever the network and the recipe.

    Attributes:
        seed: of the order and of every variation. The weights a model starts with are the caller's.
        validation_size: side of the validation images; default that of the model, else of its preprocessing.
        save_steps, save_seconds: how often checkpoint.npz is written inside an epoch.
        engine, workers: of `data.training_batches`.
        cache: keep the encoded training images in memory.
        tensorboard: also write the figures of each epoch for TensorBoard, into `output`/tensorboard.
        track: "mlflow" or "wandb", to show the settings and figures there too; their environment variables say where.
        arguments: what else makes the run what it is; a run is resumed by the same ones alone.
        command: what else run.json remembers.
        after_epoch: called with all rows of history.csv after every epoch.
        found: what of the recipe was found instead of given, as of `found.settle`; a resumed run takes it from there.
        again: what goes on with the run, which is told where it is stopped.
    """

    seed: int = field(
        default=0, metadata={"panel": _RUN, "min": 0, "help": "Seed of weights, order and image variations."}
    )
    validation_size: int | None = field(
        default=None,
        metadata={
            "panel": _IMAGES, "name": "--val-size", "min": 1, "help": "Side of the validation images in pixels.",
        },
    )  # fmt: skip
    save_steps: int | None = field(
        default=None,
        metadata={"panel": _RUN, "min": 1, "help": "Save the state after every N steps; default every ten minutes."},
    )
    save_seconds: float = 600
    engine: str = "auto"
    cache: bool = field(default=False, metadata={"panel": _RUN, "help": "Keep the encoded images in memory."})
    workers: int | None = field(
        default=None, metadata={"panel": _RUN, "min": 1, "help": "Threads that prepare images; default all cores."}
    )
    tensorboard: bool = field(
        default=False, metadata={"panel": _RUN, "help": "Also write the figures of each epoch for TensorBoard."}
    )
    track: str | None = field(
        default=None,
        metadata={
            "panel": _RUN, "choices": TRACKERS, "help": "Also log to MLflow (mlflow) or Weights & Biases (wandb).",
        },
    )  # fmt: skip
    arguments: Mapping[str, Any] = field(default_factory=dict)
    command: Mapping[str, Any] = field(default_factory=dict)
    found: Mapping[str, Any] = field(default_factory=dict)
    after_epoch: Callable[[Sequence[Mapping[str, float]]], None] | None = None
    again: str = "the same call of keras_resnext.training.train"

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "RunOptions":
        """From keyword arguments.

        Raises:
            TypeError: an unknown one, with what is near it or all that there are.
        """
        known = [each.name for each in fields(cls)]
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                rest = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}"
                raise TypeError(f"train() has no option {name!r}; {rest}")
        return cls(**{name: value for name, value in options.items() if value is not None})


@dataclass(frozen=True)
class TeacherOptions:
    """Who teaches; see `distillation.Distillation`."""

    teacher: str | None = field(
        default=None,
        metadata={
            "panel": _TEACHER,
            "metavar": "MODEL",
            "help": "Also learn from this model's scores: any Keras model.",
        },
    )
    teacher_preprocessing: str | None = field(
        default=None,
        metadata={
            "panel": _TEACHER, "metavar": "NAME|FILE",
            "help": "How the teacher takes its images, where it does not say: imagenet, none, tf, caffe or a file.",
        },
    )  # fmt: skip
    distill_weight: float | None = field(
        default=None, metadata={"panel": _TEACHER, "help": "Share of the teacher in the loss; default 0.9."}
    )
    temperature: float | None = field(
        default=None, metadata={"panel": _TEACHER, "help": "Softens both models' scores; default 4."}
    )


@dataclass(frozen=True)
class ProcessOptions:
    """Which of several processes this is; see `distribution.join`."""

    coordinator: str | None = field(
        default=None,
        metadata={
            "panel": _PROCESSES, "metavar": "HOST:PORT", "help": "Address of process 0, which all can reach.",
        },
    )  # fmt: skip
    processes: int | None = field(
        default=None, metadata={"panel": _PROCESSES, "min": 1, "help": "Number of processes."}
    )
    process: int | None = field(
        default=None, metadata={"panel": _PROCESSES, "min": 0, "help": "Number of this process, from 0."}
    )


@dataclass(frozen=True)
class TrainOptions:
    """What the command decides before a run begins.

    Attributes:
        recipe: a name of `RECIPES`.
        settings: fields of `Recipe` or `Augmentation` to values in place of the recipe's.
        output: folder for all results.
        dry_run: draw a batch and the learning rate, and train nothing.
        search: number of short runs that search for the best learning rate, weight decay and image variations.
    """

    recipe: str = field(
        default="finetune",
        metadata={"panel": "Recipe", "help": "finetune, paper (or mmcls), cifar, modern, a1, a2 or a3."},
    )
    settings: Mapping[str, Any] = field(
        default_factory=dict,
        metadata={
            "panel": "Recipe", "name": "--set", "metavar": "FIELD=VALUE",
            "help": "Any field of the recipe, such as momentum=0.95 or crop_ratio=[1,1]; can be repeated.",
        },
    )  # fmt: skip
    output: Path | None = field(
        default=None,
        metadata={
            "panel": _RUN,
            "help": "Folder for all results; default runs/DIR-MODEL-RECIPE. An interrupted run is resumed.",
        },
    )
    dry_run: bool = field(
        default=False,
        metadata={"panel": _RUN, "help": "Train nothing; draw a batch and the learning rate into the output."},
    )
    search: int | None = field(
        default=None,
        metadata={
            "panel": _RUN, "min": 1,
            "help": "Compare N learning rates, weight decays and strengths of variation by short runs.",
        },
    )  # fmt: skip
