"""`keras-resnext VERB`: one command a verb. Heavy imports stay inside the commands, so that help is instant."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(
    name="keras-resnext",
    help="ResNeXt for Keras 3: exact PyTorch weights, fast training, exports that run as they are.",
    pretty_exceptions_enable=False,
    add_completion=False,
)

MODEL_HELP = "Architecture name, .keras file, or PyTorch checkpoint (.pth, .pt, .safetensors)."
Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]


@app.command("list")
def list_() -> None:
    """Show the architectures with their parameter counts."""
    from .architectures import ARCHITECTURES

    table = Table(box=None)
    for column in ("name", "parameters", "classes", "input"):  # narrow enough for 80 columns
        table.add_column(column, no_wrap=True, justify="left" if column == "name" else "right")
    table.add_column("source")
    for row in ARCHITECTURES.values():
        counts = (f"{row.parameters / 1e6:.1f} M", str(row.classes), f"{row.image_size}²")
        table.add_row(row.name, *counts, row.source)
    Console().print(table)


@app.command()
def predict(
    model: Model,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="Pictures in any format that Pillow reads.")],
    top: Annotated[int, typer.Option(min=1, help="Classes shown per picture.")] = 5,
    labels: Annotated[Path | None, typer.Option(help="Text file with one class name a line.")] = None,
    image_size: Annotated[int, typer.Option(min=1, help="Height and width, where the model leaves it free.")] = 224,
) -> None:
    """Classify pictures and print the best classes of each."""
    for image in images:  # a mistyped path should not wait for a framework
        if not image.is_file():
            raise FileNotFoundError(f"image={str(image)!r}: there is no such file")
    load_framework()
    from .prediction import load_model, predict_images, read_labels

    names = read_labels(labels) if labels else None
    table = Table("picture", "rank", "class", "score", box=None)
    for path, ranking in predict_images(load_model(model), images, top=top, labels=names, image_size=image_size):
        for rank, (name, score) in enumerate(ranking, start=1):
            table.add_row(str(path) if rank == 1 else "", str(rank), name, f"{score:.2%}")
    Console().print(table)


@app.command()
def export(
    model: Model,
    base_dir: Annotated[Path, typer.Argument(help="Folder of the served model; the version becomes a folder in it.")],
    version: Annotated[int | None, typer.Option(help="Version number; default the highest plus one.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Text file with one class name a line.")] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Height and width in pixels, where the model leaves it free.")
    ] = None,
) -> None:
    """Export a model for TF Serving as BASE_DIR/VERSION."""
    load_framework()
    from .export import export_saved_model
    from .prediction import load_model, read_labels

    names = read_labels(labels) if labels else None
    path = export_saved_model(load_model(model), base_dir, version=version, labels=names, image_size=image_size)
    Console().print(f"SavedModel: {path}", highlight=False, soft_wrap=True)


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
        sys.exit(app(args=arguments or ["--help"], standalone_mode=False))
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of click's, which typer carries inside or imports
            message = error.format_message()
        elif isinstance(error, (ValueError, OSError, RuntimeError, ImportError)):
            message = str(error) or type(error).__name__
        else:
            raise
        print(f"keras-resnext: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
