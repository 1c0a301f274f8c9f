"""The commands around a model base: serve, and models ls, rm, label."""

import logging
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .application import MODEL_HELP, app, load_framework, printable, silenced, tell

models = typer.Typer(help="Look after a model base: versions, sizes, hashes, labels.", no_args_is_help=True)
app.add_typer(models, name="models")

KEY_VARIABLE = "KERAS_RESNEXT_API_KEY"
Base = Annotated[Path, typer.Argument(metavar="BASE", help="Folder of models, or of one model's versions.")]


@app.command()
def serve(
    base: Annotated[
        str,
        typer.Argument(
            metavar="BASE|MODEL",
            help=f"Model base: BASE/NAME/VERSION; or a MODEL, which is exported to a cache first. {MODEL_HELP}",
        ),
    ] = "savedmodels",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all, then give a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page and of REST; 0: a free one.")] = 8501,
    grpc_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of gRPC, by custom 8500; default none.")
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Images that go through the network together.")] = 16,
    batch_timeout_ms: Annotated[
        float,
        typer.Option(min=0, help="How long a request waits for others to join it; those that wait anyway are joined."),
    ] = 0.0,
    queue: Annotated[int, typer.Option(min=1, help="Images that may wait; beyond them requests get 503.")] = 256,
    max_request_mb: Annotated[float, typer.Option(min=0.01, help="Size of a request; larger ones get 413.")] = 32.0,
    request_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for a request; then it gets 504.")] = 30.0,
    api_key: Annotated[
        str | None,
        typer.Option(help=f"What requests must carry; better as {KEY_VARIABLE}, which no process list shows."),
    ] = None,
    poll_seconds: Annotated[float, typer.Option(min=0.05, help="How often the base is looked at.")] = 1.0,
    labels: Annotated[Path | None, typer.Option(help="MODEL: text file with one class name a line.")] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="MODEL: height and width, where the model leaves them free.")
    ] = None,
) -> None:
    """Serve models on this machine: a page to try them in, and TF Serving's REST and gRPC interfaces.

    New versions are picked up while it runs. It is made for a desk; production is TF Serving's, which the same base
    and the same clients work with.
    """
    from ..serving.server.launch import check_installed
    from ..serving.server.launch import serve as run
    from ..serving.server.serve_options import ServeOptions

    options = ServeOptions(
        host=host,
        port=port,
        grpc_port=grpc_port,
        max_batch=max_batch,
        batch_timeout=batch_timeout_ms / 1e3,
        queue=queue,
        max_request=int(max_request_mb * (1 << 20)),
        request_timeout=request_timeout,
        api_key=api_key if api_key is not None else os.environ.get(KEY_VARIABLE) or None,
        poll=poll_seconds,
    )
    check_installed(options)
    folder = Path(base)
    if folder.is_dir():
        if labels or image_size:
            raise ValueError(f"--labels and --image-size are for a MODEL; the exports in BASE={base!r} have theirs")
    elif base == "savedmodels":
        raise FileNotFoundError("BASE='savedmodels': there is no such folder; `keras-resnext quickstart` makes one")
    else:
        load_framework()
        from ..labels import read_labels
        from ..serving.server.exported import export_to_cache

        names = read_labels(labels) if labels else None
        folder = export_to_cache(base, labels=names, image_size=image_size, tell=tell)
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
            f"{top1:.2f}" if isinstance(top1, int | float) else "",
            escape(printable(", ".join(row.labels))),
            escape(printable(row.hashes or "not checked")),
            escape(printable(row.source)),
        )
    Console().print(table)
    print("* served")
    if any(row.hashes not in (None, "match", "not recorded") for row in rows):
        raise ValueError("some files are not as they were exported")


@models.command("rm")
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
