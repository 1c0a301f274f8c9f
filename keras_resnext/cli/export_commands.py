"""The command that exports."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .application import MODELS, Model, app, load_framework, printable
from .from_fields import from_fields


@app.command(rich_help_panel=MODELS)
@from_fields
def export(
    model: Model,
    target: Annotated[
        Path,
        typer.Argument(metavar="DST", help="Folder of the served model, in which the version becomes one; or a file."),
    ],
    format_: Annotated[str, typer.Option("--format", help="saved_model, tflite or onnx.")] = "saved_model",
    image_size: Annotated[
        int | None, typer.Option(help="Height and width in pixels, where the model leaves it free.")
    ] = None,
    images: Annotated[
        list[Path] | None, typer.Option(help="An image on which model and export are compared; repeat for more.")
    ] = None,
    version: Annotated[
        int | None, typer.Option(help="SavedModel: version number; default the highest plus one.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="SavedModel: text file with one class name a line.")] = None,
    hardware: Annotated[str, typer.Option(help="SavedModel: what it will run on, cpu, gpu or portable.")] = "cpu",
    warmup: Annotated[bool, typer.Option(help="SavedModel: write requests that warm a server up.")] = True,
    tflite: Annotated[bool, typer.Option("--tflite", help="SavedModel: write model.tflite beside it.")] = False,
    keras_file: Annotated[
        bool, typer.Option("--keras", help="SavedModel: keep the Keras model beside it, for Grad-CAM in `serve`.")
    ] = False,
    quantization: Annotated[
        str | None, typer.Option(help="TFLite: float16, dynamic, int8 or int16x8; default float32.")
    ] = None,
    calibration: Annotated[Path | None, typer.Option(help="TFLite: folder of images, for int8 and int16x8.")] = None,
    io_type: Annotated[str, typer.Option(help="TFLite: float32, or for int8 also int8 or uint8.")] = "float32",
    opset: Annotated[int, typer.Option(help="ONNX: version of the operator set.")] = 17,
) -> None:
    """Export a model for TF Serving as DST/VERSION, or as a TFLite or ONNX file, and compare it with the model."""
    given: dict[str, dict[str, Any]] = {
        "saved_model": {
            "version": version,
            "labels": labels,
            "target": hardware,
            "warmup": warmup,
            "tflite": tflite,
            "keras_file": keras_file,
        },
        "tflite": {"quantization": quantization, "calibration": calibration, "io_type": io_type},
        "onnx": {"opset": opset},
    }
    usual: dict[str, Any] = {
        "version": None,
        "labels": None,
        "target": "cpu",
        "warmup": True,
        "tflite": False,
        "keras_file": False,
        "quantization": None,
    }
    usual |= {"calibration": None, "io_type": "float32", "opset": 17}
    if format_ not in given:
        raise ValueError(f"format={format_!r} must be one of {', '.join(given)}")
    for other in given.keys() - {format_}:
        for name, value in given[other].items():
            if value != usual[name]:
                raise ValueError(f"{name}={value!r} is for --format {other}, not {format_}")
    load_framework()
    from ..export import export_onnx, export_tflite, export_version
    from ..labels import labels_beside, read_labels
    from ..loading import describe_model, load_model

    options = given[format_] | {"image_size": image_size, "images": images}
    if labels:
        options["labels"] = read_labels(labels)
    loaded = load_model(model)
    if format_ == "saved_model":
        options["labels"] = options["labels"] or labels_beside(model, loaded.outputs[0].shape[-1])
        options["manifest"] = describe_model(model)
    run: Any = {"saved_model": export_version, "tflite": export_tflite, "onnx": export_onnx}[format_]
    report = run(loaded, target, **options)
    rows = {
        "written": report.path,
        "size": f"{report.size / 1e6:.1f} MB",
        "run by": report.runtime,
        "largest difference": f"{report.largest_difference:.1e}",
        "top-1 agreement": f"{report.top1_agreement:.0%}",
        "latency": f"{report.latency * 1e3:.1f} ms for one image",
    }
    for key, value in rows.items():
        print(f"{key:<20}{printable(str(value))}")
