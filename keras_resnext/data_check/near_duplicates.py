"""Images that show the same, found without comparing each with each."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from .image_facts import PLAIN

BYTES, SHARED = 8, 2  # of a hash: two that differ in at most 6 bits have at least 2 of 8 bytes in common
NEAR = 8  # bits of 64 that the hashes of two near-duplicates may differ in
ALIKE = 0.97  # correlation of their small grey images
COLOURS = 24  # of 255, between their mean colours
MOST = 64  # images with the same bytes that each is compared with; of some sets they are thousands


def find_duplicates(facts: np.ndarray) -> np.ndarray:
    """Which image each one is a copy of.

    The same file is a copy; so are images whose hashes differ in at most `NEAR` bits and whose small grey images
    correlate: copies that were saved again, resized or made a little brighter. Copies of copies belong
    together.

    Args:
        facts: `FACTS` (n,).

    Returns:
        int64 (n,): the first image of each one's group; of an image without copies itself.
    """
    groups = np.arange(len(facts))
    _, first, place = np.unique(facts["digest"], return_index=True, return_inverse=True)
    groups = first[place]
    rows = np.flatnonzero((groups == np.arange(len(facts))) & (facts["deviation"] >= PLAIN))
    thumbs = facts["thumb"][rows].reshape(len(rows), -1).astype("float32")
    thumbs -= thumbs.mean(1, keepdims=True)
    thumbs /= np.maximum(np.linalg.norm(thumbs, axis=1, keepdims=True), 1e-6)
    colours = facts["colour"][rows].astype("int16")
    for a, b in _candidates(facts["hash"][rows]):
        near = np.einsum("ij,ij->i", thumbs[a], thumbs[b]) >= ALIKE
        near &= np.abs(colours[a] - colours[b]).max(1) <= COLOURS
        _join(groups, rows[a[near]], rows[b[near]])
    while (groups != (up := groups[groups])).any():
        groups = up
    return groups


def _candidates(hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs (a, b) of places in `hashes` (n,) that share `SHARED` bytes and differ in at most `NEAR` bits; some twice.

    Multi-index hashing (Norouzi et al. 2012): sorted by each choice of bytes, like hashes lie side by side.
    """
    parts = hashes.astype("<u8").view("uint8").reshape(len(hashes), BYTES)
    for number, chosen in enumerate(combinations(range(BYTES), SHARED)):
        keys = np.zeros(len(hashes), "uint32")
        for byte in chosen:
            keys = keys << np.uint32(8) | parts[:, byte]
        order = np.lexsort((hashes, keys))
        keys = keys[order]
        same = np.arange(len(keys) - 1)
        for step in range(1, MOST):
            same = same[same < len(keys) - step]
            same = same[keys[same] == keys[same + step]]
            if not len(same):
                break
            a, b = order[same], order[same + step]
            bits = _bits(hashes[a] ^ hashes[b])
            near = (bits <= NEAR) & ((bits > 0) | (number == 0))  # equal ones lie side by side every time
            yield a[near], b[near]


def _bits(values: np.ndarray) -> np.ndarray:
    """How many bits of each uint64 are set; NumPy has it since 2.0."""
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(values)
    return np.unpackbits(values.view("uint8").reshape(len(values), 8), axis=1).sum(1)


def _join(groups: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Makes one group of each pair's two, in place, under the smaller number."""
    for i, j in zip(a.tolist(), b.tolist(), strict=True):
        while groups[i] != i:
            i = int(groups[i])
        while groups[j] != j:
            j = int(groups[j])
        groups[max(i, j)] = min(i, j)
