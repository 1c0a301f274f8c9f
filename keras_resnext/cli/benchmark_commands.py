"""The command that measures speed: benchmark."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from .application import app, printable

_PRECISIONS = ("float32", "tf32", "bfloat16")
_LOWERINGS = ("auto", "grouped", "merged")


@app.command()
def benchmark(
    rows: Annotated[
        list[str] | None, typer.Argument(metavar="[ROW…]", help="Rows to measure (--list), or growth; default all.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Only name the rows.")] = False,
    output: Annotated[Path | None, typer.Option(help="Folder for the figures as JSON, Markdown and PNG.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each contender is timed.")] = 9,
    threads: Annotated[int | None, typer.Option(min=1, help="Of each contender; default all processors.")] = None,
    architecture: Annotated[
        str | None, typer.Option(help="Such as resnext101_64x4d; the peers know torchvision's alone.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(min=32, help="Side of the images in pixels.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images at once.")] = None,
    precision: Annotated[
        str | None, typer.Option(help=f"{', '.join(_PRECISIONS)}, of the rows that are compiled as a whole.")
    ] = None,
    lowering: Annotated[str | None, typer.Option(help="Of training: auto, grouped or merged.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Channels of merged convolutions in training.")] = None,
) -> None:
    """Time training, inference and exports beside PyTorch, ONNX Runtime and OpenVINO, which take turns."""
    from rich.console import Console
    from rich.table import Table

    from ..benchmark import find_rows, run_benchmark, save, tables
    from ..network.architectures import find_architecture

    chosen = find_rows(rows or [])
    if list_:
        for name, row in chosen.items():
            print(f"{name:<24}{row.title}")
        return
    for name, value, known in (("precision", precision, _PRECISIONS), ("lowering", lowering, _LOWERINGS)):
        if value not in (None, *known):
            raise ValueError(f"{name}={value!r} must be one of {', '.join(known)}")
    if architecture:
        find_architecture(architecture)
    given = {
        "architecture": architecture, "size": image_size, "batch": batch_size, "precision": precision,
        "lowering": lowering, "width": width,
    }  # fmt: skip
    changes = {name: value for name, value in given.items() if value is not None}
    console = Console(stderr=True, highlight=False)
    with console.status("Measuring") as status:
        machine, found = run_benchmark(
            chosen, rounds=rounds, threads=threads, changes=changes, tell=lambda text: status.update(printable(text))
        )
    shown = Table(*tables.COLUMNS, box=None, pad_edge=False)
    for column in shown.columns:
        column.no_wrap = True
    for cells in tables.table(found):
        shown.add_row(*cells)
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    for line in tables.describe(machine):
        out.print(line, markup=False, soft_wrap=True)
    out.print(shown)
    for path in save(output, machine, found) if output else ():
        out.print(f"Written: {path}", markup=False, soft_wrap=True)
