"""`keras-resnext VERB`: one command a verb. Heavy imports stay inside the commands, so that help is instant."""

import json
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

app = typer.Typer(
    name="keras-resnext",
    help="ResNeXt for Keras 3: exact PyTorch weights, fast training, exports that run as they are.",
    pretty_exceptions_enable=False,
    add_completion=False,
)

MODEL_HELP = "Published weights (`keras-resnext list`), .keras file, PyTorch checkpoint, or architecture name."
Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]


@app.command("list")
def list_() -> None:
    """Show the architectures, and the published weights with accuracy and licence."""
    from .architectures import ARCHITECTURES
    from .published import PUBLISHED

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
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="Pictures in any format that Pillow reads.")],
    top: Annotated[int, typer.Option(min=1, help="Classes shown per picture.")] = 5,
    labels: Annotated[Path | None, typer.Option(help="Text file with one class name a line.")] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Height and width, where the model leaves it free.")
    ] = None,
) -> None:
    """Classify pictures and print the best classes of each."""
    for image in images:  # a mistyped path should not wait for a framework
        if not image.is_file():
            raise FileNotFoundError(f"image={str(image)!r}: there is no such file")
    load_framework()
    from .loading import load_model
    from .prediction import predict_images, read_labels

    names = read_labels(labels) if labels else None
    table = Table("picture", "rank", "class", "score", box=None)
    for path, ranking in predict_images(load_model(model), images, top=top, labels=names, image_size=image_size):
        for rank, (name, score) in enumerate(ranking, start=1):
            table.add_row(escape(str(path)) if rank == 1 else "", str(rank), escape(name), f"{score:.2%}")
    Console().print(table)


@app.command()
def info(file: Annotated[Path, typer.Argument(help="PyTorch checkpoint, .keras or .weights.h5 file.")]) -> None:
    """Tell what a file of weights is, without building anything."""
    from .info import describe_file

    found = describe_file(file)
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
        print(f"{key:<16}{_printable(str(value))}")


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
    bgr: Annotated[bool, typer.Option("--bgr", help="The checkpoint was trained on BGR pictures.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare with torchvision's or timm's own network; needs PyTorch.")
    ] = False,
) -> None:
    """Convert weights between PyTorch (torchvision, mmcls, timm) and Keras, in either direction."""
    load_framework()
    from .conversion import convert as convert_file

    options = _read_options(option or []) | ({} if classes is None else {"classes": classes})
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
    pictures: Annotated[
        list[Path] | None, typer.Option(help="A picture on which model and export are compared; repeat for more.")
    ] = None,
    version: Annotated[
        int | None, typer.Option(help="SavedModel: version number; default the highest plus one.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="SavedModel: text file with one class name a line.")] = None,
    hardware: Annotated[str, typer.Option(help="SavedModel: what it will run on, cpu, gpu or portable.")] = "cpu",
    warmup: Annotated[bool, typer.Option(help="SavedModel: write requests that warm a server up.")] = True,
    tflite: Annotated[bool, typer.Option("--tflite", help="SavedModel: write model.tflite beside it.")] = False,
    quantization: Annotated[
        str | None, typer.Option(help="TFLite: float16, dynamic, int8 or int16x8; default float32.")
    ] = None,
    calibration: Annotated[Path | None, typer.Option(help="TFLite: folder of pictures, for int8 and int16x8.")] = None,
    io_type: Annotated[str, typer.Option(help="TFLite: float32, or for int8 also int8 or uint8.")] = "float32",
    opset: Annotated[int, typer.Option(help="ONNX: version of the operator set.")] = 17,
) -> None:
    """Export a model for TF Serving as DST/VERSION, or as a TFLite or ONNX file, and compare it with the model."""
    given: dict[str, dict[str, Any]] = {
        "saved_model": {"version": version, "labels": labels, "target": hardware, "warmup": warmup, "tflite": tflite},
        "tflite": {"quantization": quantization, "calibration": calibration, "io_type": io_type},
        "onnx": {"opset": opset},
    }
    usual: dict[str, Any] = {
        "version": None,
        "labels": None,
        "target": "cpu",
        "warmup": True,
        "tflite": False,
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
    from .export import export_onnx, export_tflite, export_version
    from .loading import describe_model, load_model
    from .prediction import read_labels

    options = given[format_] | {"image_size": image_size, "pictures": pictures}
    if labels:
        options["labels"] = read_labels(labels)
    loaded = load_model(model)
    if format_ == "saved_model":
        options["manifest"] = describe_model(model)
    run: Any = {"saved_model": export_version, "tflite": export_tflite, "onnx": export_onnx}[format_]
    report = run(loaded, target, **options)
    rows = {
        "written": report.path,
        "size": f"{report.size / 1e6:.1f} MB",
        "run by": report.runtime,
        "largest difference": f"{report.largest_difference:.1e}",
        "top-1 agreement": f"{report.top1_agreement:.0%}",
        "latency": f"{report.latency * 1e3:.1f} ms for one picture",
    }
    for key, value in rows.items():
        print(f"{key:<20}{_printable(str(value))}")


@app.command()
def quickstart(
    output_dir: Annotated[Path, typer.Option(help="Folder for the model, its export and a picture.")] = Path(
        "savedmodels"
    ),
) -> None:
    """Train a small ResNeXt on handwritten digits, export it and classify with the export: a tour in two minutes."""
    load_framework()
    from .quickstart import run_quickstart

    run_quickstart(output_dir)


def load_framework() -> None:
    """Imports Keras and its backend without what TensorFlow tells standard error at every start."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)  # some of it is written before any log level counts
    try:
        import keras

        keras.ops.zeros(())  # devices are looked for at the first operation
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line. What a user can mend is one line on standard error and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: _tell(f"warning: {message}")
            sys.exit(app(args=arguments or ["--help"], standalone_mode=False))
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of click's, which typer carries inside or imports
            message = error.format_message()
        elif isinstance(error, (ValueError, OSError, RuntimeError, ImportError, MemoryError)):
            message = str(error) or type(error).__name__
        else:
            raise
        _tell(message)
        sys.exit(2)


def _read_options(pairs: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` each; the value as JSON where it is JSON, else as text."""
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"option={pair!r} must be NAME=VALUE, such as style=caffe or dilations=[1,1,2,4]")
        try:
            options[name] = json.loads(text)
        except ValueError:
            options[name] = text
    return options


def _printable(text: str) -> str:
    """Without what would drive a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _tell(message: str) -> None:
    """One line on standard error."""
    print(f"keras-resnext: {_printable(' '.join(message.split()))}", file=sys.stderr)


def run() -> None:
    """The installed command: as `main`, and ended politely it takes away what it has written aside."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    main()


if __name__ == "__main__":
    run()
