"""One way to ask any classifier for scores: Keras, PyTorch checkpoint, SavedModel, LiteRT or ONNX."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from .labels import class_names, labels_beside
from .loading import find_model_file, load_model
from .multichannel import load_bands
from .network.input_preprocessing import NAMED, Given, named_preprocessing, normalised_as, replace_preprocessing
from .preprocessing import INTERPOLATIONS, Preprocessing, load_image, preprocess_input
from .runtimes import KINDS, check_kind
from .runtimes.exports import EXPORTS, Export, find_version
from .runtimes.keras_model import Run, check_classifier, image_input, load_run, output_kind
from .views import check_views, views_of
from .weights.hub import fetch_from_hub
from .weights.hub_config import known_labels

Model = Any  # a Classifier, keras.Model, str or path; Keras carries no types
ImagePath = str | os.PathLike[str]

BATCH = 8  # images at once in `predict_images`


@dataclass(frozen=True)
class Classifier:
    """A model that gives scores, how it takes its images, and what its scores mean.

    Attributes:
        name: the path, or the model's name.
        runtime: what runs it, such as "Keras on tensorflow" or "ONNX Runtime".
        run: prepared images (n, height, width, 3) to scores float32 (n, classes).
        classes: how many scores an image gets.
        size: height and width of the images in pixels.
        preprocessing: how images are resized, cropped and normalised before the model.
        kind: "single": probabilities of classes of which one is right. "multi": each score is a probability of its own.
            "raw": numbers as they are.
        labels: names of the classes, where they are known: given, recorded in a SavedModel, or in labels.txt beside.
        model: the Keras model behind it; None for an export.
        tta: of `TTA`, the views of an image whose scores are averaged; None for the image alone.
    """

    name: str
    runtime: str
    run: Run
    classes: int
    size: tuple[int, int]
    preprocessing: Preprocessing
    kind: str = "single"
    labels: tuple[str, ...] | None = None
    model: keras.Model | None = None
    tta: str | None = None

    @property
    def resize(self) -> int:
        """Pixels of the shorter side before the centre crop."""
        return self.preprocessing.resize

    @property
    def interpolation(self) -> str:
        """ "bilinear" or "bicubic"."""
        return self.preprocessing.interpolation

    @property
    def names(self) -> list[str]:
        """One name a class: the labels, else ImageNet's for 1000 classes, else the numbers."""
        return class_names(None if self.labels is None else list(self.labels), self.classes)

    @property
    def read_size(self) -> tuple[int, int]:
        """Height and width of what `read` gives: `size`, and for crops the whole shorter side."""
        more = self.resize - min(self.size) if self.tta == "5crop" else 0
        return self.size[0] + more, self.size[1] + more

    def read(self, image: bytes | ImagePath) -> np.ndarray:
        """An image file, or its bytes, for `scores`: uint8 (height, width, 3) of `read_size`; errors of `load_image`.

        Of other than three channels: float32 (height, width, channels) in the file's units, as of `load_bands`.
        """
        how = self.preprocessing
        if how.bands != 3:
            return load_bands(image, self.read_size, how)
        return load_image(image, self.read_size, resize=how.resize, interpolation=how.interpolation, exif=how.exif)

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """Images (n, height, width, channels), RGB on 0..255, as `run` takes them, float32.

        Raises:
            ValueError: images of another shape.
        """
        wanted = (*self.size, self.preprocessing.bands)
        if images.ndim != 4 or images.shape[1:] != wanted:
            raise ValueError(f"images must have shape (n, {', '.join(map(str, wanted))}); got {images.shape}")
        return np.asarray(preprocess_input(images.astype("float32"), self.preprocessing))

    def scores(self, images: np.ndarray) -> np.ndarray:
        """Scores float32 (n, classes) of images (n, height, width, 3) of `read_size` on 0..255; `kind` says which.

        With `tta` they are the mean over the views, of probabilities or numbers.
        """
        if self.tta is None or images.ndim != 4:
            return self.run(self.prepare(images))
        if images.shape[1:3] != self.read_size:
            raise ValueError(
                f"images must have shape (n, {', '.join(map(str, self.read_size))}, 3); got {images.shape}"
            )
        seen = [self.run(self.prepare(view)) for view in views_of(images, self.size, self.tta)]
        return np.mean(seen, axis=0, dtype="float32")

    def best(self, scores: np.ndarray, top: int = 5) -> list[tuple[str, float]]:
        """The `top` classes of one image by its scores (classes,): (name, score), best first."""
        names = self.names
        return [(names[i], float(scores[i])) for i in np.argsort(-scores, kind="stable")[:top]]


def open_classifier(
    model: Model,
    *,
    image_size: int | tuple[int, int] | None = None,
    resize: int | None = None,
    interpolation: str | None = None,
    exif: bool | None = None,
    labels: Sequence[str] | None = None,
    preprocessing: Given = None,
    kind: str | None = None,
    tta: str | None = None,
) -> Classifier:
    """Opens a classifier in any format: a Keras model, whatever `load_model` takes, or an export of this package.

    Exports are the folder of a SavedModel; a model base, of which the highest version is taken; a .tflite file; an
    .onnx file. They normalise inside and run as they are, integers and fixed batch sizes included.

    Args:
        model: the model, its path or name, or a `Classifier`, which the other arguments change.
        image_size: height and width, where the model leaves them free.
        resize: shorter side before the centre crop, at least the size; default as came with the model.
        interpolation: "bilinear" or "bicubic"; default as came with the model, else bilinear.
        exif: whether images are turned upright as EXIF says; default as came with the model, else they are.
        labels: one name a class; default those recorded in a SavedModel, or in labels.txt beside the model.
        preprocessing: how a Keras model's images are prepared, as in `named_preprocessing`: "imagenet", "none", "tf",
            "caffe", the path of a JSON file, or a `Preprocessing`. It is needed where the model neither records it nor
            scales its images inside, and replaces what it records.
        kind: what the scores mean, as in `Classifier`. Default: of a Keras model as its last layer says, of an export
            as it records. Behind linear scores "single" adds a softmax, "multi" a sigmoid, and "raw" nothing.
        tta: test-time augmentation, which averages the scores of several views of each image: "flip", the image and its
            mirror image; "5crop", its four corners and centre, of a square with sides of `resize` pixels (Krizhevsky et
            al. 2012, section 4.1, without the mirror images).

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: the file cannot be read or is not a classifier; an argument is out of range, or missing where the
            model does not say how its images are prepared or what it gives.
        ImportError: the runtime for the format is not installed.
    """
    for side in image_size if isinstance(image_size, tuple) else (image_size,):
        if side is not None and (not isinstance(side, int) or isinstance(side, bool) or side < 1):
            raise ValueError(f"image_size={image_size!r} must be a positive integer")
    if interpolation not in (None, *INTERPOLATIONS):
        raise ValueError(f"interpolation={interpolation!r} must be one of {', '.join(INTERPOLATIONS)}")
    check_kind(kind)
    check_views(tta)
    if isinstance(model, Classifier):
        found = replace(model, preprocessing=_replaced(model, preprocessing))
    elif isinstance(model, keras.Model):
        found = _open_keras(model, image_size, preprocessing, kind)
    else:
        found = _open_path(find_model_file(model), image_size, preprocessing, kind)
    if kind not in (None, found.kind):
        run = found.run if found.model is None else load_run(found.model, kind)
        found = replace(found, run=run, kind=kind)
    wanted = (image_size, image_size) if isinstance(image_size, int) else image_size
    if wanted is not None and found.size != wanted:
        raise ValueError(f"image_size={image_size!r} must be {found.size}, which model={found.name!r} fixes")
    if resize is not None and (not isinstance(resize, int) or resize < min(found.size)):
        raise ValueError(f"resize={resize!r} must be an integer of at least {min(found.size)}, the image size")
    prepared = replace(
        found.preprocessing,
        resize=resize or found.resize,
        interpolation=interpolation or found.interpolation,
        exif=found.preprocessing.exif if exif is None else exif,
    )
    known = found.labels if labels is None else tuple(class_names(labels, found.classes))
    tta = tta or found.tta
    if tta == "5crop" and prepared.resize <= min(found.size):
        raise ValueError(f"tta='5crop' needs resize above {min(found.size)}, the image size; it is {prepared.resize}")
    return replace(found, preprocessing=prepared, labels=known, tta=tta)


def predict_images(
    model: Model,
    images: Sequence[ImagePath],
    *,
    top: int = 5,
    labels: Sequence[str] | None = None,
    image_size: int | None = None,
    preprocessing: Given = None,
    kind: str | None = None,
    tta: str | None = None,
    on_error: Callable[[ImagePath, Exception], None] | None = None,
) -> Iterator[tuple[ImagePath, list[tuple[str, float]]]]:
    """Classifies image files, a few at a time.

    Args:
        model, labels, image_size, preprocessing, kind, tta: as in `open_classifier`.
        images: paths.
        top: how many classes an image; fewer where the model has fewer.
        on_error: called with the path of an image that cannot be read, and why; the others are still classified.
            Default: such an image is an error.

    Yields:
        (path, [(class name, score), …]), best first.

    Raises:
        FileNotFoundError: there is no such image.
        ValueError: an image that cannot be read; the others as in `open_classifier`.
    """
    classifier = open_classifier(
        model, labels=labels, image_size=image_size, preprocessing=preprocessing, kind=kind, tta=tta
    )
    for start in range(0, len(images), BATCH):
        pixels: dict[int, np.ndarray] = {}
        for i, path in enumerate(images[start : start + BATCH], start=start):
            try:
                pixels[i] = classifier.read(path)
            except (ValueError, OSError) as error:
                if on_error is None:
                    raise
                on_error(path, error)
        if pixels:
            for i, scores in zip(pixels, classifier.scores(np.stack(list(pixels.values()))), strict=True):
                yield images[i], classifier.best(scores, top)


def _open_keras(
    model: keras.Model, image_size: int | tuple[int, int] | None, given: Given, kind: str | None
) -> Classifier:
    classes = check_classifier(model, rgb=False)
    kind = kind or output_kind(model)
    size, preprocessing = image_input(model, image_size, given)
    if (taken := model.inputs[0].shape[-1]) != preprocessing.bands:
        raise ValueError(
            f"model={model.name!r} takes images of {taken} channels, but its preprocessing is for "
            f"{preprocessing.bands}; give preprocessing=FILE, JSON with mean and std of each channel"
        )
    return Classifier(
        name=model.name, runtime=f"Keras on {keras.backend.backend()}", run=load_run(model, kind), classes=classes,
        size=size, preprocessing=preprocessing, kind=kind, model=model,
    )  # fmt: skip


def _open_path(path: ImagePath, image_size: int | tuple[int, int] | None, given: Given, kind: str | None) -> Classifier:
    place = Path(path)
    suffix = "folder" if find_version(place) else place.suffix.lower()
    if suffix in EXPORTS:
        if not place.exists():
            raise FileNotFoundError(f"model={os.fspath(path)!r}: there is no such file")
        found = _of_export(place, EXPORTS[suffix](place))
        found = replace(found, preprocessing=_replaced(found, given))
    else:
        local = fetch_from_hub(path)
        found = replace(_open_keras(load_model(local), image_size, given, kind), name=os.fspath(path))
        return replace(found, labels=known_labels(local, found.classes))
    return found if found.labels is not None else replace(found, labels=labels_beside(path, found.classes))


def _replaced(found: Classifier, given: Given) -> Preprocessing:
    """What an open classifier's images are prepared as: an export's are normalised inside, and that cannot change."""
    if given is None:
        return found.preprocessing
    named = named_preprocessing(given)
    if found.model is None and named != normalised_as(named, NAMED["none"]):
        raise ValueError(
            f"preprocessing={given!r} is for Keras models; model={found.name!r} is an export, which takes RGB on "
            "0..255 and normalises inside"
        )
    chosen = replace_preprocessing(found.preprocessing, given, found.name)
    side = min(found.size)
    return replace(chosen, size=side, resize=chosen.resize_for(side))


def _of_export(path: Path, export: Export) -> Classifier:
    usual = Preprocessing(size=min(export.size))
    known = {name: getattr(usual, name) for name in ("resize", "interpolation", "exif")}
    recorded = {name: export.preprocessing.get(name, value) for name, value in known.items()}
    try:
        preprocessing = normalised_as(replace(usual, **recorded), NAMED["none"])  # the graph does the rest
    except ValueError as error:
        raise ValueError(f"model={str(path)!r} has invalid preprocessing metadata: {error}") from None
    kind = export.kind or ("raw" if export.classes == 1 else "single")
    if kind not in KINDS:
        raise ValueError(f"model={str(path)!r} records kind={kind!r}; it must be one of {', '.join(KINDS)}")
    return Classifier(
        name=str(path), runtime=export.runtime, run=export.run, classes=export.classes, size=export.size,
        preprocessing=preprocessing, kind=kind, labels=export.labels,
    )  # fmt: skip
