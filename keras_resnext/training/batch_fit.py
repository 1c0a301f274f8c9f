"""The largest batch whose training step fits the memory.

On a CPU two small batches are measured, each in a process of its own, and the memory of a larger one follows from a
straight line: too large a batch would not fail there, but have the process killed. On a GPU batches are tried, each
twice as large, until one is refused.

`python -m keras_resnext.training.batch_fit` is the process that is measured. It reads a request as JSON from standard
input and prints the most bytes that it held.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from ..data.augmentation import Augmentation
from ..os_errors import is_out_of_memory
from ..weights.keras_files import save_keras
from ..weights.keras_models import load_keras_model
from .distribution import devices, has_gpu
from .memory import available_memory
from .rate_finder import as_it_was
from .recipe import Recipe
from .step import compile_model, kind_of, on_logits

MOST = 8192  # up to which the linear rule for learning rates was shown to hold (arXiv 1706.02677)
STEPS = 16  # that an epoch has at least: with fewer the weights are hardly ever updated
SHARE = 0.8  # of the available memory; the rest is for reading images, validating and writing files
TRIED = 2  # steps; in the second, gradients, momentum and the next batch are there at once
GIB = 2**30


@dataclass(frozen=True)
class BatchChoice:
    """A batch size and one sentence on why it is this one."""

    size: int
    why: str


def fit_batch(model: keras.Model, recipe: Recipe, images: int) -> BatchChoice:
    """The largest power of two (on several devices, of each one's share) that fits and leaves 16 steps an epoch.

    Args:
        model: to be trained; it is left as it was.
        recipe: how it will be trained, and the size of its images.
        images: how many there are to train on.

    Raises:
        RuntimeError: not even the smallest batch fits, or it could not be measured.
    """
    fits, memory = (_try_out if has_gpu() else _measure)(model, recipe)
    return largest_batch(fits, images, memory, devices())


def largest_batch(fits: Callable[[int], bool], images: int, memory: str, smallest: int = 1) -> BatchChoice:
    """As `fit_batch`; `fits` is asked for rising sizes until it says no."""
    limit = max(min(images // STEPS, MOST), smallest)
    size = 0
    while (larger := 2 * size or smallest) <= limit:
        if not fits(larger):
            if not size:
                raise RuntimeError(f"batch_size='auto': not even {larger} images fit {memory}; take smaller ones")
            return BatchChoice(size, f"the largest power of two that fits {memory}")
        size = larger
    rule = f"leaves {STEPS} steps an epoch" if limit < MOST else "the rule for the learning rate holds for"
    return BatchChoice(size, f"the largest power of two that {rule}; it fits {memory}")


def _try_out(model: keras.Model, recipe: Recipe) -> tuple[Callable[[int], bool], str]:
    def fits(size: int) -> bool:
        try:
            with as_it_was(model):
                take_steps(model, recipe, size)
        except Exception as error:
            if is_out_of_memory(error):
                return False
            raise
        return True

    return fits, "the device's memory"


def _measure(model: keras.Model, recipe: Recipe) -> tuple[Callable[[int], bool], str]:
    # Where images are small, so is what one more of them takes: it must stand out from what differs anyway.
    few, many = (4, 12) if recipe.augmentation.size >= 128 else (16, 144)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.keras")
        save_keras(model, file)
        peaks = [peak_of_batch(file, recipe, size) for size in (few, many)]
    each = max((peaks[1] - peaks[0]) / (many - few), 1.0)
    fixed = max(peaks[0] - few * each, 0.0)
    available = available_memory()
    text = f"{available / GIB:.1f} GiB of memory, of which {fixed / GIB:.2f} GiB and {each / 2**20:.1f} MiB an image"
    return lambda size: fixed + size * each <= SHARE * available, f"{text} are needed"


def peak_of_batch(file: Path, recipe: Recipe, size: int) -> int:
    """The most bytes that a process holds which trains the model in `file` by batches of `size` images.

    Raises:
        RuntimeError: the process failed, for too little memory too.
    """
    request = {"model": str(file), "recipe": asdict(recipe), "size": size}
    done = subprocess.run(
        [sys.executable, "-m", __name__], input=json.dumps(request), capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
        raise RuntimeError(f"batch_size='auto': a batch of {size} images could not be measured: {reason}")
    return int(done.stdout.split()[-1])


def take_steps(model: keras.Model, recipe: Recipe, size: int) -> None:
    """Trains for two steps on `size` random images."""
    rng = np.random.default_rng(0)
    side, classes = recipe.augmentation.size, int(model.outputs[0].shape[-1])
    images = rng.random((size, side, side, 3), "float32")
    labels = np.eye(classes, dtype="float32")[rng.integers(0, classes, size)]
    kind = kind_of(model)
    with on_logits(model, recipe):
        compile_model(model, replace(recipe, batch_size=size, class_weights=None), 1, head=True, kind=kind)
        for _ in range(TRIED):
            model.train_on_batch(images, labels)


def _main() -> None:
    import resource

    request: dict[str, Any] = json.load(sys.stdin)
    recipe = request["recipe"]
    recipe = Recipe(**recipe | {"augmentation": Augmentation(**recipe["augmentation"])})
    take_steps(load_keras_model(request["model"]), recipe, request["size"])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))


if __name__ == "__main__":
    _main()
