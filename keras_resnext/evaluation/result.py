"""What an evaluation found, as numbers, tables and images."""

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..classifier import Classifier
from ..data import Listing, describe
from ..figures import contact_sheet
from ..files import placed_whole
from ..labels import LABELS
from . import plots
from .class_scores import ClassScores
from .label_scores import LabelScores, image_cross_entropy
from .number_scores import NumberScores
from .temperature import CALIBRATED, Calibration, check_not_replaced, scaled_scores

LINES = 6  # of an image with a large loss


@dataclass(frozen=True)
class Evaluation:
    """How a classifier does on labelled images.

    The attributes of `ClassScores` (top1, confusion and so on) are this one's too where each image has one class.

    Attributes:
        classifier: what was asked, and how its images were prepared.
        classes: names, in the order of the model's outputs; of one probability the two classes that it tells apart.
        images: those that were classified, labelled with indices into `classes`, several of them, or numbers.
        skipped: what could not be read: (image, why).
        loss: cross-entropy, mean of -ln p(true class), with p of at least 1e-7; where each label has a probability of
            its own, the mean over labels too of -ln p for what is true and -ln(1 - p) for what is not; of numbers the
            mean squared error.
        seconds: for reading and classifying.
        scores: float32 (n, outputs) of labels and numbers; None for classes, of which there may be thousands.
        class_scores: measures of images that have one class each; else None.
        label_scores: measures of each label by itself, where each has a probability of its own; else None.
        number_scores: errors of numbers; else None.
        calibration: the temperature of the best probabilities, if it was asked for.
    """

    classifier: Classifier
    classes: tuple[str, ...]
    images: Listing
    skipped: tuple[tuple[str, str], ...]
    loss: float
    seconds: float
    scores: np.ndarray | None = None
    class_scores: ClassScores | None = None
    label_scores: LabelScores | None = None
    number_scores: NumberScores | None = None
    calibration: Calibration | None = None

    @property
    def n(self) -> int:
        """How many images were classified."""
        return len(self.images)

    @property
    def outputs(self) -> tuple[str, ...]:
        """What each score of an image is called."""
        return self.classes[-self.classifier.classes :]

    @property
    def predictions(self) -> np.ndarray:
        """int64 (n,), the predicted classes."""
        return self._ranked.predictions

    @property
    def confidences(self) -> np.ndarray:
        """float32 (n,), the probability of each predicted class."""
        return self._ranked.confidences

    @property
    def top1(self) -> float:
        """Share of images whose class is predicted."""
        return self._ranked.top1

    @property
    def top5(self) -> float:
        """Share of images whose class has one of the five highest probabilities."""
        return self._ranked.top5

    @property
    def confusion(self) -> np.ndarray:
        """int64 (classes, classes), images by true (row) and predicted (column) class."""
        return self._ranked.confusion

    @property
    def bins(self) -> np.ndarray:
        """float64 (15, 3), for each range of confidence how many images, their mean confidence and accuracy."""
        return self._ranked.bins

    @property
    def per_class(self) -> np.ndarray:
        """float64 (classes,): top-1 accuracy on the images of each class; NaN for a class without any."""
        return self._ranked.per_class

    @property
    def calibration_error(self) -> float:
        """Expected calibration error, 0..1."""
        return self._ranked.calibration_error

    @property
    def confused(self) -> list[tuple[int, int, int]]:
        """The most confused pairs of classes: (true, predicted, how many images), most first."""
        return self._ranked.confused

    @property
    def losses(self) -> np.ndarray:
        """float64 (n,): the loss of each image, of which `loss` is the mean."""
        if self.number_scores is not None:
            return ((self._kept_scores - self.images.labels) ** 2).mean(1)
        if self.label_scores is None:
            return self._ranked.losses
        truths = self.images.labels.reshape(self.n, -1) == 1
        if truths.shape != self._kept_scores.shape:  # one class each of several labels
            truths = self.images.labels[:, None] == np.arange(self._kept_scores.shape[1])
        return image_cross_entropy(self._kept_scores, truths)

    @property
    def _kept_scores(self) -> np.ndarray:
        assert self.scores is not None
        return self.scores

    @property
    def _ranked(self) -> ClassScores:
        if self.class_scores is None:
            held = "label_scores" if self.number_scores is None else "number_scores"
            raise ValueError(f"the data has {describe(self.images)}: there is no right class of each; see {held}")
        return self.class_scores

    def save(self, directory: str | os.PathLike[str], *, top_losses: int = 0) -> Path:
        """Writes the results into a folder, made where it is missing: each file appears whole, replacing an older one.

        `evaluation.json`: everything as numbers. `predictions.csv`: each image. Of classes: `per_class.csv`,
        `confusion.csv`, tables of all classes; `confusion.png`, `calibration.png`, `confused_pairs.png` with examples:
        the same to look at; of many classes also `confusion_largest.png`, of those that are confused most. Of labels:
        `per_label.csv` and `labels.png`. Of numbers: `numbers.png`.

        With a calibration, and a Keras model: `calibrated.keras`, the model with the temperature in its last weights,
        and `labels.txt` where the names of its classes are known.

        Args:
            directory: the folder.
            top_losses: how many images with the largest loss to draw into `top_losses.png`, and to list in
                `top_losses.csv`.

        Raises:
            OSError: the disk refuses.
            ValueError: the model that was evaluated is the folder's calibrated.keras, or its weights cannot take a
                temperature.
        """
        folder = Path(directory)
        check_not_replaced(self.classifier.name, folder)
        folder.mkdir(parents=True, exist_ok=True)
        model = self.classifier.model
        if self.calibration and model is not None:
            with scaled_scores(model, self.calibration.temperature), placed_whole(folder / CALIBRATED) as aside:
                model.save(aside)
            if self.classifier.labels:
                with placed_whole(folder / LABELS) as aside:
                    aside.write_text("\n".join(self.classifier.labels) + "\n", encoding="utf-8")
        contents = {
            "predictions.csv": _csv(self._images()),
            **(self._class_files(self.class_scores) if self.class_scores else {}),
            **(self._label_files(self.label_scores) if self.label_scores else {}),
            **(self._number_files(self.number_scores) if self.number_scores else {}),
            **(self._loss_files(top_losses) if top_losses else {}),
            "evaluation.json": (json.dumps(self.facts(), indent=2) + "\n").encode(),
        }
        for name, content in contents.items():
            with placed_whole(folder / name) as aside:
                aside.write_bytes(content)
        return folder

    def facts(self) -> dict[str, Any]:
        """All but the single images and the confusion matrix, as JSON has it; null for what cannot be measured."""
        asked = self.classifier
        return {
            "model": asked.name,
            "runtime": asked.runtime,
            "kind": asked.kind,
            "data": describe(self.images),
            "size": asked.size,
            "resize": asked.resize,
            "interpolation": asked.interpolation,
            "ignore_exif": not asked.preprocessing.exif,
            "tta": asked.tta,
            "n": self.n,
            "loss": self.loss,
            "seconds": self.seconds,
            "classes": self.classes,
            **({} if self.class_scores is None else self.class_scores.facts(self.classes)),
            **({} if self.label_scores is None else {"labels": self.label_scores.facts()}),
            **({} if self.number_scores is None else {"numbers": self.number_scores.facts()}),
            **({} if self.calibration is None else {"calibration": asdict(self.calibration)}),
            "skipped": self.skipped,
        }

    def _class_files(self, found: ClassScores) -> dict[str, bytes]:
        pairs = [
            (self.classes[true], self.classes[predicted], count, list(self._examples(true, predicted)))
            for true, predicted, count in found.confused[: plots.PAIRS]
        ]
        matrix = [[name, *row] for name, row in zip(self.classes, found.confusion.tolist(), strict=True)]
        return {
            "confusion.csv": _csv([["true \\ predicted", *self.classes], *matrix]),
            "per_class.csv": _csv(found.table(self.classes)),
            "confusion.png": plots.draw_confusion(found.confusion, self.classes),
            **plots.draw_largest_confusions(found.confusion, self.classes),
            "calibration.png": plots.draw_calibration(found.bins),
            "confused_pairs.png": plots.draw_confused_pairs(pairs),
        }

    def _label_files(self, found: LabelScores) -> dict[str, bytes]:
        return {
            "per_label.csv": _csv(found.table(self.outputs)),
            "labels.png": plots.draw_labels(found.average_precision, found.f1, self.outputs, found.threshold),
        }

    def _number_files(self, found: NumberScores) -> dict[str, bytes]:
        assert self.scores is not None
        return {"numbers.png": plots.draw_numbers(self.images.labels, self.scores, self.classes, found.mae)}

    def _loss_files(self, count: int) -> dict[str, bytes]:
        losses = self.losses
        worst = np.argsort(-losses, kind="stable")[:count].tolist()
        header, *rows = self._images()
        columns = len(header) - len(self.outputs) * (self.scores is not None)  # without those of all scores
        tiles: list[tuple[np.ndarray | None, list[str]]] = []
        for i in worst:
            said = [f"{name}: {value}" for name, value in zip(header[1:], rows[i][1:], strict=True)]
            if self.class_scores:  # scores of labels are too many where there is a class
                said = said[: columns - 1]
            tiles.append((self._read(i), [f"loss {losses[i]:.4g}", Path(rows[i][0]).name, *said[:LINES]]))
        table = [["loss", *header], *([f"{losses[i]:.6g}", *rows[i]] for i in worst)]
        title = f"The {len(worst)} images with the largest loss of {self.n}"
        return {"top_losses.csv": _csv(table), "top_losses.png": contact_sheet(tiles, title)}

    def _read(self, i: int) -> np.ndarray | None:
        try:
            return self.classifier.read(self.images.read(i))
        except (ValueError, OSError):  # the file may be gone meanwhile
            return None

    def _images(self) -> Iterator[list[Any]]:
        """Rows of predictions.csv, the first with the names of the columns."""
        names = [self.images.name(i) for i in range(self.n)]
        truths: list[list[Any]]
        if self.images.kind == "raw":
            truth_columns, truths = [f"true {name}" for name in self.classes], self.images.labels.tolist()
        elif self.images.kind == "multi":
            truth_columns = ["labels"]
            truths = [["|".join(self.classes[i] for i in np.flatnonzero(row))] for row in self.images.labels]
        else:
            truth_columns, truths = ["true"], [[self.classes[i]] for i in self.images.labels]
        columns: list[str] = []
        found: list[list[Any]] = [[] for _ in names]
        if self.class_scores is not None:
            columns = ["predicted", "confidence"]
            pairs = zip(self.predictions.tolist(), self.confidences, strict=True)
            found = [[self.classes[i], f"{confidence:.6g}"] for i, confidence in pairs]
        if self.scores is not None:
            columns += self.outputs
            found = [[*row, *(f"{s:.6g}" for s in scores)] for row, scores in zip(found, self.scores, strict=True)]
        yield ["image", *truth_columns, *columns]
        for name, truth, row in zip(names, truths, found, strict=True):
            yield [name, *truth, *row]

    def _examples(self, true: int, predicted: int) -> Iterator[tuple[np.ndarray, float]]:
        """Images of one class taken for the other, as the model sees them, with its confidence, surest first."""
        members = np.flatnonzero((self.images.labels == true) & (self.predictions == predicted))
        for i in members[np.argsort(-self.confidences[members], kind="stable")][: plots.EXAMPLES].tolist():
            if (pixels := self._read(i)) is not None:
                yield pixels, float(self.confidences[i])


def _csv(rows: Sequence[Sequence[Any]] | Iterator[Sequence[Any]]) -> bytes:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue().encode("utf-8", "surrogateescape")
