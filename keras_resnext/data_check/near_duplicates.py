"""Images that show the same, found without comparing each with each."""

from collections.abc import Iterator

import numpy as np

BANDS = 4  # of 16 bits: of two hashes that differ in at most 3 bits one band at least is the same
NEAR = 10  # bits of 64 that the hashes of two near-duplicates may differ in
ALIKE = 0.985  # correlation of their small grey images
COLOURS = 24  # of 255, between their mean colours
MOST = 128  # images of one band's value that each is compared with; flat ones may be thousands
PLAIN = 6.0  # deviation of brightness below which an image shows nothing to compare


def find_duplicates(facts: np.ndarray) -> np.ndarray:
    """Which image each one is a copy of.

    The same file is a copy; so are images whose hashes share a band, differ in at most `NEAR` bits, and whose small grey
    images correlate: copies that were saved again, resized or made a little brighter. Copies of copies belong together.

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
    """Pairs (a, b) of places in `hashes` (n,) that share a band and differ in at most `NEAR` bits; some twice."""
    for band in range(BANDS):
        keys = np.roll(np.arange(BANDS), band) * 16  # this band first, so that like hashes lie side by side
        turned = np.zeros_like(hashes)
        for shift, key in enumerate(keys[::-1]):
            turned |= ((hashes >> np.uint64(key)) & np.uint64(0xFFFF)) << np.uint64(16 * shift)
        order = np.argsort(turned, kind="stable")
        leading = turned[order] >> np.uint64(48)
        for step in range(1, MOST):
            same = np.flatnonzero(leading[step:] == leading[:-step])
            if not len(same):
                break
            a, b = order[same], order[same + step]
            near = np.bitwise_count(hashes[a] ^ hashes[b]) <= NEAR if _COUNTS else _bits(hashes[a] ^ hashes[b]) <= NEAR
            yield a[near], b[near]


_COUNTS = hasattr(np, "bitwise_count")  # since NumPy 2


def _bits(values: np.ndarray) -> np.ndarray:
    return np.unpackbits(values.view("uint8").reshape(len(values), 8), axis=1).sum(1)


def _join(groups: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Makes one group of each pair's two, in place, under the smaller number."""
    for i, j in zip(a.tolist(), b.tolist(), strict=True):
        while groups[i] != i:
            i = int(groups[i])
        while groups[j] != j:
            j = int(groups[j])
        groups[max(i, j)] = min(i, j)
