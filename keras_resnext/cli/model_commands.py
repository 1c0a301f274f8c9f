"""The commands on models and files: list, info, convert, quickstart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ..terminal import PlainConsole, printable
from .application import MODEL_HELP, MODELS, TRAINING, app, load_framework
from .from_fields import from_fields

if TYPE_CHECKING:
    from ..network.costs import StageCost


@app.command("list", rich_help_panel=MODELS)
def list_(
    pattern: Annotated[
        str | None, typer.Argument(metavar="[PATTERN]", help="Only names that fit, such as '*d_32x4d'.")
    ] = None,
) -> None:
    """Show the architectures, and the published weights with accuracy and licence."""
    from ..network.architectures import ARCHITECTURES, list_architectures
    from ..network.checks import describe_choices
    from ..weights.published import PUBLISHED, list_pretrained

    architectures, pretrained = list_architectures(pattern), set(list_pretrained(pattern))
    if not architectures and not pretrained:
        word = str(pattern).strip("*")
        hint = describe_choices(word, ARCHITECTURES) if word else "leave it out"
        raise ValueError(f"PATTERN={pattern!r} fits no architecture and no weights; {hint}")
    table = Table(box=None)
    for column in ("name", "parameters", "classes", "input"):  # narrow enough for 80 columns
        table.add_column(column, no_wrap=True, justify="left" if column == "name" else "right")
    table.add_column("source")
    for row in (ARCHITECTURES[name] for name in architectures):
        counts = (f"{row.parameters / 1e6:.1f} M", str(row.classes), f"{row.image_size}²")
        table.add_row(row.name, *counts, row.source)
    if architectures:
        PlainConsole().print(table)
    weights = Table(
        box=None, title="Published weights, with their accuracy on ImageNet in percent", title_justify="left"
    )
    for column in ("weights", "top-1", "top-5", "licence"):
        weights.add_column(column, no_wrap=True, justify="right" if column.startswith("top") else "left")
    for published in (row for row in PUBLISHED if row.name in pretrained):
        tops = ("" if top is None else f"{top:.2f}" for top in (published.top1, published.top5))
        weights.add_row(published.name, *tops, published.licence)
    if pretrained:
        PlainConsole().print("", weights)
    PlainConsole().print("\nimagenet/ARCHITECTURE: the most accurate of these whose licence allows commercial use.")


@dataclass(frozen=True)
class InfoOptions:
    """At which size `info` counts."""

    image_size: int | None = field(
        default=None,
        metadata={"min": 1, "max": 1_000_000, "help": "Height and width in pixels to count operations at."},
    )
    prefix: str | None = field(default=None, metadata={"help": "Which of several networks in the checkpoint."})


@app.command(rich_help_panel=MODELS)
@from_fields
def info(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="A PyTorch, .keras or .weights.h5 file, hf://OWNER/NAME, published weights or an architecture.",
        ),
    ],
    options: InfoOptions,
) -> None:
    """Show what a file of weights or an architecture is, and what each stage costs, without building anything."""
    image_size = options.image_size
    from ..network.architectures import ARCHITECTURES
    from ..network.checks import describe_choices
    from ..network.costs import count_costs
    from ..weights.hub import is_on_hub
    from ..weights.info import describe_file
    from ..weights.published import PUBLISHED

    rows: dict[str, Any]
    published = None if Path(file).exists() else next((row for row in PUBLISHED if file in row.names), None)
    row = None if Path(file).exists() else ARCHITECTURES.get(published.architecture if published else file)
    if row is None and not Path(file).exists() and not Path(file).suffix and not is_on_hub(file):
        raise ValueError(
            f"FILE={file!r} is no file, architecture or published checkpoint; {describe_choices(file, ARCHITECTURES)}"
        )
    if row is not None:
        size = (image_size or row.image_size,) * 2
        costs = count_costs(row.structure, size)
        rows = {
            "architecture": row.name,
            "source": row.source,
            "classes": row.classes,
            "parameters": f"{row.parameters:,}",
        }
        if published:
            figures = {"": published.top1, " at test size": published.test_top1}
            shown = ", ".join(f"{top1} %{where}" for where, top1 in figures.items() if top1 is not None)
            rows = {"weights": published.name} | rows
            rows |= {"classes": published.classes or "no head", "top-1": shown or "not known"}
            rows |= {"licence": published.licence, "address": published.url}
    else:
        found = describe_file(file, image_size, prefix=options.prefix)
        size, costs = found.image_size, found.costs
        digits = next((len(row.sha256_prefix) for row in PUBLISHED if row.name == found.published), 0)
        rows = {
            "file": found.path,
            "format": found.format,
            "wrapper": found.wrapper or "none",
            "prefix": found.prefix or "none",
            "left out": found.left_out or "nothing",
            "layout": found.layout,
            "architecture": found.architecture,
            "classes": found.classes or "no head",
            "parameters": f"{found.parameters:,}",
            "dtype": ", ".join(found.dtypes),
            "moving average": "yes (--ema takes it)" if found.averaged else "no",
            "size": f"{found.size:,} bytes",
            "SHA-256": found.sha256,
            "published": f"matches the {digits} digits of {found.published}" if found.published else "not known",
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


@dataclass(frozen=True)
class ConvertOptions:
    """How `convert` reads and writes."""

    layout: str | None = field(
        default=None, metadata={"help": "Names in PyTorch files: torchvision (default), mmcls, timm or open-mmlab."}
    )
    classes: int | None = field(default=None, metadata={"min": 1, "help": "A new, random head with N classes."})
    option: Mapping[str, Any] = field(
        default_factory=dict,
        metadata={
            "metavar": "NAME=VALUE", "help": "Option of ResNeXt that weights cannot show, such as style=caffe.",
        },
    )  # fmt: skip
    ema: bool = field(default=False, metadata={"help": "Take the checkpoint's moving average."})
    bgr: bool = field(default=False, metadata={"help": "The checkpoint was trained on BGR images."})
    prefix: str | None = field(default=None, metadata={"help": "Which of several networks in the checkpoint."})
    verify: bool = field(
        default=False, metadata={"help": "Compare with torchvision's or timm's own network; needs PyTorch."}
    )


@app.command(rich_help_panel=MODELS)
@from_fields
def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help=MODEL_HELP)],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="DST", help="File: .keras, .weights.h5, .pth, .pt, .safetensors; or with --layout timm a folder."
        ),
    ],
    options: ConvertOptions,
) -> None:
    """Convert weights between PyTorch (torchvision, mmcls, timm) and Keras, in either direction."""
    load_framework()
    from ..conversion import convert as convert_file

    network = {**options.option, **({} if options.classes is None else {"classes": options.classes})}
    how: dict[str, Any] = {"layout": options.layout, "ema": options.ema, "bgr": options.bgr, "prefix": options.prefix}
    _, agreement = convert_file(source, target, verify=options.verify, **how, **network)
    size = sum(file.stat().st_size for file in (target.iterdir() if target.is_dir() else [target]))
    print(printable(f"{source} -> {target} ({size / 1e6:.1f} MB)"))
    if agreement is not None:
        print(
            f"{agreement.outputs} against {agreement.library}: largest difference "
            f"{agreement.largest_difference:.2e}, relatively {agreement.relative_difference:.2e}"
        )


@dataclass(frozen=True)
class QuickstartOptions:
    """Where `quickstart` writes."""

    output_dir: Path = field(
        default=Path("savedmodels"), metadata={"help": "Folder for the model, its export and an image."}
    )


@app.command(rich_help_panel=TRAINING)
@from_fields
def quickstart(options: QuickstartOptions) -> None:
    """Train a small ResNeXt on handwritten digits, export it and classify with the export: a tour in two minutes."""
    load_framework()
    from ..quickstart import run_quickstart

    run_quickstart(options.output_dir)
