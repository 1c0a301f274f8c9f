"""The command that exports."""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from ..export.export_options import LiteRTOptions, ONNXOptions, SavedModelOptions
from ..terminal import printable
from .application import MODELS, Model, app, load_framework
from .from_fields import Changes, from_fields

FORMATS: dict[str, Any] = {"saved_model": SavedModelOptions, "tflite": LiteRTOptions, "onnx": ONNXOptions}


@app.command(rich_help_panel=MODELS)
@from_fields
def export(
    model: Model,
    target: Annotated[
        Path,
        typer.Argument(metavar="DST", help="Folder of the served model, in which the version becomes one; or a file."),
    ],
    given: Annotated[dict[str, Any], Changes(*FORMATS.values())],
    format_: Annotated[str, typer.Option("--format", help="saved_model, tflite or onnx.")] = "saved_model",
) -> None:
    """Export a model for TF Serving as DST/VERSION, or as a TFLite or ONNX file, and compare it with the model."""
    if format_ not in FORMATS:
        raise ValueError(f"format={format_!r} must be one of {', '.join(FORMATS)}")
    known = {name: {field.name for field in fields(options)} for name, options in FORMATS.items()}
    for name in given.keys() - known[format_]:
        others = " and ".join(other for other, names in known.items() if name in names)
        raise ValueError(f"{name}={given[name]!r} is for --format {others}, not {format_}")
    FORMATS[format_](**given)  # what does not fit should not wait for a framework
    load_framework()
    from ..export import export_onnx, export_tflite, export_version
    from ..labels import read_labels
    from ..loading import describe_model, load_model
    from ..weights.hub import fetch_from_hub
    from ..weights.hub_config import known_labels

    if "labels" in given:
        given["labels"] = read_labels(given["labels"])
    local = fetch_from_hub(model)
    loaded = load_model(local)
    if format_ == "saved_model":
        given.setdefault("labels", known_labels(local, loaded.outputs[0].shape[-1]))
        report = export_version(loaded, target, SavedModelOptions(**given), manifest=describe_model(model))
    else:
        report = {"tflite": export_tflite, "onnx": export_onnx}[format_](loaded, target, **given)
    rows = {
        "written": report.path,
        "size": f"{report.size / 1e6:.1f} MB",
        "run by": report.runtime,
        "largest difference": f"{report.largest_difference:.1e}",
        "top-1 agreement": f"{report.top1_agreement:.0%}" if report.agreement_tells else "not told: classes too close",
        "latency": f"{report.latency * 1e3:.1f} ms for one image",
    }
    if report.noisiest:
        rows["most disturbed"] = ", ".join(f"{name} ({ratio:.0f} dB)" for name, ratio in report.noisiest)
    for key, value in rows.items():
        print(f"{key:<20}{printable(str(value))}")
