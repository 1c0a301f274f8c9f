"""Plants faults in 5 % of real images and counts what `keras-resnext check` finds: the table in docs/training.md.

python -m tools.measure_data_check
"""

import tempfile
from pathlib import Path

import keras
import numpy as np

from keras_resnext.data_check import check_data
from keras_resnext.digits import load_digits
from tests.data_check.planted_faults import compare, patches, plant

SHARE = 0.05
ON_DIGITS = ("copy", "copy in val", "label", "dark", "bright", "unreadable")  # 8 pixels hold no more
PLAIN = 15  # deviation of brightness below which a patch of a photograph is left out: sky shows nothing


def photographs(folder: Path) -> None:
    """Patches of photographs of 64 and 96 pixels, without labels being judged."""
    for side in (64, 96):
        images, labels = patches(side)
        kept = [i for i, image in enumerate(images) if image.mean(2).std() > PLAIN]
        tell(
            f"patches of {side} pixels", folder / str(side), [images[i] for i in kept], [labels[i] for i in kept], None
        )


def digits(folder: Path) -> None:
    """All digits, with labels judged by their neighbours in plain pixels."""
    pixels, labels = load_digits()
    images = [np.repeat(np.round(digit * (255 / 16)).astype("uint8")[..., None], 3, 2) for digit in pixels]
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    tell("digits", folder / "digits", images, [str(label) for label in labels], model)


def tell(name: str, folder: Path, images: list[np.ndarray], labels: list[str], model: keras.Model | None) -> None:
    """Prints what was found, of several seeds together."""
    found: dict[str, np.ndarray] = {}
    false = total = 0
    for seed in range(3):
        planted = plant(folder / str(seed), images, labels, SHARE, seed, *((".png", ON_DIGITS) if model else ()))
        hits, alarms = compare(planted, check_data(planted.folder, model=model))
        found = {fault: found.get(fault, 0) + np.array(pair) for fault, pair in hits.items()}
        false, total = false + sum(alarms.values()), total + planted.images
        print(name, seed, alarms)
    rows = ", ".join(f"{fault} {a}/{b}" for fault, (a, b) in found.items())
    print(f"{name}: {rows}; false alarms {false}/{total} ({false / total:.1%})")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        photographs(Path(place))
        digits(Path(place))
