"""The command that measures: evaluate."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..export.export_options import KIND, PREPROCESSING
from ..terminal import PlainConsole, printable
from ..views import TTA
from .application import TRAINING, Classifier, app, load_framework, tell
from .from_fields import from_fields

if TYPE_CHECKING:
    from ..evaluation import Evaluation

FILTERS = ("bilinear", "bicubic")
VIEWS = {
    "metavar": "flip|5crop",
    "choices": tuple(TTA),
    "help": "Average the scores of an image and its mirror image, or of four corners and the centre.",
}
SHOWN = 5  # confused pairs, skipped images
LABELS = 20  # with more labels the table of each one's measures is left out
KINDS = {
    "single": "one class an image",
    "multi": "a probability for each label",
    "binary": "two classes, one probability",
    "raw": "numbers",
}


@dataclass(frozen=True)
class EvaluateOptions:
    """How `evaluate` measures, and where it writes."""

    output: Path | None = field(default=None, metadata={"help": "Folder for the results as JSON, CSV and PNG."})
    labels: Path | None = field(
        default=None, metadata={"help": "Text file with the model's class names in order, one a line."}
    )
    batch_size: int = field(default=32, metadata={"min": 1, "help": "Images at once."})
    image_size: int | None = field(
        default=None, metadata={"min": 1, "help": "Height and width, where the model leaves them free."}
    )
    resize: int | None = field(
        default=None, metadata={"min": 1, "help": "Shorter side before the centre crop; default the model's own."}
    )
    interpolation: str | None = field(
        default=None, metadata={"choices": FILTERS, "help": "bilinear or bicubic; default the model's own."}
    )
    ignore_exif: bool = field(
        default=False, metadata={"help": "Leave images as they are stored, as torchvision does, not upright."}
    )
    preprocessing: str | None = field(default=None, metadata=PREPROCESSING)
    kind: str | None = field(default=None, metadata=KIND)
    threshold: float | None = field(
        default=None,
        metadata={"help": "Of sigmoid outputs: the probability above which a label counts as yes; default 0.5."},
    )
    tta: str | None = field(default=None, metadata=VIEWS)
    calibrate: bool = field(
        default=False,
        metadata={"help": "Find the temperature of the best probabilities; written into calibrated.keras in --output."},
    )
    top_losses: int | None = field(
        default=None, metadata={"min": 1, "help": "Draw the N images with the largest loss; needs --output."}
    )
    per_class: bool = field(default=False, metadata={"help": "Print precision, recall and F1 of every class."})
    limit: int | None = field(default=None, metadata={"min": 1, "help": "At most N images, evenly chosen."})
    strict: bool = field(default=False, metadata={"help": "Stop at the first unreadable image."})
    skip_limit: int | None = field(
        default=None, metadata={"min": 0, "help": "How many unreadable images may be skipped; default 1 %."}
    )


@app.command(rich_help_panel=TRAINING)
@from_fields
def evaluate(
    model: Classifier,
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA", help="Class folders, or val/ of them; a .csv, .json or .txt list; TFRecords; tfds:NAME."
        ),
    ],
    options: EvaluateOptions,
) -> None:
    """Measure a model or an export on labelled images.

    Classes: accuracy, loss, confusion, calibration. Labels with a probability each: mAP, AUC, F1, precision, recall.
    Numbers: MAE, RMSE, R2.
    """
    named = "*" in data.name or str(data).startswith("tfds:")
    if not named and not data.exists():  # a mistyped path should not wait for a framework
        raise FileNotFoundError(f"data={str(data)!r}: there is no such file or folder")
    if options.top_losses and not options.output:
        raise ValueError(f"top_losses={options.top_losses} needs output, the folder for the images")
    load_framework()
    from ..evaluation import evaluate as run
    from ..evaluation.temperature import CALIBRATED, check_not_replaced
    from ..labels import read_labels

    if options.calibrate and options.output:
        check_not_replaced(model, options.output)
    result = run(
        model,
        data,
        labels=read_labels(options.labels) if options.labels else None,
        batch_size=options.batch_size,
        image_size=options.image_size,
        resize=options.resize,
        interpolation=options.interpolation,
        exif=False if options.ignore_exif else None,
        preprocessing=options.preprocessing,
        kind=options.kind,
        tta=options.tta,
        calibrate=options.calibrate,
        threshold=options.threshold,
        limit=options.limit,
        strict=options.strict,
        skip_limit=options.skip_limit,
        console=PlainConsole(stderr=True),
    )
    asked = result.classifier
    averaged = {"averaged over": TTA[asked.tta]} if asked.tta else {}
    rows = {
        "model": asked.name,
        "run by": asked.runtime,
        "data": result.facts()["data"],
        "images": f"{result.n}, {asked.size[0]}x{asked.size[1]}, resized to {asked.resize} {asked.interpolation}",
        "gives": KINDS["binary" if asked.kind == "multi" and asked.classes == 1 else asked.kind],
        **averaged,
        **_class_rows(result),
        "loss": f"{result.loss:.4f}",
        **_label_rows(result),
        **_number_rows(result),
        **_calibration_rows(result),
        "rate": f"{result.n / result.seconds:.0f} images/s",
    }
    if options.calibrate and asked.model is None:
        tell("an export cannot be changed: calibrate the Keras model and export that")
    elif options.calibrate:
        rows["calibrated"] = str(options.output / CALIBRATED) if options.output else "give --output to write the model"
    if options.output:
        rows["written"] = str(result.save(options.output, top_losses=options.top_losses or 0))
    for key, value in rows.items():
        print(f"{key:<20}{printable(value)}")
    for line in _each_class(result) if options.per_class else ():
        print(f"{'class':<20}{printable(line)}")
    for line in _each_label(result, all_of_them=options.per_class):
        print(f"{'label':<20}{printable(line)}")
    for true, predicted, count in result.confused[:SHOWN] if result.class_scores else ():
        pair = printable(f"{result.classes[true]} -> {result.classes[predicted]}")
        print(f"{'confused':<20}{pair}, {count} image{'s' * (count != 1)}")
    for name, reason in result.skipped[:SHOWN]:
        tell(f"skipped {name!r}: it {reason}")
    if len(result.skipped) > SHOWN:
        tell(f"{len(result.skipped)} images were skipped")


def _class_rows(result: "Evaluation") -> dict[str, str]:
    if result.class_scores is None:
        return {}
    top5 = {"top-5": f"{result.top5:.2%}"} if len(result.classes) > 2 else {}
    means = {"macro F1": _percent(result.class_scores.macro_f1)}
    error = {"calibration error": f"{result.calibration_error:.2%}"}
    return {"top-1": f"{result.top1:.2%}", **top5, **means, **error}


def _calibration_rows(result: "Evaluation") -> dict[str, str]:
    found = result.calibration
    if found is None:
        return {}
    limit = ", the limit: the data has too few mistakes to tell" if found.at_limit else ""
    return {
        "temperature": f"{found.temperature:.4f}{limit}",
        "with it": f"loss {found.loss_before:.4f} -> {found.loss_after:.4f}, calibration error "
        f"{found.error_before:.2%} -> {found.error_after:.2%}, on the images that it was found on",
    }


def _each_class(result: "Evaluation") -> list[str]:
    found = result.class_scores
    if found is None:
        return []
    measures = {"precision": found.precision, "recall": found.per_class, "F1": found.f1}
    return [
        f"{name}: {', '.join(f'{what} {_percent(values[i])}' for what, values in measures.items())}, "
        f"{count} image{'s' * (count != 1)}"
        for i, (name, count) in enumerate(zip(result.classes, found.confusion.sum(1).tolist(), strict=True))
        if count or found.confusion[:, i].any()
    ]


def _label_rows(result: "Evaluation") -> dict[str, str]:
    found = result.label_scores
    if found is None:
        return {}
    measures = {"AUC": found.mean_auc, f"accuracy at {found.threshold:g}": found.mean_accuracy}
    if len(result.outputs) > 1:
        several = {"F1, micro": found.micro_f1, "F1, macro": found.macro_f1}
        measures = {"mAP": found.mean_average_precision, **measures, **several}
    else:
        one = {"precision": found.precision, "recall": found.recall, "F1": found.f1}
        measures |= {name: float(values[0]) for name, values in one.items()}
        measures["average precision"] = found.mean_average_precision
    return {name: _percent(value) for name, value in measures.items()}


def _number_rows(result: "Evaluation") -> dict[str, str]:
    found = result.number_scores
    if found is None:
        return {}
    return {"MAE": f"{found.mae:.6g}", "RMSE": f"{found.rmse:.6g}", "R2": f"{found.r2:.4f}"}


def _each_label(result: "Evaluation", all_of_them: bool = False) -> list[str]:
    found = result.label_scores
    if found is None or len(result.outputs) < 2 or (len(result.outputs) > LABELS and not all_of_them):
        return []
    measures = {"AP": found.average_precision, "precision": found.precision, "recall": found.recall, "F1": found.f1}
    return [
        f"{name}: {', '.join(f'{what} {_percent(values[i])}' for what, values in measures.items())}, "
        f"{count} image{'s' * (count != 1)}"
        for i, (name, count) in enumerate(zip(result.outputs, found.images.tolist(), strict=True))
    ]


def _percent(value: float) -> str:
    return "unknown" if value != value else f"{value:.2%}"  # NaN
