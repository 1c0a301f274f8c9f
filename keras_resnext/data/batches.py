"""Batches of images for training and validation.

With TensorFlow installed they come from tf.data (`tf_batches.py`), else from `keras.utils.PyDataset` on threads. Both
show the same images; random crops without antialiasing are TensorFlow's alone.
"""

import importlib.util
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from ..multichannel import load_bands
from ..preprocessing import Preprocessing, load_image, preprocess_input
from .augmentation import Augmentation
from .crops import antialiased, make_image
from .listing import Listing
from .plan import Plan
from .transforms import mix

ENGINES = ("auto", "tf.data", "python")
_READ_AHEAD = {"workers": 2, "max_queue_size": 4}  # batches that Keras makes while the model works, in their order


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
        preprocessing: mean, standard deviation, and whether EXIF's orientation counts.
        steps: consecutive ones, counted from 0 over all epochs.
        engine: "tf.data", "python" (threads and Pillow), or "auto": the first where TensorFlow is installed.
        read: gives the encoded image of an index, in place of `listing.read`, such as `CachedReader(listing).read`.
        workers: threads; default the number of processors.

    Returns:
        Batches of (images (n, size, size, 3) float32, labels (n, classes) float32).

    Raises:
        ValueError: an unknown engine, or one that cannot do without antialiasing.
    """
    check_colours(augmentation, preprocessing)
    if resolve_engine(engine, preprocessing.bands) == "tf.data":
        from .tf_batches import make_dataset

        if read is None and listing.spans is not None:
            read = listing.read
        return make_dataset(listing, plan, augmentation, preprocessing, steps, read, workers)
    if not antialiased(augmentation):
        raise ValueError("antialias=False needs engine='tf.data'; Pillow, engine='python', always antialiases")
    return _TrainingBatches(listing, plan, augmentation, preprocessing, steps, read or listing.read, workers)


def check_colours(augmentation: Augmentation, preprocessing: Preprocessing) -> None:
    """Raises ValueError where colours are to be changed of images that are not RGB."""
    if preprocessing.bands != 3 and augmentation.recolours:
        have = f"the images have channels={preprocessing.bands}"
        raise ValueError(f"color_jitter and policy change red, green and blue, but {have}; leave them out")


def resolve_engine(engine: str, bands: int = 3) -> str:
    """The engine that "auto" chooses here: tf.data reads only RGB, so other numbers of channels take Pillow."""
    if engine not in ENGINES:
        raise ValueError(f"engine={engine!r} must be one of {', '.join(ENGINES)}")
    if engine == "tf.data" and bands != 3:
        raise ValueError(f"engine={engine!r} is for three channels, not {bands}; engine='python' is for any number")
    if engine != "auto" or bands != 3:
        return "python" if engine == "auto" else engine
    return "tf.data" if importlib.util.find_spec("tensorflow") else "python"


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
            lambda i, draws, seed: make_image(
                self.read(i), draws, int(seed), self.augmentation, self.preprocessing.exif, self.preprocessing.bands
            ),
            *(step.indices, step.draws, step.seeds),
        )
        images = preprocess_input(np.stack(list(pixels)), self.preprocessing)
        labels = self.listing.targets(step.indices)
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
        images = preprocess_input(np.stack(list(self.pool.map(self.load, indices))), self.preprocessing)
        labels = self.listing.targets(indices)
        return images, labels, weights

    def load(self, index: int) -> np.ndarray:
        """Image `index` of the listing before it is normalised: uint8 (size, size, 3), or as `load_bands` has it."""
        resize = self.preprocessing.resize_for(self.size)
        data = self.listing.read(index)
        how = self.preprocessing
        if how.bands != 3:
            return load_bands(data, self.size, replace(how, size=self.size, resize=resize))
        return load_image(data, self.size, resize=resize, interpolation=how.interpolation, exif=how.exif)
