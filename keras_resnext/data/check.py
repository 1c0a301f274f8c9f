"""Finds images that cannot be read before training does."""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from rich.console import Console

from ..files import placed_whole
from ..multichannel import read_bands
from ..preprocessing import check_depth, open_image
from ..progress import Bar
from ..terminal import printable
from .listing import Listing

LARGEST_SHARE = 0.01  # of all images that may be skipped
SHOWN = 5
BLOCK = 1024  # images that wait for a thread at the same time

# What else is done with an image once it is decoded: its index, the file's content, (width, height), and the image,
# which of a JPEG may be smaller.
Look = Callable[[int, bytes, tuple[int, int], Image.Image], None]


def default_skip_limit(count: int) -> int:
    """How many of `count` images may be unreadable where nobody says: a hundredth, at least one."""
    return max(1, int(count * LARGEST_SHARE))


def find_unreadable(
    listing: Listing,
    indices: Sequence[int] | np.ndarray | None = None,
    *,
    progress: Callable[[int], None] | None = None,
    bands: int = 3,
    look: Look | None = None,
    side: int = 1,
) -> dict[int, str]:
    """Decodes images on all processors, coarsely (JPEG at an eighth of its size): index and what is wrong.

    Args:
        listing: what to check.
        indices: of the images to look at; default all.
        progress: called with the number of images looked at so far.
        bands: how many channels they are to have; of others than three all of each image is read.
        look: called in the threads with each image that is decoded; what it raises counts as what is wrong.
        side: pixels of the sides that a JPEG must keep.
    """
    places = range(len(listing)) if indices is None else [int(index) for index in indices]
    found = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow lets threads decode at the same time
        for start in range(0, len(places), BLOCK):
            block = places[start : start + BLOCK]
            for index, problem in zip(
                block, pool.map(lambda i: _problem(listing, i, bands, look, side), block), strict=True
            ):
                if problem:
                    found[index] = problem
            if progress:
                progress(start + len(block))
    return found


def check_images(
    listing: Listing, *, strict: bool = False, limit: int | None = None, problems: dict[int, str] | None = None
) -> tuple[Listing, list[tuple[str, str]]]:
    """Leaves out the images that cannot be read.

    Args:
        listing: what to check.
        strict: whether one unreadable image is an error.
        limit: how many may be left out; default a hundredth of them, at least one.
        problems: what `find_unreadable` found, if it was asked before.

    Returns:
        (the readable ones, [(name, reason), …] of the others).

    Raises:
        ValueError: too many cannot be read, or nothing of a class is left; the first few are named.
    """
    limit = 0 if strict else default_skip_limit(len(listing)) if limit is None else limit
    problems = find_unreadable(listing) if problems is None else problems
    skipped = [(listing.name(index), reason) for index, reason in problems.items()]
    if len(skipped) > limit:
        listed = "; ".join(f"{name}: {reason}" for name, reason in skipped[:SHOWN])
        more = f"; and {len(skipped) - SHOWN} more" if len(skipped) > SHOWN else ""
        raise ValueError(
            f"{len(skipped)} of {len(listing)} images cannot be read, more than the limit of {limit}: {listed}{more}"
        )
    kept = listing.select(np.setdiff1d(np.arange(len(listing)), list(problems)))
    lost = np.flatnonzero((listing.counts() > 0) & (kept.counts() == 0))
    if len(lost):
        raise ValueError(f"no image of class {listing.classes[lost[0]]!r} can be read; the first: {skipped[0][0]}")
    return kept, skipped


def leave_out_unreadable(
    listing: Listing,
    name: str,
    *,
    strict: bool,
    limit: int | None,
    console: Console,
    memory: Path | None = None,
    bands: int = 3,
    look: Look | None = None,
    side: int = 1,
) -> Listing:
    """`check_images` that shows its progress, and tells what it leaves out, on `console`.

    Args:
        listing: what to check.
        name: what the progress calls these images, such as "training".
        strict, limit: of `check_images`.
        console: where to tell.
        memory: a JSON file of what was found, by the listing's fingerprint; images that are known from there are not
            looked through again.
        bands, look, side: of `find_unreadable`; only images that are looked through are looked at.
    """
    known = {} if memory is None else _recall(memory)
    key = listing.fingerprint() + f" {bands}" * (bands != 3) if memory is not None else ""
    places = {str(index): index for index in range(len(listing))} if key in known else {}
    if key in known and known[key].keys() <= places.keys():
        problems = {places[index]: str(reason) for index, reason in known[key].items()}
    else:
        with Bar(f"Checking the {name} images", len(listing), console, unit="images") as bar:
            problems = find_unreadable(listing, progress=bar.update, bands=bands, look=look, side=side)
    kept, skipped = check_images(listing, strict=strict, limit=limit, problems=problems)
    if memory is not None and known.get(key) != {str(index): reason for index, reason in problems.items()}:
        memory.parent.mkdir(parents=True, exist_ok=True)
        with placed_whole(memory) as aside:
            aside.write_bytes(json.dumps({**known, key: problems}, indent=2).encode("utf-8", "surrogateescape"))
    for image, reason in skipped:
        console.print(printable(f"left out: {image}: {reason}"), markup=False, soft_wrap=True)
    return kept


def _recall(memory: Path) -> dict[str, dict[str, str]]:
    try:
        found = json.loads(memory.read_text(encoding="utf-8"))
        return {key: dict(problems) for key, problems in found.items()}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):  # not there, or not of this making
        return {}


def _problem(listing: Listing, index: int, bands: int, look: Look | None, side: int) -> str:
    try:
        data = listing.read(index)
        if not data:
            return "the file is empty"
        if bands != 3:
            read_bands(data, bands)
            return ""
        with open_image(data) as image:
            size = image.size
            image.draft("RGB", (side, side))
            image.load()
            check_depth(image)
            if look:
                look(index, data, size, image)
    except UnidentifiedImageError:
        return "it is not an image that Pillow reads"
    except Exception as error:  # Pillow's decoders raise anything at all on broken data
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return " ".join(reason.removeprefix("image=bytes ").split())
    return ""
