"""Training batches by tf.data, on all processors: pictures by Pillow, without antialiasing by TensorFlow."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from ..published import Preprocessing
from .augment import DRAWS, Augmentation, crop_window, mix, recolour
from .batches import Plan, antialiased, make_picture
from .listing import Listing

Tensor = Any


def make_dataset(
    listing: Listing,
    plan: Plan,
    augmentation: Augmentation,
    preprocessing: Preprocessing,
    steps: range,
    read: Callable[[int], bytes],
) -> tf.data.Dataset:
    """As `training_batches`; `read` gives the encoded picture of an index."""
    size, classes = augmentation.size, len(listing.classes)
    local = plan.batch_size // plan.shard[1]
    mean, std = (np.tile(np.asarray(values, np.float32), size) for values in (preprocessing.mean, preprocessing.std))
    scale, shift = 1 / std, -mean / std

    def rows(number: np.ndarray) -> tuple[np.ndarray, ...]:
        step = plan.step(int(number))
        return step.indices, listing.labels[step.indices], step.draws, step.seeds

    def expand(number: Tensor) -> tf.data.Dataset:
        kinds = (tf.int64, tf.int64, tf.float64, tf.int64)
        tensors = tf.numpy_function(rows, [number], kinds, stateful=False)
        for tensor, rest in zip(tensors, ((), (), (DRAWS,), ()), strict=True):
            tensor.set_shape((local, *rest))
        return tf.data.Dataset.from_tensor_slices(tuple(tensors))

    def encoded_file(index: np.ndarray) -> bytes:
        return read(int(index))

    def by_pillow(index: np.ndarray, draws: np.ndarray, seed: np.ndarray) -> np.ndarray:
        return make_picture(read(int(index)), draws, int(seed), augmentation)

    def change_colours(array: np.ndarray, seed: np.ndarray) -> np.ndarray:
        return np.asarray(recolour(Image.fromarray(array), augmentation, int(seed)))

    def by_tensorflow(index: Tensor, draws: Tensor, seed: Tensor) -> Tensor:
        picture = _crop(tf.numpy_function(encoded_file, [index], tf.string, stateful=False), draws, augmentation)
        picture = tf.cond(draws[-1] < augmentation.flip, lambda: picture[:, ::-1], lambda: picture)
        if augmentation.recolours:
            picture = tf.cast(tf.round(tf.clip_by_value(picture, 0, 255)), tf.uint8)
            picture = tf.numpy_function(change_colours, [picture, seed], tf.uint8, stateful=False)
        return picture

    def make(index: Tensor, label: Tensor, draws: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        if antialiased(augmentation):  # TensorFlow's own antialiasing takes three times as long as Pillow's
            picture = tf.numpy_function(by_pillow, [index, draws, seed], tf.uint8, stateful=False)
        else:
            picture = by_tensorflow(index, draws, seed)
        picture = tf.cast(tf.ensure_shape(picture, (size, size, 3)), tf.float32)
        # As rows of values, while the processor has them at hand: 0.3 ms a picture against 2.9 ms by the batch of 32.
        rows = tf.reshape(picture, (size, size * 3)) * scale + shift
        return tf.reshape(rows, (size, size, 3)), tf.one_hot(label, classes)

    def finish(number: Tensor, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        images, labels = batch
        if augmentation.mixes:

            def blend(i: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
                return mix(x, y, augmentation, plan.step(int(i)).seed)

            shapes = images.shape, labels.shape
            mixed = tf.numpy_function(blend, [number, images, labels], (tf.float32, tf.float32), stateful=False)
            images, labels = (tf.ensure_shape(tensor, shape) for tensor, shape in zip(mixed, shapes, strict=True))
        return images, labels

    dataset = tf.data.Dataset.range(steps.start, steps.stop).flat_map(expand)
    dataset = dataset.map(make, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(local, drop_remainder=True).enumerate(steps.start)
    dataset = dataset.map(finish, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = True
    # Each process already takes its own part of every batch.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options).apply(tf.data.experimental.assert_cardinality(len(steps))).prefetch(2)


def _crop(data: Tensor, draws: Tensor, augmentation: Augmentation) -> Tensor:
    """The cropped picture, resized without antialiasing: float32 (size, size, 3) on 0..255."""
    size = augmentation.size

    def resized(picture: Tensor) -> Tensor:
        return tf.cast(tf.image.resize(picture, (size, size), method=augmentation.interpolation), tf.float32)

    def window(shape: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        height, width = shape[:2].tolist()
        return np.array(crop_window(numbers, height, width, augmentation.crop_scale, augmentation.crop_ratio), np.int32)

    def from_jpeg() -> Tensor:
        shape = tf.io.extract_jpeg_shape(data)
        box = tf.ensure_shape(tf.numpy_function(window, [shape, draws], tf.int32, stateful=False), (4,))
        # What Pillow reads is read here too, up to where a file ends early; `check_pictures` has looked at it before.
        return resized(
            tf.image.decode_and_crop_jpeg(
                data, box, channels=3, try_recover_truncated=True, acceptable_fraction=0.5,
                dct_method="INTEGER_ACCURATE",
            )
        )  # fmt: skip

    def from_any() -> Tensor:
        picture = tf.numpy_function(_decode, [data], tf.uint8, stateful=False)
        picture = tf.ensure_shape(picture, (None, None, 3))
        shape = tf.shape(picture)
        top, left, height, width = tf.unstack(
            tf.ensure_shape(tf.numpy_function(window, [shape, draws], tf.int32, stateful=False), (4,))
        )
        return resized(picture[top : top + height, left : left + width])

    return tf.cond(tf.io.is_jpeg(data), from_jpeg, from_any)


def _decode(encoded: bytes) -> np.ndarray:
    with Image.open(BytesIO(encoded)) as picture:
        return np.asarray(picture.convert("RGB"))
