"""Batches of images for training and validation. Every batch is a function of seed and step, so any can be repeated.

With TensorFlow installed they come from tf.data (`tf_batches.py`), else from `keras.utils.PyDataset` on threads. Both
show the same images; random crops without antialiasing are TensorFlow's alone.
"""

import importlib.util
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any

import keras
import numpy as np
from PIL import Image

from ..preprocessing import FILTERS, Preprocessing, load_image, preprocess_input, resize_shorter_side, to_rgb
from .augment import DRAWS, crop_windows, mix, recolour
from .augmentation import Augmentation
from .listing import Listing

ENGINES = ("auto", "tf.data", "python")
_READ_AHEAD = {"workers": 2, "max_queue_size": 4}  # batches that Keras makes while the model works, in their order


@dataclass(frozen=True)
class Step:
    """What one step of training shows: `n` images of this process's share of the batch.

    Attributes:
        indices: (n,) into the listing.
        draws: (n, DRAWS) uniform numbers from 0 to 1 for crop and flip.
        seeds: (n,) for what changes single images.
        seed: for what mixes the batch.
    """

    indices: np.ndarray
    draws: np.ndarray
    seeds: np.ndarray
    seed: int


@dataclass(frozen=True)
class Plan:
    """Which images each step shows, and the random numbers that go with them.

    Attributes:
        images: how many there are.
        batch_size: of all processes together.
        seed: of everything.
        repeats: how many times in a row an image is drawn.
        shard: (i, n): this process takes the i-th of n equal parts of every batch.
    """

    images: int
    batch_size: int
    seed: int
    repeats: int = 1
    shard: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= self.images:
            raise ValueError(
                f"batch_size={self.batch_size!r} must lie in 1..{self.images}, the number of training images"
            )
        if self.batch_size % self.shard[1]:
            raise ValueError(f"batch_size={self.batch_size!r} must be a multiple of the {self.shard[1]} processes")

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch; the images left over differ from epoch to epoch."""
        return self.images // self.batch_size

    def step(self, number: int) -> Step:
        """Step `number`, counted from 0 over all epochs."""
        epoch, position = divmod(number, self.steps_per_epoch)
        rng = np.random.default_rng((self.seed, epoch, position))
        draws, seeds = rng.random((self.batch_size, DRAWS)), rng.integers(0, 2**62, self.batch_size)
        seed = int(rng.integers(0, 2**62))
        share, count = self.shard
        size = self.batch_size // count
        mine = slice(share * size, (share + 1) * size)
        order = _order(self.images, self.repeats, self.seed, epoch)
        indices = order[position * self.batch_size : (position + 1) * self.batch_size][mine]
        return Step(indices, draws[mine], seeds[mine], seed + share)


@lru_cache(maxsize=2)
def _order(images: int, repeats: int, seed: int, epoch: int) -> np.ndarray:
    order = np.random.default_rng((seed, epoch)).permutation(images)
    return np.repeat(order, repeats)[:images]


def training_batches(
    listing: Listing,
    plan: Plan,
    augmentation: Augmentation,
    preprocessing: Preprocessing,
    steps: range,
    *,
    engine: str = "auto",
    read: Callable[[int], bytes] | None = None,
    workers: int | None = None,
) -> Any:
    """What `fit` takes for `steps` of training.

    Args:
        listing: images.
        plan: which of them when.
        augmentation: how they vary.
        preprocessing: mean and standard deviation.
        steps: consecutive ones, counted from 0 over all epochs.
        engine: "tf.data", "python" (threads and Pillow), or "auto": the first where TensorFlow is installed.
        read: gives the encoded image of an index, in place of `listing.read`, such as `CachedReader(listing).read`.
        workers: threads; default the number of processors.

    Returns:
        Batches of (images (n, size, size, 3) float32, labels (n, classes) float32).

    Raises:
        ValueError: an unknown engine, or one that cannot do without antialiasing.
    """
    if resolve_engine(engine) == "tf.data":
        from .tf_batches import make_dataset

        if read is None and listing.spans is not None:
            read = listing.read
        return make_dataset(listing, plan, augmentation, preprocessing, steps, read, workers)
    if not antialiased(augmentation):
        raise ValueError("antialias=False needs engine='tf.data'; Pillow, engine='python', always antialiases")
    return _TrainingBatches(listing, plan, augmentation, preprocessing, steps, read or listing.read, workers)


def resolve_engine(engine: str) -> str:
    """The engine that "auto" stands for here."""
    if engine not in ENGINES:
        raise ValueError(f"engine={engine!r} must be one of {', '.join(ENGINES)}")
    if engine != "auto":
        return engine
    return "tf.data" if importlib.util.find_spec("tensorflow") else "python"


def antialiased(augmentation: Augmentation) -> bool:
    """Whether Pillow resizes the images: all but random resized crops without antialiasing."""
    return augmentation.antialias or augmentation.crop_padding is not None


def make_image(data: bytes, draws: np.ndarray, seed: int, augmentation: Augmentation) -> np.ndarray:
    """One training image by Pillow: uint8 (size, size, 3)."""
    return finish_crop(crop_image(data, draws, augmentation), draws, seed, augmentation)


def crop_image(data: bytes, draws: np.ndarray, augmentation: Augmentation) -> Image.Image:
    """The part of an image that is shown, in RGB."""
    with Image.open(BytesIO(data)) as opened:
        image = to_rgb(opened)
    if augmentation.crop_padding is not None:
        size, pad = augmentation.size, augmentation.crop_padding
        image = square(image, size, FILTERS[augmentation.interpolation])
        top, left = (int(draw * (2 * pad + 1)) for draw in draws[:2])
        shifted = (1, 0, left - pad, 0, 1, top - pad)
        return image.transform((size, size), Image.Transform.AFFINE, shifted, Image.Resampling.NEAREST)
    windows = crop_windows(draws, image.height, image.width, augmentation.crop_scale, augmentation.crop_ratio)
    top, left, height, width = windows.tolist()
    return image.crop((left, top, left + width, top + height))


def finish_crop(crop: Image.Image, draws: np.ndarray, seed: int, augmentation: Augmentation) -> np.ndarray:
    """What follows the crop, by Pillow: uint8 (size, size, 3)."""
    image = crop.resize((augmentation.size, augmentation.size), FILTERS[augmentation.interpolation])
    if draws[-1] < augmentation.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(recolour(image, augmentation, seed))


def square(image: Image.Image, size: int, kind: Image.Resampling) -> Image.Image:
    """Shorter side to `size`, and the middle of the longer one."""
    if image.size == (size, size):
        return image
    image = resize_shorter_side(image, size, kind)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


class _TrainingBatches(keras.utils.PyDataset):
    def __init__(
        self,
        listing: Listing,
        plan: Plan,
        augmentation: Augmentation,
        preprocessing: Preprocessing,
        steps: range,
        read: Any,
        workers: int | None,
    ) -> None:
        super().__init__(**_READ_AHEAD)
        self.listing, self.plan, self.augmentation = listing, plan, augmentation
        self.preprocessing, self.steps, self.read = preprocessing, steps, read
        self.pool = ThreadPoolExecutor(workers or os.cpu_count())

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        step = self.plan.step(self.steps[index])
        pixels = self.pool.map(
            lambda i, draws, seed: make_image(self.read(i), draws, int(seed), self.augmentation),
            *(step.indices, step.draws, step.seeds),
        )
        images = preprocess_input(np.stack(list(pixels)), self.preprocessing)
        labels = np.eye(len(self.listing.classes), dtype="float32")[self.listing.labels[step.indices]]
        return mix(images, labels, self.augmentation, step.seed) if self.augmentation.mixes else (images, labels)


class ValidationBatches(keras.utils.PyDataset):
    """Images prepared exactly as prediction prepares them, in order, in batches of one size.

    The last batch is filled up with images of weight 0. Batches are (images float32 (n, size, size, 3) normalised,
    labels float32 (n, classes), weights float32 (n,)).

    Args:
        listing: images.
        preprocessing: how they are resized, cropped and normalised.
        size: height and width in pixels.
        batch_size: images a batch, of all processes together.
        shard: (i, n): this process takes the i-th of n equal parts of every batch.
        workers: threads that read; default the number of processors.
    """

    def __init__(
        self,
        listing: Listing,
        preprocessing: Preprocessing,
        *,
        size: int,
        batch_size: int,
        shard: tuple[int, int] = (0, 1),
        workers: int | None = None,
    ) -> None:
        super().__init__(**_READ_AHEAD)
        self.listing, self.preprocessing, self.size = listing, preprocessing, size
        self.batch_size, self.shard = batch_size, shard
        self.pool = ThreadPoolExecutor(workers or os.cpu_count())

    def __len__(self) -> int:
        return -(-len(self.listing) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        share, count = self.shard
        size = self.batch_size // count
        first = index * self.batch_size + share * size
        indices = np.arange(first, first + size)
        weights = (indices < len(self.listing)).astype("float32")
        indices = np.minimum(indices, len(self.listing) - 1)
        images = preprocess_input(np.stack(list(self.pool.map(self._load, indices))), self.preprocessing)
        labels = np.eye(len(self.listing.classes), dtype="float32")[self.listing.labels[indices]]
        return images, labels, weights

    def _load(self, index: int) -> np.ndarray:
        resize = self.preprocessing.resize_for(self.size)
        data = self.listing.read(index)
        return load_image(data, self.size, resize=resize, interpolation=self.preprocessing.interpolation)
