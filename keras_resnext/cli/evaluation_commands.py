"""The command that measures: evaluate."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ..export.export_options import KIND, PREPROCESSING
from .application import TRAINING, Classifier, app, load_framework, printable, tell
from .from_fields import from_fields

if TYPE_CHECKING:
    from ..evaluation.label_scores import LabelScores

FILTERS = ("bilinear", "bicubic")
SHOWN = 5  # confused pairs, skipped images


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
    """Measure a model or an export on labelled images: accuracy, loss, confusion, calibration."""
    named = "*" in data.name or str(data).startswith("tfds:")
    if not named and not data.exists():  # a mistyped path should not wait for a framework
        raise FileNotFoundError(f"data={str(data)!r}: there is no such file or folder")
    load_framework()
    from ..evaluation import evaluate as run
    from ..labels import read_labels

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
        limit=options.limit,
        strict=options.strict,
        skip_limit=options.skip_limit,
        console=Console(stderr=True),
    )
    asked = result.classifier
    rows = {
        "model": asked.name,
        "run by": asked.runtime,
        "images": f"{result.n}, {asked.size[0]}x{asked.size[1]}, resized to {asked.resize} {asked.interpolation}",
        "top-1": f"{result.top1:.2%}",
        "top-5": f"{result.top5:.2%}",
        "loss": f"{result.loss:.4f}",
        "calibration error": f"{result.calibration_error:.2%}",
        **_label_rows(result.label_scores),
        "rate": f"{result.n / result.seconds:.0f} images/s",
    }
    if options.output:
        rows["written"] = str(result.save(options.output))
    for key, value in rows.items():
        print(f"{key:<20}{printable(value)}")
    for true, predicted, count in result.confused[:SHOWN]:
        pair = printable(f"{result.classes[true]} -> {result.classes[predicted]}")
        print(f"{'confused':<20}{pair}, {count} image{'s' * (count != 1)}")
    for name, reason in result.skipped[:SHOWN]:
        tell(f"skipped {name!r}: it {reason}")
    if len(result.skipped) > SHOWN:
        tell(f"{len(result.skipped)} images were skipped")


def _label_rows(found: "LabelScores | None") -> dict[str, str]:
    if found is None:
        return {}
    measures = {
        "mAP": found.mean_average_precision,
        "AUC": found.mean_auc,
        "F1, micro": found.micro_f1,
        "F1, macro": found.macro_f1,
    }
    return {name: f"{value:.2%}" for name, value in measures.items()}
