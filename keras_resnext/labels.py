"""Class names: ImageNet's, those of a text file, and which of a model's classes the classes of data are."""

import os
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from .files import read_lines

Array = Any

LABELS = "labels.txt"


@cache
def _imagenet_classes() -> list[tuple[str, str]]:
    text = resources.files(__package__).joinpath("assets/imagenet_classes.tsv").read_text(encoding="utf-8")
    return [(line.split("\t")[0], line.split("\t")[1]) for line in text.splitlines()]


def imagenet_labels() -> list[str]:
    """The 1000 ImageNet class names in the order of the published weights' outputs."""
    return [name for _, name in _imagenet_classes()]


def imagenet_ids() -> list[str]:
    """The WordNet ids of the 1000 ImageNet classes, such as n01440764, in the same order."""
    return [wordnet_id for wordnet_id, _ in _imagenet_classes()]


def class_names(labels: Sequence[str] | None, classes: int) -> list[str]:
    if labels is None:
        return imagenet_labels() if classes == 1000 else [str(i) for i in range(classes)]
    if not isinstance(labels, (list, tuple)) or any(
        not isinstance(name, str) or name.splitlines() != [name] for name in labels
    ):
        raise ValueError(f"labels={labels!r} must be a list of names, each one line")
    if len(labels) != classes:
        raise ValueError(f"labels has {len(labels)} names; it must have {classes}, one for each class of the model")
    return list(labels)


def read_labels(path: str | os.PathLike[str]) -> list[str]:
    """Class names from a text file, one a line; blank lines do not count.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a folder, or not a text file.
    """
    if Path(path).is_dir():
        raise ValueError(f"labels={os.fspath(path)!r} is a folder, not a text file")
    if not Path(path).is_file():
        raise FileNotFoundError(f"labels={os.fspath(path)!r}: there is no such file")
    return read_lines(path)


def labels_beside(model: str | os.PathLike[str], classes: int) -> tuple[str, ...] | None:
    """The class names that training wrote beside a model, or into its folder; None where there are none.

    A labels.txt of another number of names belongs to something else.
    """
    path = Path(model)
    file = path / LABELS if path.is_dir() else path.with_name(LABELS)
    if not path.exists() or not file.is_file():
        return None
    names = tuple(read_lines(file))
    return names if len(names) == classes else None


def match_classes(found: Sequence[str], known: Sequence[str] | None, classes: int) -> tuple[np.ndarray, list[str]]:
    """Which of the model's classes each class of the data is.

    Names that the model knows decide: those of the data must be among them. With 1000 classes of ImageNet, WordNet ids
    (n01440764) and ImageNet's names are known too. Where no names are known, the data's classes are the model's in the
    data's order, which for folders is sorted by name; fewer than the model has must be the numbers of its classes.

    Args:
        found: the data's class names.
        known: the model's, one for each class; None where they are not known.
        classes: how many classes the model has.

    Returns:
        (int64 (found,) index of each among the model's classes, names of the model's classes).

    Raises:
        ValueError: they do not belong together.
    """
    numbers = [str(i) for i in range(classes)]
    imagenet = classes == 1000 and known in (None, imagenet_labels())
    # What the data's names may be among, and what the classes are then called.
    candidates = [(known, known)] if known is not None else []
    candidates += [(imagenet_ids(), imagenet_labels()), (imagenet_labels(), imagenet_labels())] if imagenet else []
    candidates += [(found, found)] if known is None and len(found) == classes else []
    candidates += [(numbers, known or numbers)] if known is None and len(found) < classes else []
    for among, names in candidates:
        if set(found) <= set(among):
            if twice := [name for name in found if list(among).count(name) > 1]:
                raise ValueError(f"the data's class {twice[0]!r} is the name of more than one class of the model")
            place = {name: i for i, name in enumerate(among)}
            return np.array([place[name] for name in found], "int64"), list(names)
    if known is None:
        raise ValueError(
            f"the data has {len(found)} classes ({_some(found)}) and the model {classes}, of unknown names: give "
            "labels, the names of the model's classes in order"
        )
    foreign = [name for name in found if name not in set(known)]
    raise ValueError(
        f"the data's classes {_some(foreign)} are not among the model's {classes}: {_some(known)}; give labels, the "
        "names of the model's classes in order"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + ", …" * (len(names) > 5)


def decode_predictions(
    predictions: Array, top: int = 5, labels: Sequence[str] | None = None
) -> list[list[tuple[str, str, float]]]:
    """The best classes of each row, as `keras.applications` gives them for ImageNet.

    Args:
        predictions: (batch, classes) scores or logits.
        top: how many classes a row; with labels, no more than there are.
        labels: one name a class; default ImageNet's 1000.

    Returns:
        One list a row of (WordNet id, class name, score), best first; with `labels` the name stands for the id too.

    Raises:
        ValueError: another shape, `top` out of range, or labels that do not fit.
    """
    from keras import ops  # labels are read without a framework too

    scores = ops.convert_to_numpy(predictions)
    if labels is None and (scores.ndim != 2 or scores.shape[1] != 1000):
        raise ValueError(
            f"predictions must have shape (batch, 1000), the ImageNet classes, or come with labels; got {scores.shape}"
        )
    if scores.ndim != 2:
        raise ValueError(f"predictions must have shape (batch, classes); got {scores.shape}")
    count = scores.shape[1]
    classes = _imagenet_classes() if labels is None else [(name, name) for name in class_names(labels, count)]
    if not isinstance(top, int) or top < 1 or (labels is None and top > count):
        raise ValueError(f"top={top!r} must lie in 1..{count}")
    return [
        [(*classes[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:top]]
        for row in scores.astype("float32")
    ]
