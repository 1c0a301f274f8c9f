"""What the commands share: the application, the MODEL argument, and how they speak."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import __version__
from ..os_errors import as_built_in, is_tensorflow_error
from ..terminal import printable

app = typer.Typer(
    name="keras-resnext",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# Groups of commands in --help.
MODELS, TRAINING, SERVING = "Models and weights", "Training and evaluation", "Serving and speed"

MODEL_HELP = (
    "Published weights (`keras-resnext list`), hf://OWNER/NAME, .keras file, PyTorch checkpoint, folder of a training "
    "run, or architecture name."
)
Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
Classifier = Annotated[
    str, typer.Argument(metavar="MODEL", help=f"{MODEL_HELP} Or a SavedModel's folder, a .tflite or .onnx file.")
]
Images = Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="Images in any format that Pillow reads.")]
Data = Annotated[
    Path,
    typer.Argument(
        metavar="DIR",
        help="Class folders, or train/ and val/ of them; a .csv, .json or .txt list; TFRecords; tfds:NAME.",
    ),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"keras-resnext {__version__}")
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version.", metavar="")
    ] = False,
) -> None:
    """ResNeXt for Keras 3: exact PyTorch weights, fast training, exports that run as they are."""


def load_framework(before_use: Callable[[], None] | None = None) -> None:
    """Imports Keras and its backend without what TensorFlow tells standard error at every start.

    `before_use` runs before any device is looked for.
    """
    with silenced():
        import keras

        if before_use:
            before_use()
        keras.ops.zeros(())  # devices are looked for at the first operation


@contextmanager
def silenced() -> Iterator[None]:
    """Without what libraries tell standard error while they are imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)  # some of it is written before any log level counts
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def read_options(pairs: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` each; the value as JSON where it is JSON, else as text."""
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"option={pair!r} must be NAME=VALUE, such as style=caffe or dilations=[1,1,2,4]")
        try:
            options[name] = json.loads(text)
        except ValueError:
            options[name] = text
    return options


def tell(message: str) -> None:
    """One line on standard error."""
    print(f"keras-resnext: {printable(' '.join(message.split()))}", file=sys.stderr)


def message_of(error: Exception) -> str | None:
    """What to say of an error that a user can mend, or that the machine is too small for; None for one of this code."""
    error = as_built_in(error) or error
    if hasattr(error, "format_message"):  # a usage error of click's, which typer carries inside or imports
        return str(error.format_message())
    text = str(error)
    if isinstance(error, MemoryError):
        return f"not enough memory ({text or type(error).__name__}): take a smaller batch, image or model"
    if isinstance(error, (ValueError, OSError, RuntimeError, ImportError)):
        return text or type(error).__name__
    if is_tensorflow_error(error):
        return f"TensorFlow failed: {(text.splitlines() or [type(error).__name__])[0]}"
    return None


def format_score(score: float, kind: str) -> str:
    """A score as `Classifier.kind` has it: a probability in percent, any other number as it is."""
    return f"{score:.6g}" if kind == "raw" else f"{score:.2%}"
