"""The learning rate that suits a network and its images, found by a rising-rate test before training begins."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from rich.console import Console

from ..data import Groups, Listing, Plan, training_batches
from ..figures import new_figure, save_figure
from ..files import placed_whole
from ..network.input_preprocessing import get_preprocessing
from ..progress import Bar
from . import distribution
from .class_weights import weights_of
from .recipe import Recipe
from .step import compile_model, kind_of, on_logits
from .train_options import RunOptions

STEPS = 100
LOWEST, HIGHEST = 1e-5, 10.0  # SGD; Adam's steps have the rate's own size, whatever the gradient
HIGHEST_ADAM = 0.3
REACH = 4.0  # standard deviation of the smoothing in steps
DIVERGED = 4.0  # times the lowest loss, as in fastai
CURVE, PLOT = "lr.csv", "lr.png"


@dataclass(frozen=True)
class RateCurve:
    """What the test measured.

    Attributes:
        rates: (n,) of each step, rising.
        losses: (n,) of each step's batch, before its update.
    """

    rates: np.ndarray
    losses: np.ndarray

    @property
    def smoothed(self) -> np.ndarray:
        """(n,) losses averaged with their neighbours on both sides: an average of the past alone would lag behind."""
        places = np.arange(len(self.losses))
        near = np.exp(-0.5 * ((places[:, None] - places[None, :]) / REACH) ** 2)
        return (near @ self.losses) / near.sum(axis=1)


def measure_rates(
    model: keras.Model,
    recipe: Recipe,
    batches: Callable[[range], Any],
    *,
    steps: int = STEPS,
    advance: Callable[[int], None] = lambda _: None,
) -> RateCurve:
    """Trains for up to `steps` steps while the rate rises exponentially; the model is left as it was.

    The whole network learns, by the recipe's optimizer and loss. The test ends where the loss is four times the lowest,
    or no number.

    Args:
        model: to be trained.
        recipe: how it will be; its learning rate does not matter.
        batches: of a range of steps, as `fit` takes them.
        steps: how many.
        advance: called with 1 after each step.
    """
    highest = HIGHEST if recipe.optimizer == "sgd" else HIGHEST_ADAM
    rates = np.geomspace(LOWEST, highest, steps)
    losses: list[float] = []
    kind = kind_of(model)
    with as_it_was(model), on_logits(model, recipe):
        compile_model(model, replace(recipe, accumulate=1), steps, head=True, kind=kind)  # a rate that is a number
        for rate, (images, labels) in zip(rates, batches(range(steps)), strict=True):
            model.optimizer.learning_rate.assign(rate)
            model.reset_metrics()
            losses.append(float(model.train_on_batch(images, labels, return_dict=True)["loss"]))
            advance(1)
            if not math.isfinite(losses[-1]):
                losses.pop()
                break
            if losses[-1] > DIVERGED * min(losses):
                break
    return RateCurve(rates[: len(losses)], np.array(losses))


def choose_rate(curve: RateCurve) -> tuple[float | None, str]:
    """The highest rate at which the smoothed loss still falls, and why; None where it falls at no rate.

    That is where the smoothed loss is lowest (arXiv 1506.01186, section 3.3: the accuracy's peak bounds the rate from
    above). A schedule that warms up to it and then falls needs no margin below; the steepest place was up to a hundred
    times below the best rate of a sweep.
    """
    if len(curve.losses) < 2:
        return None, "the loss was no number at the lowest rate"
    smoothed = curve.smoothed
    lowest = int(np.argmin(smoothed))
    noise = float(np.std((curve.losses - smoothed)[: lowest + 1]))
    if not smoothed[0] - smoothed[lowest] > noise:
        return None, f"the loss fell at no rate from {curve.rates[0]:.0e} to {curve.rates[-1]:.1g} more than it varies"
    rate = float(curve.rates[lowest])
    if lowest == len(smoothed) - 1:
        return rate, f"the loss still falls at {rate:.2g}, the highest rate that is tested"
    return rate, f"in a test with rising rates the loss fell up to a rate of {rate:.2g} and rose above it"


@contextmanager
def as_it_was(model: keras.Model) -> Iterator[None]:
    """Weights, statistics and the seeds of random layers are the same again afterwards, and nothing stays compiled."""
    before = [ops.convert_to_numpy(variable) for variable in model.variables]
    variables = list(model.variables)
    try:
        yield
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        model.optimizer, model.compiled = None, False


def find_rate(
    model: keras.Model,
    training: Listing,
    recipe: Recipe,
    folder: Path,
    options: RunOptions | None = None,
    console: Console | None = None,
) -> tuple[float, str]:
    """The learning rate for the phase in which the whole network learns, as a recipe has it, and why it is this one.

    Writes lr.csv (rate, loss and smoothed loss of each step) and lr.png into `folder`. The model is left as it was, and
    training then shows the same images in the same order as without the test.

    Args:
        model, training, recipe: what will be trained, on what and how.
        folder: for the two files.
        options: the run's, of which seed, engine and workers count.
        console: where progress is shown.
    """
    told, shard = options or RunOptions(), distribution.shard()
    if recipe.class_weights is not None:
        recipe = replace(recipe, class_weights=weights_of(recipe.class_weights, training))
    groups = Groups.of(training) if recipe.balanced_sampling else None
    plan = Plan(len(training), recipe.batch_size, told.seed, recipe.augmentation.repeats, shard, groups)
    preprocessing = get_preprocessing(model)

    def batches(steps: range) -> Any:
        made = training_batches(
            training, plan, recipe.augmentation, preprocessing, steps, engine=told.engine, workers=told.workers
        )
        return distribution.prefetched(made)

    with Bar("Learning rate", STEPS, console or Console(quiet=True), unit="images", per_step=recipe.batch_size) as bar:
        curve = measure_rates(model, recipe, batches, steps=STEPS, advance=bar.advance)
    rate, why = choose_rate(curve)
    if not shard[0]:
        folder.mkdir(parents=True, exist_ok=True)
        write_curve(folder / CURVE, curve)
        draw_curve(folder / PLOT, curve, rate)
    if rate is None:
        return recipe.learning_rate, f"the recipe's own, because {why} ({folder / PLOT})"
    # The test updates after every step; gradients that are averaged over several count as a larger batch.
    own = float(f"{rate * recipe.base_batch_size / recipe.batch_size:.2g}")
    return own, f"{why} ({folder / PLOT})"


def write_curve(path: Path, curve: RateCurve) -> None:
    """Writes rate, loss and smoothed loss of each step as CSV."""
    rows = zip(curve.rates, curve.losses, curve.smoothed, strict=True)
    lines = ["learning_rate,loss,smoothed_loss", *(f"{rate:.6g},{loss:.6g},{even:.6g}" for rate, loss, even in rows)]
    with placed_whole(path) as aside:
        aside.write_text("\n".join(lines) + "\n", encoding="utf-8")


def draw_curve(path: Path, curve: RateCurve, chosen: float | None) -> None:
    """Writes a PNG of the loss by learning rate, with the one that was chosen."""
    figure = new_figure((7, 4))
    axis = figure.subplots()
    axis.plot(curve.rates, curve.losses, color="#90caf9", linewidth=1, label="of each step")
    axis.plot(curve.rates, curve.smoothed, color="#1565c0", label="smoothed")
    if chosen is not None:
        axis.axvline(chosen, color="#e65100", label=f"chosen: {chosen:.2g}")
    axis.set(xscale="log", xlabel="learning rate of the step", ylabel="loss", title="Rising-rate test")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    save_figure(figure, path)
