"""Which images each step of training shows, as a function of seed and step: any batch can be repeated."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .listing import Listing
from .transforms import DRAWS


@dataclass(frozen=True, eq=False)
class Groups:
    """Images that are to be drawn equally often, whatever their number; a value of its own for caches.

    Attributes:
        members: indices int64 (n,) of each group, none of which is empty. An image may be in several.
    """

    members: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, listing: Listing) -> "Groups":
        """One for each class, or each label and the images without any, that there are images of."""
        labels = listing.labels
        if listing.kind == "single":
            masks = [labels == label for label in range(len(listing.classes))]
        else:
            masks = [*(labels.T > 0), ~labels.any(1)]
        return cls(tuple(np.flatnonzero(mask) for mask in masks if mask.any()))


@dataclass(frozen=True)
class Step:
    """What one step of training shows: `n` images of this process's share of the batch.

    Attributes:
        indices: (n,) into the listing.
        draws: (n, DRAWS) uniform numbers from 0 to 1 for crop and flip.
        seeds: (n,) for what changes single images.
        seed: for what mixes the batch.
    """

    indices: np.ndarray
    draws: np.ndarray
    seeds: np.ndarray
    seed: int


@dataclass(frozen=True)
class Plan:
    """Which images each step shows, and the random numbers that go with them.

    Attributes:
        images: how many there are.
        batch_size: of all processes together.
        seed: of everything.
        repeats: how many times in a row an image is drawn.
        shard: (i, n): of every batch this process takes the images i, i + n, i + 2n, …, so that repeats of an image go
            to different processes, as in timm's RepeatAugSampler.
        groups: of which each is drawn equally often in an epoch, whose length stays `images`; None: each image once.
    """

    images: int
    batch_size: int
    seed: int
    repeats: int = 1
    shard: tuple[int, int] = (0, 1)
    groups: Groups | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= self.images:
            raise ValueError(
                f"batch_size={self.batch_size!r} must lie in 1..{self.images}, the number of training images"
            )
        if self.batch_size % self.shard[1]:
            raise ValueError(f"batch_size={self.batch_size!r} must be a multiple of the {self.shard[1]} processes")

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch; the images left over differ from epoch to epoch."""
        return self.images // self.batch_size

    def step(self, number: int) -> Step:
        """Step `number`, counted from 0 over all epochs."""
        epoch, position = divmod(number, self.steps_per_epoch)
        rng = np.random.default_rng((self.seed, epoch, position))
        draws, seeds = rng.random((self.batch_size, DRAWS)), rng.integers(0, 2**62, self.batch_size)
        seed = int(rng.integers(0, 2**62))
        share, count = self.shard
        mine = slice(share, None, count)
        order = _order(self.images, self.repeats, self.seed, epoch, self.groups)
        indices = order[position * self.batch_size : (position + 1) * self.batch_size][mine]
        return Step(indices, draws[mine], seeds[mine], seed + share)


@lru_cache(maxsize=2)
def _order(images: int, repeats: int, seed: int, epoch: int, groups: Groups | None) -> np.ndarray:
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(images if groups is None else _draw_equally(groups, images, rng))
    return np.repeat(order, repeats)[:images]


def _draw_equally(groups: Groups, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` images, as many of each group: all of a small one several times, and a random rest of it once more."""
    shares = np.full(len(groups.members), count // len(groups.members))
    shares[rng.permutation(len(shares))[: count - shares.sum()]] += 1
    drawn = []
    for members, share in zip(groups.members, shares, strict=True):
        whole, rest = divmod(share, len(members))
        drawn += [np.tile(members, whole), rng.permutation(members)[:rest]]
    return np.concatenate(drawn)
