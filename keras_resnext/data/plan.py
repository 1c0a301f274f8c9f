"""Which images each step of training shows, as a function of seed and step: any batch can be repeated."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .transforms import DRAWS


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
        shard: (i, n): this process takes the i-th of n equal parts of every batch.
    """

    images: int
    batch_size: int
    seed: int
    repeats: int = 1
    shard: tuple[int, int] = (0, 1)

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
        size = self.batch_size // count
        mine = slice(share * size, (share + 1) * size)
        order = _order(self.images, self.repeats, self.seed, epoch)
        indices = order[position * self.batch_size : (position + 1) * self.batch_size][mine]
        return Step(indices, draws[mine], seeds[mine], seed + share)


@lru_cache(maxsize=2)
def _order(images: int, repeats: int, seed: int, epoch: int) -> np.ndarray:
    order = np.random.default_rng((seed, epoch)).permutation(images)
    return np.repeat(order, repeats)[:images]
