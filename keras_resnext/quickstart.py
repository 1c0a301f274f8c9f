"""The whole way in two minutes: train on handwritten digits, export, classify with the export and without Keras."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.markup import escape

from .classifier import open_classifier
from .digits import draw_predictions, encode_png, held_out_split, load_digits
from .files import placed_whole
from .model import ResNeXt
from .preprocessing import preprocess_input
from .progress import Bar
from .terminal import PlainConsole
from .training.callbacks import ProgressBar

SIZE = 16  # the images have 8x8 pixels; one stride in the first stage gives the net that size back
BATCH_SIZE = 32
LEARNING_RATE = 0.005

# TensorFlow imports Keras where it finds it, so the process is told that there is none.
_CLASSIFY_WITHOUT_KERAS = """
import sys
sys.modules["keras"] = None
import json, pathlib
import tensorflow as tf
images = [path.read_bytes() for path in sorted(pathlib.Path(sys.argv[2]).glob("*.png"))]
outputs = tf.saved_model.load(sys.argv[1]).signatures["serving_bytes"](image_bytes=tf.constant(images))
assert not any(name.startswith("keras.") for name in sys.modules)
answer = {"probabilities": outputs["probabilities"].numpy().tolist(),
          "labels": [row[0].decode() for row in outputs["top_labels"].numpy()]}
print("\\n" + json.dumps(answer))
"""


@dataclass(frozen=True)
class QuickstartResult:
    """What `run_quickstart` made.

    Attributes:
        accuracy: fraction of the held-out digits that the exported model classifies correctly.
        version: folder of the SavedModel.
        model: the .keras file.
        image: PNG of held-out digits with their predictions.
        sample: PNG of one held-out digit that is classified correctly, 8x8 pixels.
        max_difference: largest difference between the probabilities of the SavedModel and of Keras.
        seconds: the whole run.
    """

    accuracy: float
    version: Path
    model: Path
    image: Path
    sample: Path
    max_difference: float
    seconds: float


def run_quickstart(
    output_dir: str | Path = "savedmodels", *, epochs: int = 14, seed: int = 0, console: Console | None = None
) -> QuickstartResult:
    """Trains a small ResNeXt on handwritten digits, exports it, and has the export classify digits it never saw.

    Writes `digits/VERSION` (the next free one), `digits.keras`, `digits.png` and `digit.png` into `output_dir`, and an
    entry for `digits` into `models.config`, by which TF Serving finds it.
    Needs no network. Seeds Python's, NumPy's and TensorFlow's random numbers.

    Args:
        output_dir: folder for the results; made where it is missing.
        epochs: passes over the training digits, at least 1.
        seed: of weights, order and shifts. The split into training and held-out digits is always the same.
        console: where to print; default standard output.

    Raises:
        ValueError: epochs below 1.
        RuntimeError: Keras runs on another backend than TensorFlow, or the export answers differently from Keras.
    """
    from .export import export_saved_model
    from .export.models_config import update_config

    if epochs < 1:
        raise ValueError(f"epochs={epochs!r} must be at least 1")
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"exporting needs Keras on TensorFlow, not {keras.backend.backend()!r}: set KERAS_BACKEND=tensorflow"
        )
    started = time.monotonic()
    console = console or PlainConsole(highlight=False)
    output = Path(output_dir)
    output.mkdir(parents=True, exist_ok=True)

    digits, labels = load_digits()
    held_out = held_out_split(labels)
    pngs = [encode_png(digit) for digit in digits]
    pixels = _decode(pngs)
    images = preprocess_input(pixels)
    console.print(f"Handwritten digits: {(~held_out).sum()} to train on, {held_out.sum()} held out.")

    model = train(images[~held_out], labels[~held_out], epochs=epochs, seed=seed, console=console)
    model.save(file := output / "digits.keras")
    update_config(output, str)  # where there is none, export writes none
    version = export_saved_model(model, output / "digits", labels=[str(digit) for digit in range(10)], keras_file=True)
    console.print(f"Exported [bold]{escape(str(version))}[/]; loading it in a process without Keras …")

    unseen = [pngs[i] for i in np.flatnonzero(held_out)]
    probabilities, names = _classify_without_keras(version, unseen)
    difference = float(np.abs(probabilities - open_classifier(model).scores(pixels[held_out])).max())
    if difference > 1e-4:
        raise RuntimeError(f"{version} differs from the Keras model by {difference:.1e} in its probabilities")
    correct = np.array(names) == labels[held_out].astype(str)
    accuracy = float(correct.mean())
    draw_predictions(output / "digits.png", digits[held_out], labels[held_out], probabilities)
    with placed_whole(output / "digit.png") as aside:
        aside.write_bytes(unseen[correct.argmax()])  # the first right one

    result = QuickstartResult(
        accuracy=accuracy,
        version=version,
        model=file,
        image=output / "digits.png",
        sample=output / "digit.png",
        max_difference=difference,
        seconds=time.monotonic() - started,
    )
    _tell(console, result, int(correct.sum()), len(correct))
    return result


def train(images: np.ndarray, labels: np.ndarray, *, epochs: int, seed: int, console: Console) -> keras.Model:
    """A ResNeXt of one block a stage, fitted to (n, 16, 16, 3) normalised images with a progress bar."""
    keras.utils.set_random_seed(seed)
    model = ResNeXt(
        groups=8, width_per_group=4, blocks=(1, 1, 1), strides=(2, 2, 2), stem="cifar", stem_channels=16,
        base_channels=16, classes=10, input_shape=(SIZE, SIZE, 3), name="digits_resnext",
    )  # fmt: skip
    data = _ShiftedDigits(images, labels, seed)
    steps = len(data) * epochs
    rate = keras.optimizers.schedules.CosineDecay(
        LEARNING_RATE / 20, max(steps - len(data), 1), warmup_target=LEARNING_RATE, warmup_steps=len(data)
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=0.01)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    with Bar("Training", steps, console) as bar:
        watcher = ProgressBar(bar, epochs, ("loss", "accuracy"))
        done = model.fit(data, epochs=epochs, verbose=0, callbacks=[watcher])
    accuracy, what = done.history["accuracy"][-1], f"{epochs} epoch{'s' * (epochs != 1)}"
    console.print(f"Training: {what}, accuracy {accuracy:.1%} on shifted training digits.")
    return model


class _ShiftedDigits(keras.utils.PyDataset):
    """Batches in a new order every epoch, each image shifted by up to one pixel of its 8x8 original."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, seed: int) -> None:
        super().__init__()
        self.images, self.labels = images, labels
        self.rng = np.random.default_rng(seed)
        self.order = self.rng.permutation(len(labels))

    def __len__(self) -> int:
        return len(self.labels) // BATCH_SIZE

    def on_epoch_end(self) -> None:
        self.order = self.rng.permutation(len(self.labels))

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = self.order[index * BATCH_SIZE : (index + 1) * BATCH_SIZE]
        reach = SIZE // 8
        padded = np.pad(self.images[chosen], ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
        shifts = self.rng.integers(0, 2 * reach + 1, (len(chosen), 2))
        crops = [image[y : y + SIZE, x : x + SIZE] for image, (y, x) in zip(padded, shifts, strict=True)]
        return np.stack(crops), self.labels[chosen]


def _decode(pngs: Sequence[bytes]) -> np.ndarray:
    """Images (n, 16, 16, 3) on 0..255, exactly as the exported model will see them."""
    import tensorflow as tf

    from .export.image_decoding import decode_image

    decode: Callable[[Any], Any] = tf.function(
        lambda data: tf.map_fn(lambda one: decode_image(one, (SIZE, SIZE), SIZE), data, fn_output_signature="float32")
    )
    return decode(tf.constant(list(pngs))).numpy()


def _classify_without_keras(version: Path, pngs: Sequence[bytes]) -> tuple[np.ndarray, list[str]]:
    """Probabilities (n, 10) and best labels that the SavedModel's `serving_bytes` gives in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        for i, png in enumerate(pngs):
            Path(folder, f"{i:05}.png").write_bytes(png)
        process = subprocess.run(
            [sys.executable, "-c", _CLASSIFY_WITHOUT_KERAS, str(version), folder],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    if process.returncode:
        raise RuntimeError(f"{version} does not run without Keras: {process.stderr[-1000:]}")
    answer = json.loads(process.stdout.splitlines()[-1])
    return np.array(answer["probabilities"]), answer["labels"]


def _tell(console: Console, result: QuickstartResult, correct: int, count: int) -> None:
    console.print(
        f"[bold green]{correct} of {count} held-out digits right ({result.accuracy:.1%})[/], as PNG files through "
        f"serving_bytes, without Keras; probabilities equal to Keras's to {result.max_difference:.0e}.",
        soft_wrap=True,
    )
    for what, path in (("SavedModel", result.version), ("Keras model", result.model), ("Image", result.image)):
        console.print(f"  {what:12} {escape(str(path))}", soft_wrap=True)
    console.print(f"Done in {result.seconds:.0f} s. Next:")
    for command in (
        f"keras-resnext predict {result.model} {result.sample}",
        f"keras-resnext serve {result.version.parent.parent}      # a page; needs pip install 'keras_resnext[serve]'",
        f"keras-resnext export {result.model} {result.version.parent}",
        "keras-resnext predict resnext50_32x4d.pth cat.jpg      # any PyTorch ResNeXt checkpoint of yours",
        "python -c \"import keras_resnext; keras_resnext.from_pytorch('resnext50_32x4d.pth').summary()\"",
    ):
        console.print(f"  {command}", markup=False, soft_wrap=True)
