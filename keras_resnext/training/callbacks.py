"""What watches over `fit`: the moving average, progress, and stops."""

import math
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from ..progress import Bar
from .state import SavedState, TrainingDivergedError


class MovingAverage(keras.callbacks.Callback):
    """Average of weights and statistics over the last steps, as torchvision's ExponentialMovingAverage has it.

    Keras's optimizers average the trained weights alone; BatchNorm's statistics then belong to other weights.

    Args:
        length: in steps.
        first_step: until then the average is a copy (the warm-up).
        step: where training begins.
    """

    def __init__(self, model: keras.Model, length: float, first_step: int, step: int = 0) -> None:
        super().__init__()
        self.every = int(min(32, max(1, length // 8)))
        self.share = min(1.0, self.every / max(length, 1))
        self.first_step, self.step = first_step, step
        self.weights = [
            # A copy: JAX gives the memory of the weights away to the step that updates them.
            keras.Variable(ops.copy(weight), trainable=False, name=weight.name)
            for weight in model.weights
        ]

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.step += 1
        if self.step % self.every:
            return
        share = 1.0 if self.step <= self.first_step else self.share
        for average, weight in zip(self.weights, self.model.weights, strict=True):
            average.assign(average + (ops.convert_to_tensor(weight) - average) * share)

    @contextmanager
    def applied(self, model: keras.Model) -> Iterator[None]:
        """The model has the average inside, and its own weights again afterwards."""
        own = [ops.convert_to_numpy(weight) for weight in model.weights]
        try:
            for weight, average in zip(model.weights, self.weights, strict=True):
                weight.assign(average)
            yield
        finally:
            for weight, value in zip(model.weights, own, strict=True):
                weight.assign(value)


class Guard(keras.callbacks.Callback):
    """Counts steps, saves now and then, and stops for a loss that is no number or when the process is asked to end.

    After the last step of an epoch it leaves saving and stopping to what comes after validation.
    """

    def __init__(
        self, steps: range, save: Callable[[int], None], due: Callable[[int], bool], describe: Callable[[int], str]
    ) -> None:
        super().__init__()
        self.step, self.last = steps.start, steps.stop
        self.save, self.due, self.describe = save, due, describe
        self.asked: int | None = None

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.step += 1
        loss = float(np.asarray((logs or {}).get("loss", 0.0)))
        if not math.isfinite(loss):
            raise TrainingDivergedError(f"the loss became {loss} {self.describe(self.step)}")
        if self.step < self.last:
            if self.asked is not None or self.due(self.step):
                self.save(self.step)
            self.leave_if_asked()

    def leave_if_asked(self) -> None:
        """Raises SystemExit with the code that a shell gives a process ended by the signal."""
        if self.asked is not None:
            raise SystemExit(128 + self.asked)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """SIGTERM and the first Ctrl-C end training after the running step, with everything saved."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

        def ask(number: int, frame: Any) -> None:
            self.asked = number
            if number == signal.SIGINT:  # not by print, which the handler may have interrupted
                os.write(2, b"\nStopping after this step, with everything saved. Ctrl-C again stops at once.\n")
            signal.signal(number, previous[signal.Signals(number)])

        for number in previous:
            signal.signal(number, ask)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


class ProgressBar(keras.callbacks.Callback):
    """Shows each step of `fit` in a bar that covers all epochs, with the epoch and the figures beside it.

    Args:
        bar: of all steps.
        epochs: how many there are.
        shown: names of the figures.
    """

    def __init__(self, bar: Bar, epochs: int, shown: Collection[str] = ("loss", "top1")) -> None:
        super().__init__()
        self.bar, self.epochs, self.shown, self.epoch = bar, epochs, shown, 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        figures = {name: float(np.asarray(value)) for name, value in (logs or {}).items() if name in self.shown}
        text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self.bar.advance(1, f"epoch {self.epoch + 1}/{self.epochs}  {text}")

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        of = f"/{steps}" if (steps := (self.params or {}).get("steps")) else ""
        self.bar.note(f"epoch {self.epoch + 1}/{self.epochs}  validating, batch {batch + 1}{of}")


class RestoreMetrics(keras.callbacks.Callback):
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
