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
PHOTOS, PHOTO_BATCH, PHOTO_BATCHES = 8, 8, 4


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


def write_photos(work: Work) -> None:
    """JPEG files of 4000x3000, as telephones write them, about 3 MB."""
    rng = np.random.default_rng(0)
    for i in range(PHOTOS):
        coarse, fine = (
            Image.fromarray(rng.integers(0, 256, (height, width, 3), "uint8")).resize(
                (4000, 3000), Image.Resampling.BICUBIC
            )
            for height, width in ((12, 16), (750, 1000))
        )
        folder = work.folder / "photos" / str(i % 2)
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


def _several(take: Callable[[], Any], batches: int = BATCHES) -> Callable[[], Seconds]:
    """Times that many batches. The first few are not timed: the pipeline may have read them ahead between its turns."""

    def run() -> Seconds:
        for _ in range(AHEAD):
            take()
        start = time.perf_counter()
        for _ in range(batches):
            take()
        return Seconds(time.perf_counter() - start)

    return run


def antialiased(work: Work) -> Callable[[], object]:
    return _several(ours(work.folder / "jpeg", work.size, antialias=True))


def photos(work: Work) -> Callable[[], object]:
    return _several(ours(work.folder / "photos", work.size, antialias=True, batch=PHOTO_BATCH), PHOTO_BATCHES)


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


def simplejpegs(work: Work) -> Callable[[], object]:
    """The fastest that is usual with PyTorch: libjpeg-turbo, torchvision's v2 on uint8, normalised by the batch."""
    return _several(_simplejpeg_batches(work, "jpeg", BATCH))


def simplejpeg_photos(work: Work) -> Callable[[], object]:
    return _several(_simplejpeg_batches(work, "photos", PHOTO_BATCH), PHOTO_BATCHES)


def _simplejpeg_batches(work: Work, folder: str, batch: int) -> Callable[[], Any]:
    import simplejpeg
    import torch

    load_torchvision()
    from torchvision.transforms import v2

    torch.set_num_threads(1)
    change = v2.Compose([v2.RandomResizedCrop(work.size, antialias=True), v2.RandomHorizontalFlip()])
    normalise = v2.Compose(
        [v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    )
    files = sorted((work.folder / folder).rglob("*.jpg"))
    rng = np.random.default_rng(0)

    def read(path: Path) -> Any:
        image = torch.from_numpy(simplejpeg.decode_jpeg(path.read_bytes(), fastdct=True))
        return change(image.permute(2, 0, 1))

    return lambda: normalise(torch.stack([read(files[i]) for i in rng.integers(0, len(files), batch)]))
