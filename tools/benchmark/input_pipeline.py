"""Times training's input pipeline against torchvision's on the same JPEG files, each on one core.

    python tools/benchmark/input_pipeline.py [--pictures 256] [--rounds 7] [--step]

Both crop at random, resize to 224x224, flip and normalise: ours by tf.data, torchvision's RandomResizedCrop on Pillow
pictures with a conversion to tensors. Pillow always antialiases; the second ratio is ours without antialiasing against
the same. Each pipeline is a process bound to one core, and they take turns. `--step` also trains ResNeXt-50 on batches
of 8 from the pipeline and tells how long the model waits for them. The files are parts of
scikit-image's photographs in ImageNet's usual size, 500x375.
"""

import argparse
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from turns import start, take_turns

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
SIZE, BATCH = 224, 32
PEER = "torchvision, Pillow"
REST = 1.5  # seconds between turns: tf.data still reads ahead for a while
OURS = {"ours, antialiased": True, "ours, not antialiased": False}


def write_pictures(folder: Path, count: int) -> None:
    """`count` JPEG files of 500x375 in two class folders: parts of real photographs, a little larger or smaller."""
    from PIL import Image
    from skimage import data

    photographs = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    rng = np.random.default_rng(0)
    for i in range(count):
        whole = Image.fromarray(photographs[i % len(photographs)])
        share = rng.uniform(0.7, 1) * min(whole.width / 500, whole.height / 375)
        width, height = int(500 * share), int(375 * share)
        left, top = rng.integers(0, whole.width - width + 1), rng.integers(0, whole.height - height + 1)
        part = whole.resize((500, 375), Image.Resampling.BICUBIC, (left, top, left + width, top + height))
        (folder / str(i % 2)).mkdir(exist_ok=True)
        part.save(folder / str(i % 2) / f"{i:05}.jpg", quality=90)


def ours(folder: Path, antialias: bool, batch: int = BATCH) -> Callable[[], object]:
    from keras_resnext.data import Augmentation, Plan, read_listing, training_batches
    from keras_resnext.published import Preprocessing

    listing = read_listing(folder)
    augmentation = Augmentation(size=SIZE, antialias=antialias)
    steps = range(1_000_000)
    batches = training_batches(listing, Plan(len(listing), batch, 0), augmentation, Preprocessing(), steps)
    iterator = iter(batches)
    return lambda: next(iterator)


def torchvisions(folder: Path) -> Callable[[], object]:
    import torch
    from PIL import Image

    library = torch.library.Library("torchvision", "DEF")
    for op in ("nms", "qnms"):  # declared so that torchvision imports on a CPU build of torch
        library.define(op + "(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    from torchvision import transforms

    torch.set_num_threads(1)
    change = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    files = sorted(folder.rglob("*.jpg"))
    rng = np.random.default_rng(0)

    def read(path: Path) -> "torch.Tensor":
        return change(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"))

    return lambda: torch.stack([read(files[i]) for i in rng.integers(0, len(files), BATCH)])


def child(label: str, folder: str) -> None:
    """Answers each line with the pictures a second of the next few batches."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    run = torchvisions(Path(folder)) if label == PEER else ours(Path(folder), OURS[label])
    for _ in range(4):
        run()
    print("ready", flush=True)
    for _ in sys.stdin:
        # What tf.data read ahead while the others had their turn does not count: the first batches are thrown away.
        for _ in range(4):
            run()
        start = time.perf_counter()
        for _ in range(16):
            run()
        print(16 * BATCH / (time.perf_counter() - start), flush=True)


def measure(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Pictures a second on one core, by round, of each pipeline that can be run."""
    processes = {}
    for label in (PEER, *OURS):
        try:
            processes[label] = start([sys.executable, __file__, "--child", label, str(folder)])
        except RuntimeError as error:
            print(f"{label}: cannot be run here: {error}")
    return take_turns(processes, rounds, REST)


def waiting(folder: Path, steps: int) -> dict[str, float]:
    """Milliseconds a training step of ResNeXt-50 takes and waits for its 8 pictures, the whole machine shared."""
    import keras

    import keras_resnext

    model = keras_resnext.ResNeXt50(input_shape=(SIZE, SIZE, 3), classes=2)
    model.compile(keras.optimizers.SGD(0.01), "categorical_crossentropy")
    take = ours(folder, antialias=True, batch=8)
    waited, whole = [], []
    for step in range(steps + 2):
        start = time.perf_counter()
        images, labels = take()
        taken = time.perf_counter()
        model.train_on_batch(images, labels)
        if step >= 2:
            waited.append(taken - start)
            whole.append(time.perf_counter() - start)
    return {"step_ms": 1e3 * statistics.median(whole), "wait_ms": 1e3 * statistics.median(waited)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--step", action="store_true", help="also how long a training step waits")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder, options.pictures)
        rates = measure(folder, options.rounds)
        found: dict[str, object] = {"pictures_per_second_per_core": rates}
        for label, values in rates.items():
            against = f"{statistics.median(values) / statistics.median(rates[PEER]):.2f}" if PEER in rates else "-"
            print(f"{label:<24}{statistics.median(values):7.0f} pictures/s a core   {against}", flush=True)
        if options.step:
            found["training"] = times = waiting(folder, 8)
            print("training step of 8: {step_ms:.0f} ms, of which {wait_ms:.1f} ms wait for pictures".format(**times))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    child(*sys.argv[2:]) if sys.argv[1:2] == ["--child"] else main()
