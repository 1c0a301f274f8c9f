"""Finds pictures that cannot be read before training does."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from .listing import Listing

LARGEST_SHARE = 0.01  # of all pictures that may be skipped
SHOWN = 5


def default_skip_limit(count: int) -> int:
    """How many of `count` pictures may be unreadable where nobody says: a hundredth, at least one."""
    return max(1, int(count * LARGEST_SHARE))


def check_pictures(
    listing: Listing,
    *,
    strict: bool = False,
    limit: int | None = None,
    threads: int = 4,
    progress: Callable[[int], None] | None = None,
) -> tuple[Listing, list[tuple[str, str]]]:
    """Decodes every picture once, coarsely (JPEG at an eighth of its size), and leaves out what cannot be read.

    Args:
        listing: what to check.
        strict: whether one unreadable picture is an error.
        limit: how many may be left out; default a hundredth of them, at least one.
        threads: that decode at the same time; Pillow lets them.
        progress: called with the number of pictures checked so far.

    Returns:
        (the readable ones, [(name, reason), …] of the others).

    Raises:
        ValueError: too many cannot be read, or nothing of a class is left; the first few are named.
    """
    limit = 0 if strict else default_skip_limit(len(listing)) if limit is None else limit
    readable, skipped = np.ones(len(listing), bool), []
    with ThreadPoolExecutor(threads) as pool:
        for index, problem in enumerate(pool.map(lambda i: _problem(listing, i), range(len(listing)), chunksize=16)):
            if problem:
                readable[index] = False
                skipped.append((listing.name(index), problem))
            if progress:
                progress(index + 1)
    if len(skipped) > limit:
        listed = "; ".join(f"{name}: {reason}" for name, reason in skipped[:SHOWN])
        more = f"; and {len(skipped) - SHOWN} more" if len(skipped) > SHOWN else ""
        raise ValueError(
            f"{len(skipped)} of {len(listing)} pictures cannot be read, more than the limit of {limit}: {listed}{more}"
        )
    kept = listing.select(np.flatnonzero(readable))
    lost = np.setdiff1d(listing.labels, kept.labels)
    if len(lost):
        raise ValueError(f"no picture of class {listing.classes[lost[0]]!r} can be read; the first: {skipped[0][0]}")
    return kept, skipped


def leave_out_unreadable(listing: Listing, name: str, *, strict: bool, limit: int | None, console: Console) -> Listing:
    """`check_pictures` that shows its progress, and tells what it leaves out, on `console`.

    Args:
        listing: what to check.
        name: what the progress calls these pictures, such as "training".
        strict, limit: of `check_pictures`.
        console: where to tell.
    """
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"Looking through the {name} pictures", total=len(listing))
        listing, skipped = check_pictures(
            listing, strict=strict, limit=limit, progress=lambda done: progress.update(task, completed=done)
        )
    for picture, reason in skipped:
        console.print(f"left out: {picture}: {reason}", markup=False, soft_wrap=True)
    return listing


def _problem(listing: Listing, index: int) -> str:
    try:
        data = listing.read(index)
        if not data:
            return "the file is empty"
        with Image.open(BytesIO(data)) as picture:
            picture.draft("RGB", (1, 1))
            picture.load()
    except Exception as error:  # Pillow's decoders raise anything at all on broken data
        return " ".join(str(error).replace(f"{BytesIO}", "").split()) or type(error).__name__
    return ""
