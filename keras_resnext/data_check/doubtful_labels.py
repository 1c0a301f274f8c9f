"""Labels that the images speak against: confident learning, in NumPy."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..classifier import Classifier
from ..explain.features import features_of
from ..labels import match_classes
from ..progress import Bar

NEIGHBOURS = 10
SURE = 0.7  # of the usual probability of a class, from which an image may be of it; 1 in the paper misses more
TIMES = 2.0  # how much more probable another class must be than the label
BLOCK = 1024  # images whose neighbours are looked for at the same time
BATCH = 32


def neighbour_probabilities(features: np.ndarray, labels: np.ndarray, classes: int, excluded: np.ndarray) -> np.ndarray:
    """The class of an image by its nearest neighbours without itself: the leave-one-out form of cross-validation.

    Args:
        features: float32 (n, channels); they are centred, and compared by their cosine.
        labels: int (n,).
        classes: how many there are.
        excluded: int (n,): images with the same number do not judge each other, as copies of one image.

    Returns:
        float32 (n, classes): shares of the `NEIGHBOURS` nearest, each with its cosine as weight.
    """
    found = features - features.mean(0)
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    count = min(NEIGHBOURS, len(labels) - 1)
    shares = np.zeros((len(labels), classes), "float32")
    for start in range(0, len(labels), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(labels)))
        alike = found[rows] @ found.T
        alike[excluded[rows][:, None] == excluded] = -1
        nearest = np.argpartition(-alike, count - 1, axis=1)[:, :count]
        weights = np.maximum(np.take_along_axis(alike, nearest, axis=1), 1e-6)
        np.add.at(shares, (rows[:, None], labels[nearest]), weights / weights.sum(1, keepdims=True))
    return shares


def find_doubtful(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images that are surely of another class than their label, by confident learning.

    An image belongs to the most probable of the classes that it is about as probable of (`SURE`) as the images labelled
    so are on average (Northcutt et al. 2021, "Confident Learning", equation 1). It is doubtful if that is not its label
    and is more probable than the label by the factor `TIMES`.

    Args:
        probabilities: (n, classes), from images that were not learned with these labels.
        labels: int (n,).

    Returns:
        (indices of the doubtful, surest first; the class that each seems to be of).
    """
    rows = np.arange(len(labels))
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    sums = np.bincount(labels, probabilities[rows, labels], minlength=probabilities.shape[1])
    usual = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    confident = np.where(probabilities >= SURE * usual, probabilities, -1)
    seems = confident.argmax(1)
    own, best = probabilities[rows, labels], confident[rows, seems]
    found = np.flatnonzero((best > 0) & (seems != labels) & (best >= TIMES * own))
    found = found[np.argsort((own - best)[found], kind="stable")]
    return found, seems[found]


def judge(
    read: Callable[[int], bytes],
    labels: np.ndarray,
    classes: Sequence[str],
    classifier: Classifier,
    excluded: np.ndarray,
    bar: Bar,
) -> list[tuple[int, str, float]]:
    """The images of `find_doubtful`: (index, what speaks against the label, how much).

    A Keras model is asked for its features, whatever its classes, so that labels which it has learned by heart are
    doubted too. An export has none: it is asked for its scores.

    Args:
        read: the content of image i.
        labels: int (n,), indices into `classes`.
        classes: names of the data's classes.
        classifier: a model; an export must know these classes.
        excluded: as of `neighbour_probabilities`.
        bar: advanced by the images.

    Raises:
        ValueError: an export of other classes, or without a probability for each, or a model without features.
    """
    model = classifier.model
    if model is not None:
        features = _ask(read, len(labels), lambda x: features_of(model, classifier.prepare(x)), classifier, bar)
        answers, who = neighbour_probabilities(features, labels, len(classes), excluded), "its neighbours say"
    elif classifier.kind == "raw" or classifier.classes < 2:
        raise ValueError(f"model={classifier.name!r} must give a probability for each class to judge labels")
    else:
        known = None if classifier.labels is None else list(classifier.labels)
        places, _ = match_classes(classes, known, classifier.classes)
        answers, who = _ask(read, len(labels), classifier.scores, classifier, bar)[:, places], "the model says"
    found = []
    for i, seems in zip(*(values.tolist() for values in find_doubtful(answers, labels)), strict=True):
        best, own = float(answers[i, seems]), float(answers[i, labels[i]])
        found.append((i, f"{who} {classes[seems]} ({best:.0%} to {own:.0%})", best - own))
    return found


def _ask(
    read: Callable[[int], bytes], count: int, ask: Callable[[np.ndarray], np.ndarray], classifier: Classifier, bar: Bar
) -> np.ndarray:
    found = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, count, BATCH):
            indices = range(start, min(start + BATCH, count))
            found.append(ask(np.stack(list(pool.map(lambda i: classifier.read(read(i)), indices)))))
            bar.advance(len(indices))
    return np.concatenate(found)
