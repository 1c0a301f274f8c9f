"""Trains small sets of real images by one command each, and the same network on the same images by timm's defaults.

python -m tools.compare_training [--epochs 20] [--output FILE]

Sets: digits; crops of photographs, one class a photograph; digits in fours, with up to four labels an image; digits
with one class cut to a fiftieth, without and with balanced training. timm's side is what its train.py does when it is
told nothing but the epochs, the batch and the size of the images: SGD with Nesterov's momentum, a cosine with five
epochs of warm-up, smoothing 0.1, its augmentation. Printed are the best epoch's score, the recall of the rare class and
the median seconds an epoch.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from keras_resnext.digits import held_out_split, load_digits
from keras_resnext.evaluation.label_scores import average_precision
from tests.data_check.planted_faults import patches

SIZE, BATCH, RARE, FIFTIETH = 32, 32, 8, 3  # 3 of class 8's 144 training images
BLOCKS, GROUPS, WIDTH = (1, 1, 1, 1), 8, 4
OPTIONS = {"blocks": list(BLOCKS), "groups": GROUPS, "width_per_group": WIDTH}

Rows = list[tuple[np.ndarray, tuple[str, ...]]]  # image uint8 (height, width, 3) and its labels


def digit_images(size: int = SIZE) -> tuple[Rows, Rows]:
    """Training and held-out digits."""
    pixels, labels = load_digits()
    grey = [Image.fromarray(np.uint8(digit * (255 / 16))).convert("RGB") for digit in pixels]
    images = [np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)) for image in grey]
    held_out = held_out_split(labels)
    train, val = ([(images[i], (str(labels[i]),)) for i in np.flatnonzero(part)] for part in (~held_out, held_out))
    return train, val


def photographs() -> tuple[Rows, Rows]:
    """Crops, every fifth of which is held out."""
    images, labels = patches(64)
    rows = [(image, (label,)) for image, label in zip(images, labels, strict=True)]
    return [row for i, row in enumerate(rows) if i % 5], rows[::5]


def fours() -> tuple[Rows, Rows]:
    """One to four digits in the quarters of an image; its labels are those that are there."""
    rng = np.random.default_rng(0)

    def compose(rows: Rows, count: int) -> Rows:
        made = []
        for _ in range(count):
            image, labels = np.zeros((SIZE, SIZE, 3), "uint8"), set()
            for corner in rng.permutation(4)[: rng.integers(1, 5)]:
                digit, (label,) = rows[rng.integers(len(rows))]
                top, left = corner // 2 * SIZE // 2, corner % 2 * SIZE // 2
                image[top : top + SIZE // 2, left : left + SIZE // 2] = digit
                labels.add(label)
            made.append((image, tuple(sorted(labels))))
        return made

    train, val = digit_images(SIZE // 2)
    return compose(train, 1400), compose(val, 360)


def unbalanced() -> tuple[Rows, Rows]:
    train, val = digit_images()
    rare = [row for row in train if row[1] == (str(RARE),)]
    return [row for row in train if row[1] != (str(RARE),)] + rare[:FIFTIETH], val


def write(rows: Rows, folder: Path, several: bool) -> Path:
    """A list with the images beside it."""
    folder.mkdir(parents=True)
    with open(folder / "list.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "labels" if several else "label"])
        for i, (image, labels) in enumerate(rows):
            Image.fromarray(image).save(folder / f"{i}.png")
            table.writerow([f"{i}.png", "|".join(labels)])
    return folder / "list.csv"


def ours(train: Path, val: Path, folder: Path, epochs: int, extra: Sequence[str]) -> dict[str, Any]:
    """What one command reaches."""
    command = [
        *("train", str(train), "--val", str(val), "--output", str(folder), "--epochs", str(epochs)),
        *("--image-size", str(SIZE), "--batch-size", str(BATCH)),
        *(part for name, value in OPTIONS.items() for part in ("--option", f"{name}={json.dumps(value)}")),
        *extra,
    ]
    subprocess.run([sys.executable, "-m", "keras_resnext", *command], check=True, stdout=subprocess.DEVNULL)
    with open(folder / "history.csv", encoding="utf-8") as file:
        history = list(csv.DictReader(file))
    measure = "val_map" if "val_map" in history[0] else "val_top1"
    import keras_resnext

    result = keras_resnext.evaluate(folder / "best.keras", val)
    recall = dict(zip(result.classes, result.per_class, strict=True)).get(str(RARE)) if measure == "val_top1" else None
    return {
        "score": max(float(row[measure]) for row in history), "recall": recall,
        "seconds": statistics.median(float(row["seconds"]) for row in history),
    }  # fmt: skip


def timms(train: Rows, val: Rows, epochs: int, several: bool) -> dict[str, Any]:
    """What timm's defaults reach on the same network."""
    import torch

    from keras_resnext.benchmark.torch_models import load_torchvision

    torchvision = load_torchvision()
    from timm.data import create_transform
    from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler

    torch.manual_seed(0)
    classes = sorted({label for _, labels in train for label in labels})

    class Images(torch.utils.data.Dataset):  # type: ignore[misc]
        def __init__(self, rows: Rows, training: bool) -> None:
            self.rows = rows
            self.transform = create_transform(SIZE, is_training=training, **({} if training else {"crop_pct": 1.0}))

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, index: int) -> Any:
            image, labels = self.rows[index]
            target = torch.tensor([float(name in labels) for name in classes])
            return self.transform(Image.fromarray(image)), target if several else target.argmax()

    loaders = [
        torch.utils.data.DataLoader(Images(rows, training), BATCH, shuffle=training, drop_last=training, num_workers=1)
        for rows, training in ((train, True), (val, False))
    ]
    model = torchvision.models.ResNet(
        torchvision.models.resnet.Bottleneck, list(BLOCKS), len(classes), groups=GROUPS, width_per_group=WIDTH
    )
    optimizer = create_optimizer_v2(model, "sgd", lr=0.1 * BATCH / 256, weight_decay=2e-5, momentum=0.9)
    scheduler = CosineLRScheduler(optimizer, epochs, warmup_t=5, warmup_lr_init=1e-5)
    loss = BinaryCrossEntropy() if several else LabelSmoothingCrossEntropy(0.1)
    best, recall, seconds = -1.0, None, []
    for epoch in range(epochs):
        begun = time.perf_counter()
        scheduler.step(epoch)
        model.train()
        for images, targets in loaders[0]:
            optimizer.zero_grad()
            loss(model(images), targets).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            found = [(model(images), targets) for images, targets in loaders[1]]
        scores, targets = (torch.cat(part).numpy() for part in zip(*found, strict=True))
        seconds.append(time.perf_counter() - begun)
        if several:
            score = float(np.mean([average_precision(*pair) for pair in zip(scores.T, targets.T > 0.5, strict=True)]))
        else:
            score = float((scores.argmax(1) == targets).mean())
        if score > best:
            best = score
            rare = targets == classes.index(str(RARE)) if str(RARE) in classes and not several else None
            recall = None if rare is None else float((scores.argmax(1) == targets)[rare].mean())
    return {"score": best, "recall": recall, "seconds": statistics.median(seconds)}


SETS: dict[str, tuple[Any, bool, list[list[str]]]] = {  # images, several labels, further arguments of each run
    "digits": (digit_images, False, [[]]),
    "photographs": (photographs, False, [[]]),
    "digits in fours": (fours, True, [[]]),
    "unbalanced digits": (unbalanced, False, [[], ["--balanced-sampling"], ["--class-weights", "balanced"]]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--sets", nargs="*", choices=SETS, default=list(SETS))
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    rows = []
    for name in given.sets:
        make, several, runs = SETS[name]
        train, val = make()
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            lists = [write(part, place / split, several) for split, part in (("train", train), ("val", val))]
            for i, extra in enumerate(runs):
                found = ours(*lists, place / f"run{i}", given.epochs, extra)
                rows.append({"set": name, "by": " ".join(["keras-resnext train", *extra]), **found})
                print(rows[-1], flush=True)
        rows.append({"set": name, "by": "timm's defaults", **timms(train, val, given.epochs, several)})
        print(rows[-1], flush=True)
    if given.output:
        given.output.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
