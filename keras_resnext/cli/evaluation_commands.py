"""The command that measures: evaluate."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .application import MODEL_HELP, app, load_framework, printable, tell

SHOWN = 5  # confused pairs, skipped images


@app.command()
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help=f"{MODEL_HELP} Or an export: folder of a SavedModel, .tflite or .onnx file."
        ),
    ],
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="Folder of class folders, or val/ of them in it; a .csv, .json or .txt list, TFRecords, or tfds:NAME.",
        ),
    ],
    output: Annotated[Path | None, typer.Option(help="Folder for the results as JSON, CSV and PNG.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Text file with the model's class names in order, one a line.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = 32,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Height and width, where the model leaves it free.")
    ] = None,
    resize: Annotated[
        int | None, typer.Option(min=1, help="Shorter side before the centre crop; default as came with the model.")
    ] = None,
    interpolation: Annotated[
        str | None, typer.Option(help="bilinear or bicubic; default as came with the model.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many images, evenly chosen.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first image that cannot be read.")] = False,
    skip_limit: Annotated[
        int | None, typer.Option(min=0, help="Unreadable images that may be left out; default 1 %.")
    ] = None,
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
        labels=read_labels(labels) if labels else None,
        batch_size=batch_size,
        image_size=image_size,
        resize=resize,
        interpolation=interpolation,
        limit=limit,
        strict=strict,
        skip_limit=skip_limit,
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
        "rate": f"{result.n / result.seconds:.0f} images/s",
    }
    if output:
        rows["written"] = str(result.save(output))
    for key, value in rows.items():
        print(f"{key:<20}{printable(value)}")
    for true, predicted, count in result.confused[:SHOWN]:
        pair = printable(f"{result.classes[true]} -> {result.classes[predicted]}")
        print(f"{'confused':<20}{pair}, {count} image{'s' * (count != 1)}")
    for name, reason in result.skipped[:SHOWN]:
        tell(f"skipped {name!r}: it {reason}")
    if len(result.skipped) > SHOWN:
        tell(f"{len(result.skipped)} images were skipped")
