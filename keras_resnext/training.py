"""Training from pictures on disk: any recipe, interrupted at any moment and resumed with nothing lost."""

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from rich.console import Console

from . import distribution
from .data import Listing, Plan, ValidationBatches, training_batches
from .keras_files import save_keras
from .optimizers import SGD, Schedule
from .plots import draw_history
from .preprocessing import get_preprocessing
from .recipes import Recipe
from .training_callbacks import Guard, MovingAverage, ProgressBar, TrainingDivergedError
from .training_state import SavedState, save_state

Tensor = Any

CHECKPOINT, RUN, HISTORY, CURVES = "checkpoint.npz", "run.json", "history.csv", "curves.png"
BEST, LAST, LABELS = "best.keras", "last.keras", "labels.txt"


@dataclass(frozen=True)
class TrainingResult:
    """What `train` made.

    Attributes:
        best, last: .keras files of the epoch with the highest top-1 and of the last one.
        top1: the highest share of validation pictures (of training pictures, where there are none) that is right.
        epoch: the one, from 1, that `best` is of.
        history: one dictionary an epoch: loss, top1, top5, val_loss, val_top1, val_top5, learning_rate, seconds.
    """

    best: Path
    last: Path
    top1: float
    epoch: int
    history: tuple[Mapping[str, float], ...]


@keras.saving.register_keras_serializable(package="keras_resnext")
class CrossEntropy(keras.losses.Loss):
    """Cross-entropy of probabilities with smoothed labels, in nats.

    Keras's own cuts probabilities off at 1e-7 except in TensorFlow's graphs; a picture that is hopelessly wrong would
    teach nothing.

    Args:
        label_smoothing: share of the target that is spread over all classes.
    """

    def __init__(self, label_smoothing: float = 0.0, name: str = "cross_entropy", **options: Any) -> None:
        super().__init__(name=name, **options)
        self.label_smoothing = label_smoothing

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return cross_entropy(y_true, y_pred, self.label_smoothing)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


def cross_entropy(targets: Tensor, probabilities: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """-sum(target * log(probability)): (n, classes) and (n, classes) to (n,)."""
    probabilities = ops.cast(probabilities, "float32")
    targets = ops.cast(targets, "float32") * (1 - label_smoothing) + label_smoothing / probabilities.shape[-1]
    return -ops.sum(targets * ops.log(ops.maximum(probabilities, np.finfo("float32").tiny)), axis=-1)


def compile_model(model: keras.Model, recipe: Recipe, steps_per_epoch: int, *, head: bool = False) -> None:
    """Compiles for a recipe: optimizer, schedule, loss and metrics; on a GPU the whole step by XLA.

    Args:
        head: for the epochs in which only the head learns.
    """
    epochs = recipe.head_epochs if head else recipe.epochs - recipe.head_epochs
    if head:
        rate: Any = recipe.peak_rate * recipe.head_rate
    else:
        warmup = min(recipe.warmup_epochs, epochs / 2)
        rate = Schedule(
            recipe.peak_rate, steps_per_epoch, epochs, recipe.schedule, recipe.milestones, recipe.factor, warmup
        )
    options: dict[str, Any] = {"global_clipnorm": recipe.clip_norm}
    options |= {"gradient_accumulation_steps": recipe.accumulate if recipe.accumulate > 1 else None}
    if recipe.optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay, **options)
        if not recipe.decay_norm_and_bias:
            optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    else:
        options |= {"l2": recipe.weight_decay, "decay_norm_and_bias": recipe.decay_norm_and_bias}
        optimizer = SGD(rate, recipe.momentum, recipe.nesterov, **options)
    classes = int(model.outputs[0].shape[-1])

    def metrics() -> list[keras.metrics.Metric]:
        found = [keras.metrics.CategoricalAccuracy("top1")]
        if classes > 5:
            found.append(keras.metrics.TopKCategoricalAccuracy(5, "top5"))
        return [*found, keras.metrics.MeanMetricWrapper(cross_entropy, "cross_entropy")]

    model.compile(
        optimizer, CrossEntropy(recipe.label_smoothing), weighted_metrics=metrics(), jit_compile=compiles_by_xla()
    )
    model.optimizer.build(model.trainable_variables)


def compiles_by_xla() -> bool:
    """Whether a training step is compiled as a whole: on GPUs, and always on JAX.

    On a CPU TensorFlow's own kernels are faster: on 2 AVX2 cores a step of ResNeXt-50 took 1.27 to 1.52 times
    PyTorch's without XLA and 1.6 times with it.
    """
    return keras.backend.backend() == "jax" or distribution.has_gpu()


def train(
    model: keras.Model,
    training: Listing,
    validation: Listing | None = None,
    *,
    recipe: Recipe,
    output: str | os.PathLike[str],
    seed: int = 0,
    validation_size: int | None = None,
    save_steps: int | None = None,
    save_seconds: float = 600,
    engine: str = "auto",
    cache: bool = False,
    workers: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> TrainingResult:
    """Trains a classifier, or goes on where an interrupted run stopped.

    Writes into `output`: best.keras and last.keras (after every epoch), labels.txt, history.csv, curves.png, run.json,
    and checkpoint.npz, from which the same call goes on, in the middle of an epoch too. On a CPU the result is then
    bit-equal to that of a run without a stop.

    Args:
        model: classifier with probabilities as outputs, such as `ResNeXt50(classes=…)`.
        training, validation: pictures with as many classes as the model; without validation, best is by training.
        recipe: of `recipes.find_recipe`.
        output: folder.
        seed: of the order and of every variation. The weights a model starts with are the caller's.
        validation_size: side of the validation pictures; default that of the model, else of its preprocessing.
        save_steps, save_seconds: how often checkpoint.npz is written inside an epoch.
        engine, cache, workers: of `data.training_batches`.
        arguments: what else run.json remembers; a run is resumed by the same arguments alone.
        console: where to print; default standard output.

    Raises:
        ValueError: model and pictures that do not fit, or a checkpoint of a run with other arguments.
        RuntimeError: the loss became NaN or infinite, or another process was lost; the last checkpoint is kept.
        OSError: the disk refuses; the last checkpoint is kept.
        SystemExit: SIGTERM or Ctrl-C, after the step was finished and saved.
    """
    console = console or Console(highlight=False)
    folder = Path(output)
    classes = tuple(model.outputs[0].shape)[-1]
    if classes != len(training.classes):
        raise ValueError(f"model={model.name!r} has {classes} classes, the pictures have {len(training.classes)}")
    if validation is not None and validation.classes != training.classes:
        raise ValueError("validation must have the same classes as training")
    shard = distribution.shard()
    plan = Plan(len(training), recipe.batch_size, seed, recipe.augmentation.repeats, shard)
    if recipe.batch_size % (devices := distribution.devices()):
        raise ValueError(f"batch_size={recipe.batch_size!r} must be a multiple of the {devices} devices")
    run = _describe_run(training, validation, recipe, seed, arguments or {})
    saved = _find_checkpoint(folder, run)
    if shard[0]:  # the first process speaks and writes for all
        console = Console(quiet=True)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / RUN, json.dumps(run, indent=2) + "\n")
        _write(folder / LABELS, "".join(f"{name}\n" for name in training.classes))

    session = _Session(model, plan, recipe, folder, console, save_steps, save_seconds)
    if saved:
        session.resume(saved)
        console.print(f"Resuming at epoch {session.step // plan.steps_per_epoch + 1}, step {session.step}.")
    preprocessing = get_preprocessing(model)
    held_out = None
    if validation is not None:
        size = validation_size or model.inputs[0].shape[1] or preprocessing.size
        held_out = ValidationBatches(
            validation, preprocessing, size=size, batch_size=recipe.batch_size, shard=shard, workers=workers
        )

    def batches(steps: range) -> Any:
        return training_batches(
            training, plan, recipe.augmentation, preprocessing, steps, engine=engine, cache=cache, workers=workers
        )

    try:
        session.run(batches, held_out)
    except (TrainingDivergedError, OSError):
        raise
    except Exception as error:
        if shard[1] == 1:
            raise
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise distribution.ProcessLostError(
            f"process {shard[0]} of {shard[1]} lost the others ({first}); start all of them again to go on from the "
            "last checkpoint"
        ) from error
    return TrainingResult(folder / BEST, folder / LAST, session.best, session.best_epoch, tuple(session.history))


class _Session:
    """A run in progress: where it is, what it has seen, and how that is saved."""

    def __init__(
        self,
        model: keras.Model,
        plan: Plan,
        recipe: Recipe,
        folder: Path,
        console: Console,
        save_steps: int | None,
        save_seconds: float,
    ) -> None:
        self.model, self.plan, self.recipe, self.folder, self.console = model, plan, recipe, folder, console
        self.save_steps, self.save_seconds, self.saved_at = save_steps, save_seconds, time.monotonic()
        self.writes = plan.shard[0] == 0
        self.step = 0
        self.best, self.best_epoch = -1.0, 0
        self.history: list[dict[str, float]] = []
        self.spent = 0.0  # seconds in this epoch before the last resumption
        self.started = time.monotonic()
        self.saved: SavedState | None = None
        self.trainable = [(layer, layer.trainable) for layer in _leaves(model)]
        spe, length = plan.steps_per_epoch, recipe.ema * recipe.epochs * plan.steps_per_epoch
        warm = int((recipe.head_epochs + recipe.warmup_epochs) * spe)
        self.average = MovingAverage(model, length, warm) if recipe.ema else None

    def resume(self, saved: SavedState) -> None:
        self.saved = saved
        self.step, self.best = saved.state["step"], saved.state["best"]
        self.best_epoch, self.history = saved.state["best_epoch"], saved.state["history"]
        self.spent = saved.state["spent"]
        saved.restore("model", self.model.variables)
        if self.average:
            saved.restore("average", self.average.weights)
            self.average.step = self.step

    def run(self, batches: Callable[[range], Any], held_out: ValidationBatches | None) -> None:
        recipe, spe = self.recipe, self.plan.steps_per_epoch
        bar = ProgressBar(self.console, recipe.epochs * spe, self.step, self.plan.batch_size, recipe.epochs)
        try:
            with bar.progress:
                for head, epochs in (
                    (True, range(recipe.head_epochs)),
                    (False, range(recipe.head_epochs, recipe.epochs)),
                ):
                    left = range(max(epochs.start, self.step // spe), epochs.stop)
                    if not left or self._has_stopped():
                        continue
                    self._begin_phase(head)
                    for epoch in left:
                        self._run_epoch(epoch, head, batches, held_out, bar)
                        if self._has_stopped():
                            self.console.print(f"No better validation for {recipe.patience} epochs: stopped.")
                            break
        finally:
            self._set_trainable(False)

    def _has_stopped(self) -> bool:
        patience = self.recipe.patience
        return patience is not None and len(self.history) - self.best_epoch >= patience and bool(self.history)

    def _begin_phase(self, head: bool) -> None:
        self._set_trainable(head)
        compile_model(self.model, self.recipe, self.plan.steps_per_epoch, head=head)
        if self.saved is not None and self.saved.state["head"] == head:
            self.saved.restore("optimizer", self.model.optimizer.variables)

    def _set_trainable(self, head: bool) -> None:
        """Freezes all but the last layer for the head's epochs; gives every layer back what it had otherwise."""
        last = [layer for layer, _ in self.trainable if layer.weights][-1]
        for layer, own in self.trainable:
            layer.trainable = own and (layer is last or not head)

    def _run_epoch(
        self,
        epoch: int,
        head: bool,
        batches: Callable[[range], Any],
        held_out: ValidationBatches | None,
        bar: ProgressBar,
    ) -> None:
        spe = self.plan.steps_per_epoch
        self.started = time.monotonic()

        def describe(step: int) -> str:
            rate = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))
            where = f"in epoch {epoch + 1}, step {step - epoch * spe} of {spe} (learning rate {rate:.3g})"
            kept = self.folder / CHECKPOINT
            return f"{where}; " + (f"the last good state is {kept}" if kept.exists() else "nothing was saved before")

        steps = range(self.step, (epoch + 1) * spe)
        guard = Guard(steps, lambda step: self._save(step, head, guard), self._is_due, describe)
        watchers = [bar, *([self.average] if self.average else []), guard]
        if self.saved is not None:
            watchers.insert(0, _RestoreMetrics(self.saved))
        with guard.listening():
            done = self.model.fit(
                batches(steps), initial_epoch=epoch, epochs=epoch + 1, verbose=0, shuffle=False, callbacks=watchers
            )
            self.saved, self.step = None, steps.stop
            logs = {name: float(values[-1]) for name, values in done.history.items() if name != "cross_entropy"}
            logs["learning_rate"] = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))
            self._finish_epoch(epoch, logs, held_out)
            self._save(self.step, head, None)
            guard.leave_if_asked()

    def _finish_epoch(self, epoch: int, logs: dict[str, float], held_out: ValidationBatches | None) -> None:
        """Validates, with the moving average where there is one, and writes what a user looks at."""
        with self.average.applied(self.model) if self.average else nullcontext():
            if held_out is not None:
                found = self.model.evaluate(held_out, return_dict=True, verbose=0)
                found["loss"] = found.pop("cross_entropy")  # the mean over pictures, without smoothing
                logs |= {f"val_{name}": float(value) for name, value in found.items()}
            logs["seconds"] = round(self.spent + time.monotonic() - self.started, 3)
            self.spent = 0.0
            self.history.append({"epoch": epoch + 1, **logs})
            score = logs.get("val_top1", logs["top1"])
            better = score > self.best
            if better:
                self.best, self.best_epoch = score, epoch + 1
            for name in (LAST, *([BEST] if better else [])) if self.writes else ():
                with distribution.apart(), _bare(self.model):
                    save_keras(self.model, self.folder / name)
        self._tell(logs)
        if self.writes:
            write_history(self.folder / HISTORY, self.history)
            draw_history(self.folder / CURVES, self.history)

    def _is_due(self, step: int) -> bool:
        if self.save_steps:
            return step % self.save_steps == 0
        return time.monotonic() - self.saved_at > self.save_seconds

    def _save(self, step: int, head: bool, guard: Guard | None) -> None:
        self.saved_at = time.monotonic()
        model = guard.model if guard else self.model  # on JAX, asking a callback for its model fetches its weights
        if not self.writes:
            return
        groups = {"model": model.variables, "optimizer": model.optimizer.variables, "metrics": model.metrics_variables}
        if self.average:
            groups["average"] = self.average.weights
        state = {
            "step": step,
            "head": head,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "history": self.history,
            "inside": guard is not None,  # of an epoch
            "spent": self.spent + time.monotonic() - self.started if guard else 0.0,
        }
        with distribution.apart():
            save_state(self.folder / CHECKPOINT, groups, state)

    def _tell(self, logs: Mapping[str, float]) -> None:
        shown = ("loss", "top1", "val_loss", "val_top1", "val_top5")
        text = "  ".join(f"{name} {logs[name]:.4f}" for name in shown if name in logs)
        self.console.print(f"epoch {len(self.history)}/{self.recipe.epochs}  {text}  {logs['seconds']:.0f} s")


class _RestoreMetrics(keras.callbacks.Callback):
    """In the epoch that is resumed, the metrics go on counting where they were.

    They exist from the first step on, and are sums: what was saved is added then.
    """

    def __init__(self, saved: SavedState) -> None:
        super().__init__()
        self.saved: SavedState | None = saved

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.saved is not None and self.saved.state["inside"]:
            now = self.model.metrics_variables
            counted = [ops.convert_to_numpy(variable) for variable in now]
            self.saved.restore("metrics", now)
            for variable, count in zip(now, counted, strict=True):
                variable.assign_add(count)
        self.saved = None


@contextmanager
def _bare(model: keras.Model) -> Iterator[None]:
    """Without what compiling added: a file of the model alone is a third as large, and loads without this module."""
    optimizer, model.optimizer, model.compiled = model.optimizer, None, False
    try:
        yield
    finally:
        model.optimizer, model.compiled = optimizer, True


def _leaves(model: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in model._flatten_layers(include_self=False) if not isinstance(layer, keras.Model)]


def write_history(path: Path, history: list[dict[str, float]]) -> None:
    """One line an epoch, as CSV."""
    columns = list(dict.fromkeys(name for row in history for name in row))
    lines = [",".join(columns), *(",".join(f"{row.get(name, '')}" for name in columns) for row in history)]
    _write(path, "\n".join(lines) + "\n")


def _describe_run(
    training: Listing, validation: Listing | None, recipe: Recipe, seed: int, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    packages = ("keras_resnext", "keras", keras.backend.backend(), "numpy", "pillow")
    versions = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    data = {"training": training.fingerprint(), "pictures": len(training), "classes": len(training.classes)}
    if validation is not None:
        data |= {"validation": validation.fingerprint(), "validation_pictures": len(validation)}
    run = {
        "arguments": dict(arguments),
        "recipe": asdict(recipe),
        "seed": seed,
        "data": data,
        "backend": keras.backend.backend(),
        "policy": keras.config.dtype_policy().name,
        "versions": {"python": platform.python_version(), **versions},
    }
    return json.loads(json.dumps(run))  # tuples become lists, as they are when read again


def _find_checkpoint(folder: Path, run: Mapping[str, Any]) -> SavedState | None:
    """The state to go on from; None for a new run."""
    if not (folder / CHECKPOINT).exists():
        return None
    try:
        before = json.loads((folder / RUN).read_text())
    except (OSError, ValueError):
        raise ValueError(f"output={str(folder)!r} has a checkpoint but no readable {RUN}; choose another") from None
    changed = [
        f"{section}.{name}" if name else section
        for section in ("arguments", "recipe", "seed", "data", "backend")
        for name in _differences(before.get(section), run[section])
    ]
    if changed:
        raise ValueError(
            f"output={str(folder)!r} holds a run with other arguments: {', '.join(changed)} differ; "
            "give the same ones to resume it, or another output"
        )
    return SavedState(folder / CHECKPOINT)


def _differences(before: Any, now: Any) -> list[str]:
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return [] if before == now else [""]
    return [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
