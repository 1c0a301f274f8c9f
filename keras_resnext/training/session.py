"""A run of training in progress: epochs, validation, and what is written."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import keras
from keras import ops
from rich.console import Console

from ..data import Plan, ValidationBatches
from ..loading import BEST
from ..progress import Bar
from ..weights.keras_files import save_keras
from . import distribution
from .callbacks import Guard, MovingAverage, ProgressBar, RestoreMetrics
from .curves import draw_history
from .recipe import Recipe
from .run_folder import CHECKPOINT, CURVES, HISTORY, LAST, write_history
from .state import SavedState, TrainingDivergedError, find_not_finite, save_state
from .step import PLAIN, activated, compile_model, ending, is_binary, kind_of
from .tasks import TASKS
from .train_options import RunOptions


class Session:
    """A run in progress: where it is, what it has seen, and how that is saved."""

    def __init__(
        self,
        model: keras.Model,
        plan: Plan,
        recipe: Recipe,
        folder: Path,
        console: Console,
        options: RunOptions,
    ) -> None:
        self.model, self.plan, self.recipe, self.folder, self.console = model, plan, recipe, folder, console
        self.options, self.saved_at = options, time.monotonic()
        self.writes = plan.shard[0] == 0
        self.observers: list[Callable[[Mapping[str, float]], None]] = []  # of each epoch's row of the history
        self.step = self.saved_step = 0
        self.best, self.best_epoch = -1.0, 0
        self.history: list[dict[str, float]] = []
        self.spent = 0.0  # seconds in this epoch before the last resumption
        self.started = time.monotonic()
        self.saved: SavedState | None = None
        self.guard: Guard | None = None
        self.validating = False
        self.trainable = [(layer, layer.trainable) for layer in _leaves(model)]
        self.task, self.end = TASKS[kind_of(model)], ending(model)
        self.activation = getattr(self.end, "activation", None)
        spe, length = plan.steps_per_epoch, recipe.ema * recipe.epochs * plan.steps_per_epoch
        warm = int((recipe.head_epochs + recipe.warmup_epochs) * spe)
        self.average = MovingAverage(model, length, warm) if recipe.ema else None

    def resume(self, saved: SavedState) -> None:
        self.saved = saved
        self.step = self.saved_step = saved.state["step"]
        self.best = saved.state["best"]
        self.best_epoch, self.history = saved.state["best_epoch"], saved.state["history"]
        self.spent = saved.state["spent"]
        saved.restore("model", self.model.variables)
        if self.average:
            saved.restore("average", self.average.weights)
            self.average.step = self.step

    def run(self, batches: Callable[[range], Any], held_out: ValidationBatches | None) -> None:
        recipe, spe = self.recipe, self.plan.steps_per_epoch
        steps, size = recipe.epochs * spe, self.plan.batch_size
        on_logits = activated(self.end, keras.activations.linear) if self.is_binary else nullcontext()
        try:
            with (
                on_logits,
                Bar("Training", steps, self.console, done=self.step, unit="images", per_step=size) as shown,
            ):
                bar = ProgressBar(shown, recipe.epochs, ("loss", self.task.score))
                for head, epochs in (
                    (True, range(recipe.head_epochs)),
                    (False, range(recipe.head_epochs, recipe.epochs)),
                ):
                    left = range(max(epochs.start, self.step // spe), epochs.stop)
                    if not left or self.has_stopped():
                        continue
                    self._begin_phase(head)
                    for epoch in left:
                        self._run_epoch(epoch, head, batches, held_out, bar)
                        if self.has_stopped():
                            self.console.print(f"No better validation for {recipe.patience} epochs: stopped.")
                            break
        except (SystemExit, KeyboardInterrupt):  # SIGTERM or Ctrl-C
            self.console.print(self.describe_stop(), markup=False, soft_wrap=True)
            raise
        finally:
            self._set_trainable(False)

    @property
    def is_binary(self) -> bool:
        return is_binary(self.recipe, self.task.kind)

    def has_stopped(self) -> bool:
        """Whether validation got no better for as long as the recipe's patience says."""
        patience, first = self.recipe.patience, max(self.best_epoch, self.recipe.head_epochs)
        return patience is not None and bool(self.history) and len(self.history) - first >= patience

    def is_finished(self) -> bool:
        """Whether there is nothing left to train."""
        return len(self.history) >= self.recipe.epochs or self.has_stopped()

    def describe_resumption(self) -> str:
        """Where a run goes on, or why it does not."""
        if self.has_stopped():
            patience = f"no better validation for {self.recipe.patience} epochs; a higher patience goes on"
            return f"Stopped at epoch {len(self.history)}: {patience}."
        finished = f"Finished at epoch {len(self.history)}."
        return finished if self.is_finished() else f"Resuming {self._place(self.step)}."

    def describe_stop(self) -> str:
        """Where the run is saved, and what goes on with it."""
        kept = self.folder / CHECKPOINT
        if not kept.exists():
            return f"Stopped before anything was saved. To begin anew:\n  {self.options.again}"
        return f"Stopped. {kept} holds the run {self._place(self.saved_step)}. To go on:\n  {self.options.again}"

    def _place(self, step: int) -> str:
        return f"at epoch {step // self.plan.steps_per_epoch + 1}, step {step}"

    def _begin_phase(self, head: bool) -> None:
        self._set_trainable(head)
        compile_model(self.model, self.recipe, self.plan.steps_per_epoch, head=head, kind=self.task.kind)
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

        steps = range(self.step, (epoch + 1) * spe)
        guard = self.guard = Guard(steps, lambda step: self._save(step, head, guard), self._is_due, self._describe)
        watchers = [bar, *([self.average] if self.average else []), guard]
        if self.saved is not None:
            watchers.insert(0, RestoreMetrics(self.saved))
        with guard.listening():
            done = self.model.fit(
                batches(steps),
                initial_epoch=epoch,
                epochs=epoch + 1,
                steps_per_epoch=len(steps),  # which what is copied to a GPU ahead no longer knows
                verbose=0,
                shuffle=False,
                callbacks=watchers,
            )
            self.saved, self.step = None, steps.stop
            logs = {name: float(values[-1]) for name, values in done.history.items()}
            plain = logs.pop(PLAIN)
            if self.is_binary:  # the sum over labels says little beside the mean that validation has
                logs["loss"] = plain
            logs["learning_rate"] = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))
            self._finish_epoch(epoch, logs, held_out, bar)
            self._save(self.step, head, None)
            guard.leave_if_asked()

    def _describe(self, step: int) -> str:
        """Where step `step`, counted from 1 over all epochs, is, and what there is to go back to."""
        spe = self.plan.steps_per_epoch
        rate = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))
        where = f"in epoch {(step - 1) // spe + 1}, step {(step - 1) % spe + 1} of {spe} (learning rate {rate:.3g})"
        return f"{where}; {describe_state(self.folder)}"

    def _check_weights(self, step: int) -> None:
        """The loss of a step is that before its update: what the update made is looked at before it is saved."""
        with distribution.apart():
            broken = find_not_finite(self.model)
        if broken is not None:
            raise TrainingDivergedError(f"{broken} became NaN or infinite {self._describe(step)}")

    def _finish_epoch(
        self, epoch: int, logs: dict[str, float], held_out: ValidationBatches | None, bar: ProgressBar
    ) -> None:
        """Validates, with the moving average where there is one, and writes what a user looks at."""
        self._check_weights(self.step)
        with self.averaged():
            if held_out is not None:
                self.validating = True
                found = self.model.evaluate(held_out, return_dict=True, verbose=0, callbacks=[bar])
                self.validating = False
                found["loss"] = found.pop(PLAIN)  # the mean over images, without smoothing
                logs |= {f"val_{name}": float(value) for name, value in found.items()}
                if not math.isfinite(logs["val_loss"]):
                    raise TrainingDivergedError(
                        f"the validation loss became {logs['val_loss']} {self._describe(self.step)}"
                    )
            logs["seconds"] = round(self.spent + time.monotonic() - self.started, 3)
            self.spent = 0.0
            self.history.append({"epoch": epoch + 1, **logs})
            score = logs.get(f"val_{self.task.score}", logs[self.task.score])
            better = score > self.best
            if better:
                self.best, self.best_epoch = score, epoch + 1
            for name in (LAST, *([BEST] if better else [])) if self.writes else ():
                own = activated(self.end, self.activation) if self.is_binary else nullcontext()
                with distribution.apart(), _bare(self.model), own:
                    save_keras(self.model, self.folder / name)
        self._tell(logs)
        if self.writes:
            write_history(self.folder / HISTORY, self.history)
            draw_history(self.folder / CURVES, self.history)
        for observe in self.observers if self.writes else ():
            observe(self.history[-1])

    def averaged(self) -> AbstractContextManager[None]:
        """The model has the moving average inside, where the recipe has one."""
        return self.average.applied(self.model) if self.average else nullcontext()

    def _is_due(self, step: int) -> bool:
        if self.options.save_steps:
            return step % self.options.save_steps == 0
        return time.monotonic() - self.saved_at > self.options.save_seconds

    def _save(self, step: int, head: bool, guard: Guard | None) -> None:
        self.saved_at = time.monotonic()
        model = guard.model if guard else self.model  # on JAX, asking a callback for its model fetches its weights
        if guard:
            self._check_weights(step)
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
        self.saved_step = step

    def _tell(self, logs: Mapping[str, float]) -> None:
        shown = ("loss", self.task.score, "val_loss", *(f"val_{name}" for name in self.task.measures))
        text = "  ".join(f"{name} {logs[name]:.4f}" for name in shown if name in logs)
        self.console.print(
            f"epoch {len(self.history)}/{self.recipe.epochs}  {text}  {logs['seconds']:.0f} s", soft_wrap=True
        )


@contextmanager
def _bare(model: keras.Model) -> Iterator[None]:
    """Without what compiling added: a file of the model alone is a third as large, and loads without this module."""
    optimizer, model.optimizer, model.compiled = model.optimizer, None, False
    try:
        yield
    finally:
        model.optimizer, model.compiled = optimizer, True


def describe_state(folder: Path) -> str:
    """What an error says of the state that a run left behind."""
    kept = folder / CHECKPOINT
    return f"the last good state is {kept}" if kept.exists() else "nothing was saved before"


def _leaves(model: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in model._flatten_layers(include_self=False) if not isinstance(layer, keras.Model)]
