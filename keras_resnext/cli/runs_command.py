"""The command that compares runs of training: runs."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ..terminal import PlainConsole, printable, printable_json
from ..training.runs import RunSummary, find_runs
from .application import TRAINING, app, tell

NONE = "–"


@app.command(rich_help_panel=TRAINING)
def runs(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Folder of runs.")] = Path("runs"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: a list with one object a run.", metavar="")
    ] = False,
) -> None:
    """Compare the runs in a folder, oldest first."""
    found, broken = find_runs(folder)
    if as_json:
        print(printable_json([{**asdict(run), "folder": str(run.folder)} for run in found]))
    elif found:
        PlainConsole().print(_table(found, folder))
    else:
        print(f"{printable(str(folder))} holds no runs.")
    for path, reason in broken.items():
        tell(f"{str(path)!r} cannot be read: {reason}")


def _table(found: list[RunSummary], folder: Path) -> Table:
    table = Table(box=None)
    for name in ("run", "model", "recipe", "epochs", "best", "s/epoch", "began", "state"):
        table.add_column(name, justify="right" if name in ("epochs", "best", "s/epoch") else "left", overflow="fold")
    for run in found:
        name = str(run.folder.relative_to(folder)) if run.folder != folder else run.folder.name
        cells = (
            name,
            run.model,
            run.recipe,
            f"{run.epochs}/{run.planned}",
            NONE if run.best is None else f"{run.metric} {run.best:.2%}, epoch {run.best_epoch}",
            NONE if run.seconds_per_epoch is None else f"{run.seconds_per_epoch:.3g}",
            (run.started or NONE)[:16].replace("T", " "),
            run.state,
        )
        table.add_row(*(escape(printable(cell)) for cell in cells))
    return table
