"""The handwritten digits that the quickstart learns (assets/LICENSE-digits.txt), and an image of its predictions."""

import io
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from .figures import new_figure, save_figure

HELD_OUT = 0.2
SHOWN = 20


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """The digits of assets/LICENSE-digits.txt: uint8 images (1797, 8, 8) on 0..16 and uint8 labels (1797,)."""
    with resources.files(__package__).joinpath("assets/digits.npz").open("rb") as file, np.load(file) as data:
        return data["images"], data["labels"]


def held_out_split(labels: np.ndarray) -> np.ndarray:
    """Mask of the digits that training never sees: the same random fifth of each class in every run."""
    rng = np.random.default_rng(0)
    mask = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        mask[members[: round(len(members) * HELD_OUT)]] = True
    return mask


def encode_png(digit: np.ndarray) -> bytes:
    """A digit (8, 8) on 0..16 as a grey PNG file on 0..255."""
    stream = io.BytesIO()
    Image.fromarray(np.round(digit * (255 / 16)).astype("uint8")).save(stream, "PNG")
    return stream.getvalue()


def draw_predictions(path: Path, digits: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> None:
    """Writes a PNG of up to 20 digits (n, 8, 8) with the predicted class and its probability; wrong ones in red.

    The wrong ones come first, up to a quarter of the places: they are the interesting ones.
    """
    predicted = probabilities.argmax(axis=1)
    wrong, right = np.flatnonzero(predicted != labels), np.flatnonzero(predicted == labels)
    right = np.random.default_rng(0).permutation(right)
    chosen = np.concatenate([wrong[: SHOWN // 4], right])[:SHOWN]
    figure = new_figure((9, 8.4))
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    figure.suptitle(
        f"Held-out digits, classified by the SavedModel: {len(right)} of {len(labels)} right "
        f"({len(right) / len(labels):.1%})",
        fontsize=13,
    )
    for axis, i in zip(figure.subplots(4, 5).flat, chosen, strict=False):
        bad = predicted[i] != labels[i]
        colour = "#c62828" if bad else "#2e7d32"
        axis.imshow(digits[i], cmap="gray_r", vmin=0, vmax=16)
        text = f"{predicted[i]}   {probabilities[i].max():.0%}" + (f"   (is {labels[i]})" if bad else "")
        axis.set_title(text, color=colour, fontsize=12, fontweight="bold" if bad else "normal")
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set(color=colour, linewidth=2.5 if bad else 1)
    save_figure(figure, path)


def write_folders(path: str | Path) -> None:
    """Writes the digits as PNG files in class folders, PATH/train/0 to PATH/val/9, the held-out ones under val."""
    digits, labels = load_digits()
    for i, (digit, label, held_out) in enumerate(zip(digits, labels, held_out_split(labels), strict=True)):
        folder = Path(path, "val" if held_out else "train", str(label))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:04}.png").write_bytes(encode_png(digit))
