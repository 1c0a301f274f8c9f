"""Training images from JPEG files: RandomResizedCrop, flip, normalisation, in batches of 32, on one core."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .torch_models import load_torchvision
from .work import Seconds, Work

COUNT, BATCH, BATCHES, AHEAD = 128, 32, 16, 6


def write(work: Work) -> None:
    """JPEG files of 500x375, ImageNet's usual size, in two class folders: smooth colours with texture, about 40 kB."""
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), "uint8")).resize(
            (500, 375), Image.Resampling.BICUBIC
        )
        fine = Image.fromarray(rng.integers(0, 256, (188, 250, 3), "uint8")).resize(
            (500, 375), Image.Resampling.BICUBIC
        )
        folder = work.folder / "jpeg" / str(i % 2)
        folder.mkdir(parents=True, exist_ok=True)
        Image.blend(coarse, fine, 0.15).save(folder / f"{i:05}.jpg", quality=90)


def ours(folder: Path, size: int, *, antialias: bool, batch: int = BATCH) -> Callable[[], Any]:
    """What gives the next batch of our pipeline."""
    from keras_resnext.data import Augmentation, Plan, read_listing, training_batches
    from keras_resnext.preprocessing import Preprocessing

    listing = read_listing(folder)
    augmentation = Augmentation(size=size, antialias=antialias)
    plan = Plan(len(listing), batch, 0)
    iterator = iter(training_batches(listing, plan, augmentation, Preprocessing(), range(1_000_000)))
    return lambda: next(iterator)


def _several(take: Callable[[], Any]) -> Callable[[], Seconds]:
    """Seconds for BATCHES batches; those that a pipeline may have read ahead, while others had their turn, go first."""

    def run() -> Seconds:
        for _ in range(AHEAD):
            take()
        start = time.perf_counter()
        for _ in range(BATCHES):
            take()
        return Seconds(time.perf_counter() - start)

    return run


def antialiased(work: Work) -> Callable[[], object]:
    return _several(ours(work.folder / "jpeg", work.size, antialias=True))


def plain(work: Work) -> Callable[[], object]:
    return _several(ours(work.folder / "jpeg", work.size, antialias=False))


def waiting(work: Work) -> Callable[[], Seconds]:
    """Seconds that a training step waits for its images, all processors shared."""
    import keras

    from .training_steps import build

    model = build(work)
    model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
    take = ours(work.folder / "jpeg", work.size, antialias=True, batch=work.batch)

    def run() -> Seconds:
        start = time.perf_counter()
        images, labels = take()
        waited = time.perf_counter() - start
        model.train_on_batch(images, np.argmax(labels, 1))
        return Seconds(waited)

    return run


def torchvisions(work: Work) -> Callable[[], object]:
    """On Pillow's images, which are antialiased."""
    import io

    import torch

    transforms = load_torchvision().transforms
    torch.set_num_threads(1)
    change = transforms.Compose(
        [
            transforms.RandomResizedCrop(work.size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    files = sorted((work.folder / "jpeg").rglob("*.jpg"))
    rng = np.random.default_rng(0)

    def read(path: Path) -> Any:
        return change(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"))

    return _several(lambda: torch.stack([read(files[i]) for i in rng.integers(0, len(files), BATCH)]))
