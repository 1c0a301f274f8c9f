"""The commands around a model base: serve, and models ls, rm, label."""

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ..export.export_options import KIND, PREPROCESSING
from ..serving.server.serve_options import ServeOptions
from ..terminal import PlainConsole, printable
from .application import MODEL_HELP, SERVING, app, load_framework, silenced, tell
from .from_fields import from_fields

models = typer.Typer(help="Look after a model base: versions, sizes, hashes, labels.", no_args_is_help=True)
app.add_typer(models, name="models", rich_help_panel=SERVING)

Base = Annotated[Path, typer.Argument(metavar="BASE", help="Folder of models, or of one model's versions.")]


@dataclass(frozen=True)
class ModelOptions:
    """Of a MODEL that is exported before it is served."""

    labels: Path | None = field(
        default=None, metadata={"panel": "MODEL", "help": "Text file with one class name a line."}
    )
    image_size: int | None = field(
        default=None,
        metadata={"panel": "MODEL", "min": 1, "help": "Height and width, where the model leaves them free."},
    )
    preprocessing: str | None = field(default=None, metadata={**PREPROCESSING, "panel": "MODEL"})
    kind: str | None = field(default=None, metadata={**KIND, "panel": "MODEL"})


@app.command(rich_help_panel=SERVING)
@from_fields
def serve(
    base: Annotated[
        str,
        typer.Argument(
            metavar="BASE|MODEL",
            help=f"Model base: BASE/NAME/VERSION; or a MODEL, which is exported to a cache first. {MODEL_HELP}",
        ),
    ] = "savedmodels",
    *,
    options: ServeOptions,
    exported: ModelOptions,
) -> None:
    """Serve models on this machine: a page to try them in, and TF Serving's REST and gRPC interfaces.

    New versions are picked up while it runs. It is made for a desk; production is TF Serving's, which the same base
    and the same clients work with.
    """
    from ..serving.server.launch import check_installed, use_system_allocator
    from ..serving.server.launch import serve as run

    check_installed(options)
    use_system_allocator()
    folder = Path(base)
    if folder.is_dir():
        if exported != ModelOptions():
            raise ValueError(
                "--labels, --image-size, --preprocessing and --kind are for a MODEL; the exports in "
                f"BASE={base!r} have theirs"
            )
    elif base == "savedmodels":
        raise FileNotFoundError("BASE='savedmodels': there is no such folder; `keras-resnext quickstart` makes one")
    else:
        load_framework()
        from ..labels import read_labels
        from ..serving.server.exported import export_to_cache

        names = read_labels(exported.labels) if exported.labels else None
        folder = export_to_cache(
            base,
            labels=names,
            image_size=exported.image_size,
            preprocessing=exported.preprocessing,
            kind=exported.kind,
            tell=tell,
        )
    _log_to_standard_error()
    run(folder, options, lambda line: print(printable(line), flush=True), silenced)


def _log_to_standard_error() -> None:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tell(self.format(record))

    logging.getLogger().addHandler(Handler())
    logging.getLogger("keras_resnext").setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # every malformed request is a warning there


@models.command("ls")
@from_fields
def ls(
    base: Base = Path("savedmodels"),
    verify: Annotated[bool, typer.Option(help="Compare each file with the hash in its manifest.")] = True,
) -> None:
    """Show every version: size, date, source, accuracy, labels, and whether its files are as they were exported."""
    from ..serving.model_base import list_versions

    table = Table(box=None)
    for column in ("model", "version", "size", "created", "top-1", "labels", "files", "source"):
        right = column in ("version", "size", "top-1")
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    rows = list_versions(base, verify=verify)
    for row in rows:
        top1 = row.accuracy.get("top1")
        table.add_row(
            escape(printable(row.model)),
            f"{'*' if row.served else ''}{row.version}",
            f"{row.size / 1e6:.1f} MB",
            row.created[:10],
            f"{top1:.2f}" if isinstance(top1, int | float) and 0 <= top1 <= 100 else "",
            escape(printable(", ".join(row.labels))),
            escape(printable(row.hashes or "not checked")),
            escape(printable(row.source)),
        )
    PlainConsole().print(table)
    print("* served")
    if any(row.hashes not in (None, "match", "not recorded") for row in rows):
        raise ValueError("some files are not as they were exported")


@models.command("rm")
@from_fields
def rm(
    versions: Annotated[list[Path], typer.Argument(metavar="BASE/NAME/VERSION…", help="Folders of versions.")],
    force: Annotated[bool, typer.Option("--force", help="Also a version that is served or has a label.")] = False,
) -> None:
    """Remove versions, each in one step for servers that watch the base."""
    from ..serving.model_base import remove_version

    for version in versions:
        remove_version(version, force=force)
        print(printable(f"{version} removed"))


@models.command("label")
@from_fields
def label(
    target: Annotated[
        Path, typer.Argument(metavar="BASE/NAME[/VERSION]", help="The version; with --remove the model alone.")
    ],
    name: Annotated[str, typer.Argument(metavar="LABEL", help="Such as stable or canary.")],
    remove: Annotated[bool, typer.Option("--remove", help="Take the label away.")] = False,
) -> None:
    """Label a version in the base's models.config, for requests to …/labels/LABEL here and in TF Serving."""
    from ..serving.model_base import label_version

    path = Path(os.path.abspath(target))
    if path.name.isdecimal() and not remove:
        folder, number = path.parent, int(path.name)
    elif remove:
        folder, number = (path.parent if path.name.isdecimal() else path), None
    else:
        raise ValueError(f"TARGET={str(target)!r} must be BASE/NAME/VERSION, its last part a number")
    labels = label_version(folder, name, number)
    shown = ", ".join(f"{key} is version {value}" for key, value in sorted(labels.items()))
    print(printable(f"{folder.name}: {shown or 'no labels'}"))
    if labels:
        listed = sorted({*labels.values()})
        tell(
            f"models.config now lists the versions of {folder.name} that are served, those labelled among them "
            f"({', '.join(map(str, listed))}); a later version is served once it has a label"
        )
