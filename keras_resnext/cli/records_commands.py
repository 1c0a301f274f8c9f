"""The command that writes TFRecords."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from ..terminal import PlainConsole, printable
from .application import TRAINING, Data, app, silenced
from .from_fields import from_fields


@dataclass(frozen=True)
class RecordOptions:
    """How `records` writes."""

    shards: int | None = field(
        default=None, metadata={"min": 1, "help": "Files of training images; default one for each 100 MB."}
    )
    seed: int = field(default=0, metadata={"min": 0, "help": "Seed of the order of the images, which is random."})
    strict: bool = field(default=False, metadata={"help": "Stop at the first unreadable image."})
    skip_limit: int | None = field(
        default=None, metadata={"min": 0, "help": "How many unreadable images may be skipped; default 1 %."}
    )


@app.command(rich_help_panel=TRAINING)
@from_fields
def records(
    data: Data,
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder for the records; new, or empty.")],
    options: RecordOptions,
) -> None:
    """Write images as TFRecords in ImageNet's layout: few large files, for slow and distant disks."""
    with silenced():
        from ..data.tf_records import write_records

    console = PlainConsole(highlight=False)
    written = write_records(
        data, output, shards=options.shards, seed=options.seed, strict=options.strict, limit=options.skip_limit,
        console=console,
    )  # fmt: skip
    for split, listing in written.items():
        count = len(list(output.glob(f"{split}-*")))
        files = f"{count} file{'s' * (count != 1)}"
        console.print(f"{split}: {len(listing)} images of {len(listing.classes)} classes in {files}")
    console.print(f"Written: {printable(str(output))}", markup=False, soft_wrap=True)
