"""The command that writes TFRecords."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .application import app, silenced


@app.command()
def records(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="Class folders, or train/ and val/ of them; .csv, .json, .txt; TFRecords; tfds:NAME."
        ),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder for the records; new, or empty.")],
    shards: Annotated[
        int | None, typer.Option(min=1, help="Files of training images; default so many that each has 100 MB.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of the images, which is random.")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="An unreadable image is an error.")] = False,
    skip_limit: Annotated[
        int | None, typer.Option(min=0, help="Unreadable images that may be left out; default 1 %.")
    ] = None,
) -> None:
    """Write images as TFRecords in ImageNet's layout: few large files, for slow and distant disks."""
    with silenced():
        from ..data.tf_records import write_records

    console = Console(highlight=False)
    written = write_records(data, output, shards=shards, seed=seed, strict=strict, limit=skip_limit, console=console)
    for split, listing in written.items():
        count = len(list(output.glob(f"{split}-*")))
        files = f"{count} file{'s' * (count != 1)}"
        console.print(f"{split}: {len(listing)} images of {len(listing.classes)} classes in {files}")
    console.print(f"Written: {output}", markup=False, soft_wrap=True)
