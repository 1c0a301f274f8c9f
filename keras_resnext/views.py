"""Views of an image whose scores are averaged: test-time augmentation."""

from collections.abc import Iterator

import numpy as np

TTA = {"flip": "an image and its mirror image", "5crop": "the four corners and the centre"}  # and what is averaged


def check_views(tta: str | None) -> None:
    """Raises ValueError unless `tta` is one of `TTA` or None."""
    if tta not in (None, *TTA):
        raise ValueError(f"tta={tta!r} must be one of {', '.join(TTA)}")


def views_of(images: np.ndarray, size: tuple[int, int], tta: str | None) -> Iterator[np.ndarray]:
    """The views of images (n, height, width, 3), each (n, *size, 3) where the images are large enough; see `TTA`."""
    if tta != "5crop":
        yield images
        if tta == "flip":
            yield images[:, :, ::-1]
        return
    (height, width), down, right = size, images.shape[1] - size[0], images.shape[2] - size[1]
    # The centre as `load_image` cuts it: halves are rounded to even.
    for top, left in ((0, 0), (0, right), (down, 0), (down, right), (round(down / 2), round(right / 2))):
        yield images[:, top : top + height, left : left + width]
