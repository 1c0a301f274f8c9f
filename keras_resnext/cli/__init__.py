"""`keras-resnext VERB`: one command a verb. Heavy imports stay inside the commands, so that help is instant."""

# ruff: noqa: I001

import signal
import sys
import warnings

import typer

from .application import app, load_framework, message_of, tell

# Imported in the order of the commands in --help.
from . import check_command, training_commands, runs_command, evaluation_commands, explain_commands  # noqa: F401
from . import records_commands, predict_command, model_commands, export_commands, serving_commands, benchmark_commands  # noqa: F401

__all__ = ["app", "load_framework", "main", "run"]


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line. What a user can mend is one line on standard error and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: tell(f"warning: {message}")
            # `obj`, which a command finds in its context, is what was typed.
            sys.exit(app(args=arguments or ["--help"], prog_name="keras-resnext", standalone_mode=False, obj=arguments))
    except typer.Abort:  # made of KeyboardInterrupt
        tell("interrupted")
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if (message := message_of(error)) is None:
            raise
        tell(message)
        sys.exit(2)


def run() -> None:
    """The installed command: as `main`, and ended politely it takes away what it has written aside."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    main()
