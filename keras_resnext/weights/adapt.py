"""What of a checkpoint may differ from the model that it is loaded into: input channels and classes."""

from collections.abc import Mapping

import numpy as np

FIRST_CONVOLUTIONS = ("conv1.weight", "stem.0.conv.weight")

Entries = dict[str, tuple[str, np.ndarray]]  # canonical name -> (name in the checkpoint, array as PyTorch has it)
Shape = tuple[int, ...]


def swap_red_and_blue(entries: Entries) -> Entries:
    """The same network for RGB images, of one that was trained on BGR (OpenCV, Caffe, Detectron).

    Raises:
        ValueError: the first convolution does not take three channels.
    """
    name = _first_convolution(entries)
    if name not in entries:
        raise ValueError(
            f"bgr=True, but the checkpoint has no first convolution: none of {', '.join(FIRST_CONVOLUTIONS)}"
        )
    original, kernel = entries[name]
    if kernel.ndim != 4 or kernel.shape[1] != 3:
        raise ValueError(f"bgr=True needs a first convolution of three channels; {original} has shape {kernel.shape}")
    return {**entries, name: (original, kernel[:, ::-1])}


def adapt(entries: Entries, wanted: Mapping[str, Shape]) -> tuple[Entries, set[str], list[str]]:
    """Fits input channels and head to a model.

    A kernel for other channels than the model's is summed over them for one channel, as if the grey image were
    repeated; for more it is tiled and scaled by old / new, which keeps the size of its outputs (timm's
    `adapt_input_conv`). A head for other classes, or none, is left out: the model keeps its own.

    Args:
        entries: the checkpoint's.
        wanted: canonical name to PyTorch shape, of the model.

    Returns:
        (entries, names that the model keeps as they are, sentences that tell what was changed).
    """
    entries, kept, notes = dict(entries), set[str](), list[str]()
    name = _first_convolution(entries)
    if name in wanted and name in entries:
        original, kernel = entries[name]
        old, new = (shape[1] if len(shape) == 4 else 0 for shape in (kernel.shape, wanted[name]))
        if old and new and old != new:
            entries[name] = original, _adapt_channels(kernel, new)
            how = "summed over them" if new == 1 else f"tiled and scaled by {old}/{new}"
            notes.append(f"{original} has {old} input channels in the checkpoint and {new} in the model: {how}")
    if "fc.weight" in wanted:
        classes = wanted["fc.weight"][0]
        head = entries.get("fc.weight")
        if head is None or (head[1].ndim == 2 and head[1].shape[0] != classes):
            kept = {name for name in wanted if name.startswith("fc.")}
            entries = {name: entry for name, entry in entries.items() if not name.startswith("fc.")}
            has = "no head" if head is None else f"a head of {head[1].shape[0]} classes"
            notes.append(
                f"the checkpoint has {has} and the model one of {classes}: it starts at random and must be trained"
            )
    return entries, kept, notes


def _first_convolution(entries: Entries) -> str:
    return next((name for name in FIRST_CONVOLUTIONS if name in entries), FIRST_CONVOLUTIONS[0])


def _adapt_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """(filters, old, height, width) to (filters, channels, height, width)."""
    old = kernel.shape[1]
    wide = kernel.astype("float32")
    if channels == 1:
        return wide.sum(axis=1, keepdims=True)
    return np.tile(wide, (1, -(-channels // old), 1, 1))[:, :channels] * np.float32(old / channels)
