"""The images from which integers of a TFLite file take their ranges."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..preprocessing import load_image
from .prepared_model import PreparedModel

MAX_CALIBRATION = 300  # TensorFlow's guide asks for 100 to 500

Calibration = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | np.ndarray


def load_calibration(calibration: Calibration, prepared: PreparedModel) -> np.ndarray:
    """Up to 300 images, float32 (n, height, width, 3) on 0..255, resized and cropped as the model wants them.

    Args:
        calibration: as `LiteRTOptions` has it.
        prepared: whose size and preprocessing the images get.

    Raises:
        ValueError: no images, or an array of another shape, type or range; an image that cannot be read, unless it
            lies in a folder with others that can.
        FileNotFoundError: a folder or image that is not there.
    """
    size = prepared.size
    if isinstance(calibration, np.ndarray):
        if calibration.shape[1:] != (*size, 3) or not len(calibration) or calibration.dtype.kind not in "uif":
            raise ValueError(
                f"calibration has shape {calibration.shape} and type {calibration.dtype}; it must hold numbers of "
                f"shape (n, {size[0]}, {size[1]}, 3)"
            )
        chosen = np.asarray(evenly(calibration), "float32")
        if not (chosen.min() >= 0 and 1 < chosen.max() <= 255):
            raise ValueError(
                f"calibration has values from {chosen.min()} to {chosen.max()}; it must hold RGB on 0..255"
            )
        return chosen
    folder = isinstance(calibration, str | os.PathLike)
    if isinstance(calibration, str | os.PathLike):
        paths = _files(calibration)
    elif isinstance(calibration, list | tuple) and all(isinstance(path, str | os.PathLike) for path in calibration):
        paths = list(calibration)
    else:
        raise ValueError("calibration must be a folder of images, a list of paths, or an array")
    if not paths:
        raise ValueError(f"calibration={calibration!r} is empty: it holds no images")
    paths = evenly(paths)
    how = prepared.preprocessing
    loaded, broken = [], []
    for path in paths:
        try:
            loaded.append(
                load_image(path, size, resize=prepared.resize, interpolation=how.interpolation, exif=how.exif)
            )
        except (ValueError, OSError) as error:
            if not folder:
                raise
            broken.append(error)
    if not loaded:
        raise ValueError(f"calibration={calibration!r} holds no readable image among {len(broken)} files: {broken[0]}")
    if broken:
        warnings.warn(
            f"calibration: {len(broken)} of {len(paths)} files are not readable images and are skipped: {broken[0]}",
            stacklevel=4,
        )
    return np.stack(loaded).astype("float32")


def _files(folder: str | os.PathLike[str]) -> list[Path]:
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"calibration={os.fspath(folder)!r}: there is no such folder")
    files = (file for file in Path(folder).rglob("*") if file.is_file() and not file.name.startswith("."))
    return sorted(files)


def evenly(items: Any, count: int = MAX_CALIBRATION) -> Any:
    """At most `count` of the items, from all over."""
    return items[:: -(-len(items) // count)]
