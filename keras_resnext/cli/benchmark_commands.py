"""The command that measures speed: benchmark."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from ..benchmark.work import Work
from ..terminal import PlainConsole, printable
from .application import SERVING, app
from .from_fields import Changes, from_fields


@dataclass(frozen=True)
class BenchmarkOptions:
    """What `benchmark` measures and writes, beside the work itself."""

    list_: bool = field(default=False, metadata={"name": "--list", "help": "Only name the rows."})
    output: Path | None = field(default=None, metadata={"help": "Folder for the figures as JSON, Markdown and PNG."})
    rounds: int = field(default=9, metadata={"min": 1, "help": "How often each contender is timed."})


@app.command(rich_help_panel=SERVING)
@from_fields
def benchmark(
    options: BenchmarkOptions,
    changes: Annotated[dict[str, Any], Changes(Work)],
    rows: Annotated[
        list[str] | None, typer.Argument(metavar="[ROW…]", help="Rows to measure (--list), or growth; default all.")
    ] = None,
) -> None:
    """Time training, inference and exports beside PyTorch, ONNX Runtime and OpenVINO, which take turns."""
    from rich.table import Table

    from ..benchmark import find_rows, run_benchmark, save, tables
    from ..network.architectures import find_architecture

    chosen = find_rows(rows or [])
    if options.list_:
        for name, row in chosen.items():
            print(f"{name:<24}{row.title}")
        return
    if architecture := changes.get("architecture"):
        find_architecture(architecture)
    threads = changes.pop("threads", None)
    console = PlainConsole(stderr=True, highlight=False)
    with console.status("Measuring") as status:
        machine, found = run_benchmark(
            chosen,
            rounds=options.rounds,
            threads=threads,
            changes=changes,
            tell=lambda text: status.update(printable(text)),
        )
    shown = Table(*tables.COLUMNS, box=None, pad_edge=False)
    for column in shown.columns:
        column.no_wrap = True
    for cells in tables.table(found):
        shown.add_row(*cells)
    out = PlainConsole(highlight=False, width=None if sys.stdout.isatty() else 260)
    for line in tables.describe(machine):
        out.print(line, markup=False, soft_wrap=True)
    out.print(shown)
    for line in tables.absences(found):
        out.print(line, markup=False, soft_wrap=True)
    for path in save(options.output, machine, found) if options.output else ():
        out.print(printable(f"Written: {path}"), markup=False, soft_wrap=True)
