"""The command that looks through a data set: check."""

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from ..data_check.findings import KINDS, DataReport
from ..export.export_options import PREPROCESSING
from ..files import placed_whole
from ..terminal import PlainConsole, printable
from .application import TRAINING, Data, app, load_framework
from .from_fields import from_fields

SHOWN = 3  # findings of each kind


@dataclass(frozen=True)
class CheckOptions:
    """What `check` looks for, and where it writes."""

    val: str | None = field(
        default=None, metadata={"help": "Validation images (as DIR); default DIR/val where there is one."}
    )
    model: str | None = field(
        default=None,
        metadata={
            "metavar": "MODEL",
            "help": "Also judge the labels: by neighbours in this model's features, or by an export's scores.",
        },
    )
    preprocessing: str | None = field(default=None, metadata=PREPROCESSING)
    image_size: int | None = field(
        default=None, metadata={"min": 1, "help": "Height and width, where the model leaves them free."}
    )
    ignore: tuple[str, ...] = field(
        default=(), metadata={"metavar": "KIND", "help": f"Leave out a kind: {', '.join(KINDS)}; can be repeated."}
    )
    csv: Path | None = field(default=None, metadata={"help": "Write all findings as CSV."})
    json: Path | None = field(default=None, metadata={"help": "Write all findings as JSON."})
    sheet: Path | None = field(default=None, metadata={"help": "Draw the worst findings: a .png or .html file."})
    strict: bool = field(default=False, metadata={"help": "Exit with code 1 if there are findings."})


@app.command(rich_help_panel=TRAINING)
@from_fields
def check(data: Data, options: CheckOptions) -> None:
    """Look for what is wrong with images and labels: copies, also across train and val, dark or blurred images.

    Changes nothing. The exit code is 0 whatever is found, unless --strict is given.
    """
    from ..data_check.review import check_data, read_splits
    from ..data_check.sheets import check_sheet, write_sheet

    if options.sheet:
        check_sheet(options.sheet)
    written = [path for path in (options.csv, options.json, options.sheet) if path]
    for path in written:
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{str(path)!r} cannot be written: there is no folder {str(path.parent)!r}")
    splits = read_splits(data, options.val)  # a mistyped path should not wait for a framework
    if options.model is not None:
        load_framework()
    report = check_data(
        splits["train"],
        splits.get("val"),
        model=options.model,
        preprocessing=options.preprocessing,
        image_size=options.image_size,
        ignore=options.ignore,
        console=PlainConsole(stderr=True),
    )
    _print(report)
    if options.csv:
        _write(options.csv, report.csv())
    if options.json:
        _write(options.json, (json.dumps(report.facts(), indent=2) + "\n").encode())
    if options.sheet:
        write_sheet(report, splits, options.sheet)
    for path in written:
        print(f"{'written':<20}{printable(str(path))}")
    if options.strict and report.findings:
        sys.exit(1)


def _write(path: Path, content: bytes) -> None:
    with placed_whole(path) as aside:
        aside.write_bytes(content)


def _print(report: DataReport) -> None:
    images = ", ".join(f"{count} in {split}" for split, count in report.images.items())
    count = sum(report.images.values())
    print(f"{'images':<20}{images}; {len(report.classes)} classes; {count / max(report.seconds, 1e-9):.0f} images/s")
    if not report.labels_judged:
        print(f"{'labels':<20}not judged; --model MODEL judges them")
    if not report.findings:
        print(f"{'found':<20}nothing")
        return
    files = [finding.image for finding in report.findings if finding.image]
    root = os.path.join(os.path.commonpath([os.path.dirname(file) for file in files]), "") if files else ""
    table = Table("kind", "found", "which", "why", box=None)
    for column in table.columns[2:]:
        column.overflow = "fold"
    for kind, found in report.counts().items():
        members = [finding for finding in report.findings if finding.kind == kind]
        for row, finding in enumerate(members[:SHOWN]):
            head = (kind, str(found)) if row == 0 else ("", "")
            which = finding.image or f"class {finding.label!r} in {finding.split}"
            table.add_row(*head, *(escape(printable(text.replace(root, ""))) for text in (which, finding.reason)))
    PlainConsole().print(table)
