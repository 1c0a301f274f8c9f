"""The commands on models and files: list, info, predict, convert, export, quickstart."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .application import MODEL_HELP, Model, app, load_framework, printable, read_options

if TYPE_CHECKING:
    from ..network.costs import StageCost


@app.command("list")
def list_() -> None:
    """Show the architectures, and the published weights with accuracy and licence."""
    from ..network.architectures import ARCHITECTURES
    from ..weights.published import PUBLISHED

    table = Table(box=None)
    for column in ("name", "parameters", "classes", "input"):  # narrow enough for 80 columns
        table.add_column(column, no_wrap=True, justify="left" if column == "name" else "right")
    table.add_column("source")
    for row in ARCHITECTURES.values():
        counts = (f"{row.parameters / 1e6:.1f} M", str(row.classes), f"{row.image_size}²")
        table.add_row(row.name, *counts, row.source)
    Console().print(table)
    weights = Table(
        box=None, title="Published weights, with their accuracy on ImageNet in percent", title_justify="left"
    )
    for column in ("weights", "top-1", "top-5", "licence"):
        weights.add_column(column, no_wrap=True, justify="right" if column.startswith("top") else "left")
    for published in PUBLISHED:
        top5 = "" if published.top5 is None else f"{published.top5:.2f}"
        weights.add_row(published.name, f"{published.top1:.2f}", top5, published.licence)
    Console().print("", weights)
    Console().print("\nimagenet/ARCHITECTURE: the most accurate of these whose licence allows commercial use.")


@app.command()
def predict(
    model: Model,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="Images in any format that Pillow reads.")],
    top: Annotated[int, typer.Option(min=1, help="Classes shown per image.")] = 5,
    labels: Annotated[
        Path | None, typer.Option(help="Text file with one class name a line; default labels.txt beside the model.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Height and width, where the model leaves it free.")
    ] = None,
) -> None:
    """Classify images and print the best classes of each."""
    for image in images:  # a mistyped path should not wait for a framework
        if not image.is_file():
            raise FileNotFoundError(f"image={str(image)!r}: there is no such file")
    load_framework()
    from ..labels import labels_beside, read_labels
    from ..loading import load_model
    from ..prediction import predict_images
    from ..runtimes.keras_model import check_classifier

    given = read_labels(labels) if labels else None
    loaded = load_model(model)
    names = given or labels_beside(model, check_classifier(loaded))
    table = Table("image", "rank", "class", "score", box=None)
    for path, ranking in predict_images(loaded, images, top=top, labels=names, image_size=image_size):
        for rank, (name, score) in enumerate(ranking, start=1):
            table.add_row(escape(str(path)) if rank == 1 else "", str(rank), escape(name), f"{score:.2%}")
    Console().print(table)


@app.command()
def info(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="PyTorch checkpoint, .keras or .weights.h5 file; or an architecture name."),
    ],
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Height and width in pixels to count operations at.")
    ] = None,
) -> None:
    """Tell what a file of weights or an architecture is, and what each stage costs, without building anything."""
    from ..network.architectures import ARCHITECTURES
    from ..network.costs import architecture_options, count_costs
    from ..weights.info import describe_file

    rows: dict[str, Any]
    row = None if Path(file).exists() else ARCHITECTURES.get(file)
    if row is None and not Path(file).exists() and not Path(file).suffix:
        raise ValueError(
            f"FILE={file!r} is neither a file nor an architecture; choose one of {', '.join(ARCHITECTURES)}"
        )
    if row is not None:
        size = (image_size or row.image_size,) * 2
        costs = count_costs(architecture_options(file), size)
        rows = {
            "architecture": row.name,
            "source": row.source,
            "classes": row.classes,
            "parameters": f"{row.parameters:,}",
        }
    else:
        found = describe_file(file, image_size)
        size, costs = found.image_size, found.costs
        rows = {
            "file": found.path,
            "format": found.format,
            "wrapper": found.wrapper or "none",
            "layout": found.layout,
            "architecture": found.architecture,
            "classes": found.classes or "no head",
            "parameters": f"{found.parameters:,}",
            "dtype": ", ".join(found.dtypes),
            "moving average": "yes (--ema takes it)" if found.averaged else "no",
            "size": f"{found.size:,} bytes",
            "SHA-256": found.sha256,
            "published as": found.published or "not known",
        }
        if found.problem:
            rows["problem"] = found.problem
    for key, value in rows.items():
        print(f"{key:<16}{printable(str(value))}")
    if costs:
        _print_costs(costs, size)


def _print_costs(costs: "Sequence[StageCost]", size: tuple[int, int]) -> None:
    """A table of the stages and their sum; a MAC is one multiply-accumulate for one image, two FLOPs."""
    parameters, macs = sum(cost.parameters for cost in costs), sum(cost.macs for cost in costs)
    unit, scale = ("GMACs", 1e9) if macs >= 1e8 else ("MMACs", 1e6)
    print(f"\n{'stage':<16}{'output':>16}{'parameters':>14}{unit:>9}")
    for cost in costs:
        output = "x".join(map(str, cost.output))
        print(f"{cost.name:<16}{output:>16}{cost.parameters:>14,}{cost.macs / scale:>9.3f}")
    print(f"{'in all':<16}{'of {}x{} pixels'.format(*size):>16}{parameters:>14,}{macs / scale:>9.3f}")


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help=MODEL_HELP)],
    target: Annotated[Path, typer.Argument(metavar="DST", help="File: .keras, .weights.h5, .pth, .pt, .safetensors.")],
    layout: Annotated[
        str | None, typer.Option(help="Names in PyTorch files: torchvision (default), mmcls or timm.")
    ] = None,
    classes: Annotated[int | None, typer.Option(min=1, help="A new, random head with so many classes.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Option of ResNeXt that weights cannot show, such as style=caffe."),
    ] = None,
    ema: Annotated[bool, typer.Option("--ema", help="Take the checkpoint's moving average.")] = False,
    bgr: Annotated[bool, typer.Option("--bgr", help="The checkpoint was trained on BGR images.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare with torchvision's or timm's own network; needs PyTorch.")
    ] = False,
) -> None:
    """Convert weights between PyTorch (torchvision, mmcls, timm) and Keras, in either direction."""
    load_framework()
    from ..conversion import convert as convert_file

    options = read_options(option or []) | ({} if classes is None else {"classes": classes})
    _, agreement = convert_file(source, target, layout=layout, ema=ema, bgr=bgr, verify=verify, **options)
    print(f"{source} -> {target} ({target.stat().st_size / 1e6:.1f} MB)")
    if agreement is not None:
        print(
            f"{agreement.outputs} against {agreement.library}: largest difference "
            f"{agreement.largest_difference:.2e}, relatively {agreement.relative_difference:.2e}"
        )


@app.command()
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
    from ..export import SavedModelOptions, export_onnx, export_tflite, export_version
    from ..labels import labels_beside, read_labels
    from ..loading import describe_model, load_model

    options = given[format_] | {"image_size": image_size, "images": images}
    if labels:
        options["labels"] = read_labels(labels)
    loaded = load_model(model)
    if format_ == "saved_model":
        options["labels"] = options["labels"] or labels_beside(model, loaded.outputs[0].shape[-1])
        report = export_version(loaded, target, SavedModelOptions(**options), manifest=describe_model(model))
    else:
        report = (export_tflite if format_ == "tflite" else export_onnx)(loaded, target, **options)
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


@app.command()
def quickstart(
    output_dir: Annotated[Path, typer.Option(help="Folder for the model, its export and an image.")] = Path(
        "savedmodels"
    ),
) -> None:
    """Train a small ResNeXt on handwritten digits, export it and classify with the export: a tour in two minutes."""
    load_framework()
    from ..quickstart import run_quickstart

    run_quickstart(output_dir)
