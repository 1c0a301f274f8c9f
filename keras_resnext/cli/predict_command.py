"""The command that classifies: predict."""

import csv
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ..export.export_options import KIND, PREPROCESSING
from ..terminal import PlainConsole, printable, printable_json
from ..views import TTA
from .application import MODELS, Classifier, app, format_score, load_framework, tell
from .evaluation_commands import VIEWS
from .from_fields import from_fields
from .image_files import find_images

Ranking = Sequence[tuple[str, float]]
NOT_ALL = 1  # exit code where some images could not be read


@dataclass(frozen=True)
class PredictOptions:
    """What `predict` shows."""

    top: int = field(default=5, metadata={"min": 1, "help": "Classes shown per image."})
    labels: Path | None = field(
        default=None,
        metadata={"help": "Text file with one class name a line; default labels.txt beside the model."},
    )
    image_size: int | None = field(
        default=None, metadata={"min": 1, "help": "Height and width, where the model leaves them free."}
    )
    preprocessing: str | None = field(default=None, metadata=PREPROCESSING)
    kind: str | None = field(default=None, metadata=KIND)
    resize: int | None = field(
        default=None, metadata={"min": 1, "help": "Shorter side before the centre crop; default the model's own."}
    )
    tta: str | None = field(default=None, metadata=VIEWS)
    json: bool = field(default=False, metadata={"help": "Print JSON: a list with one object an image."})
    csv: bool = field(default=False, metadata={"help": "Print CSV: image, rank, class, score."})


@app.command(rich_help_panel=MODELS)
@from_fields
def predict(
    model: Classifier,
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE…", help="Images in any format that Pillow reads, and folders searched for them."),
    ],
    options: PredictOptions,
) -> None:
    """Classify images and print the best classes of each.

    Images that cannot be read are reported, the others are still classified, and the exit code is 1.
    """
    if options.json and options.csv:
        raise ValueError("give either --json or --csv")
    files = find_images(images)  # a mistyped path should not wait for a framework
    load_framework()
    from ..classifier import open_classifier, predict_images
    from ..labels import read_labels

    labels = read_labels(options.labels) if options.labels else None
    classifier = open_classifier(
        model,
        image_size=options.image_size,
        resize=options.resize,
        labels=labels,
        preprocessing=options.preprocessing,
        kind=options.kind,
        tta=options.tta,
    )
    if classifier.tta:
        tell(f"scores are the mean over {TTA[classifier.tta]}")
    broken: list[Exception] = []
    found = predict_images(classifier, files, top=options.top, on_error=lambda _, error: broken.append(error))
    answers = [(str(path), ranking) for path, ranking in found]
    if not answers and len(broken) == 1:
        raise broken[0]
    if options.json:
        print(printable_json([_describe(*answer) for answer in answers]))
    elif options.csv:
        rows = ((p, i, *pair) for p, ranking in answers for i, pair in enumerate(ranking, start=1))
        csv.writer(sys.stdout, lineterminator="\n").writerows([("image", "rank", "class", "score"), *rows])
    elif answers:
        _print_table(answers, classifier.kind)
    for error in broken:
        tell(str(error))
    if broken:
        sys.exit(NOT_ALL if answers else 2)


def _describe(path: str, ranking: Ranking) -> dict[str, object]:
    return {"image": path, "predictions": [{"class": name, "score": score} for name, score in ranking]}


def _print_table(answers: Iterable[tuple[str, Ranking]], kind: str) -> None:
    table = Table("image", "rank", "class", "score", box=None)
    for path, ranking in answers:
        for rank, (name, score) in enumerate(ranking, start=1):
            shown = escape(printable(path)) if rank == 1 else ""
            table.add_row(shown, str(rank), escape(printable(name)), format_score(score, kind))
    PlainConsole().print(table)
